"""The one way in which figures are drawn: without global state or a window system, and written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr.runtime.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED = "#1f4e79", "#c0392b"
_DPI = 110


@contextmanager
def drawn(file: Path, width: float, height: float) -> Iterator["Figure"]:
    """Inside, an empty figure of `width` x `height` inches; at the end it is written to `file` as PNG.

    Needs matplotlib (the extra `train`). An existing file is replaced; a failure leaves none. OSError where the place
    cannot be written to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with whole_file(file) as draft:
        figure.savefig(draft, dpi=_DPI, format="png")
