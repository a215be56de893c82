"""LinearSR: photorealistic image super-resolution with linear attention.

The names below are imported when they are first used, so that `import linearsr` costs nothing.
"""

from linearsr._version import __version__

TYPE_CHECKING = False
"""As in `typing`, which is not imported because that would delay the handling of Ctrl-C."""
if TYPE_CHECKING:
    from linearsr.pipeline import LinearSROutput, LinearSRPipeline

__all__ = ["LinearSROutput", "LinearSRPipeline", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("LinearSROutput", "LinearSRPipeline"):
        import linearsr.pipeline

        return getattr(linearsr.pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
