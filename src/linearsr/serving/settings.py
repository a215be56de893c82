"""What a server is told when it starts."""

from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class ServeSettings:
    """The model, where it works, and what it accepts."""

    data: Path
    """Folder of the jobs: their table, inputs and results."""
    model: str | None = None
    """Folder or hub id; None: the model built in."""
    devices: tuple[str, ...] = ("auto",)
    """A worker process for each."""
    dtype: str = "auto"
    api_keys: frozenset[str] = frozenset()
    """Where there are any, everything under /v1 needs one of them."""
    cors_origins: tuple[str, ...] = ()
    """Origins of other sites' pages that may use this server."""
    max_batch: int = 1
    """Jobs of one size and the same options that a worker does in one go."""
    max_queue: int = 32
    """Jobs that may wait; more are refused."""
    max_bytes: int = 32 * MIB
    """Of a request's body."""
    max_pixels: int = 16_000_000
    """Of an image that is sent; a result may have 16 times as many."""
    max_steps: int = 100
    max_seconds: float = 600
    """That a job may compute."""
    upload_seconds: float = 60
    """That a request's body may take to arrive."""
    answer_seconds: float = 5
    """How long an upscale request waits for its image where it says nothing about waiting."""
    keep_seconds: float = 3600
    """How long a finished job and its result are kept."""

    @property
    def max_output_pixels(self) -> int:
        """Of a result."""
        return 16 * self.max_pixels
