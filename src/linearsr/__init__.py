"""LinearSR: photorealistic image super-resolution with linear attention.

The names below are imported when they are first used, so that `import linearsr` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from linearsr._version import __version__

if TYPE_CHECKING:
    from linearsr.pipeline import LinearSROutput, LinearSRPipeline

__all__ = ["LinearSROutput", "LinearSRPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("LinearSROutput", "LinearSRPipeline"):
        import linearsr.pipeline

        return getattr(linearsr.pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
