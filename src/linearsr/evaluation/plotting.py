"""Drawing of all figures: without global state or a window system, and written whole or not at all."""

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
    """Give the block an empty figure of `width` x `height` inches, and write it to `file` as PNG at the end.

    Needs matplotlib (the extra `train`). An existing file is replaced; an error in the block leaves it as it
    was. Raises OSError when the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with whole_file(file) as draft:
        figure.savefig(draft, dpi=_DPI, format="png")
