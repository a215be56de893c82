"""What a run writes down for people: every figure as JSON lines and for TensorBoard, and pictures."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from linearsr.training.curves import METRICS_FILE

Record = dict[str, Any]
Report = Callable[[Record], None]
"""Called with every record that is also written down, e.g. to show progress."""


class RunLog:
    """Writes to one run folder, on one process only; after a resume it goes on behind `images`.

    Records have the key "images". Those of steps also have "grad_norm", those of validations metrics named
    "degradation/setting/metric", those of the divergence guard "event".
    """

    def __init__(self, folder: Path, images: int, report: Report | None = None) -> None:
        self.folder, self._report = folder, report or (lambda record: None)
        folder.mkdir(parents=True, exist_ok=True)
        self._open(images)

    def _open(self, images: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _forget_after(self.folder / METRICS_FILE, images)
        self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=images + 1)

    def write(self, record: Record) -> None:
        """Write a record down and report it; figures that are not finite become null."""
        finite = {key: _or_null(value) for key, value in record.items()}
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")
        for name, value in finite.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, record["images"])
        self._report(record)

    def rewind(self, images: int) -> None:
        """Forget what came after `images`: the run went back to there."""
        self.close()
        self._open(images)

    def close(self) -> None:
        """Finish what is buffered."""
        self._board.close()


def records(folder: Path) -> Iterator[Record]:
    """What a run has written so far; half a line, which a killed run may leave, is left out."""
    path = folder / METRICS_FILE
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)


def write_picture(folder: Path, images: int, name: str, columns: Mapping[str, Tensor]) -> None:
    """Write images (3, H, W) in [-1, 1], side by side in the order of `columns`, to a run's `samples/`."""
    place = folder / "samples" / f"{images:010d}"
    place.mkdir(parents=True, exist_ok=True)
    row = np.concatenate([_pixels(image) for image in columns.values()], axis=1)
    Image.fromarray(row).save(place / f"{name}.png")


def _forget_after(metrics: Path, images: int) -> None:
    """Drop the records of an interrupted run beyond its checkpoint: they will be written again."""
    if metrics.exists():
        kept = [f"{json.dumps(record)}\n" for record in records(metrics.parent) if record["images"] <= images]
        draft = metrics.with_suffix(".tmp")
        draft.write_text("".join(kept), encoding="utf-8")
        os.replace(draft, metrics)


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pixels(image: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    unit = ((image.float().cpu() + 1) / 2).clamp(0, 1)
    return (unit.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
