"""Access to libvips, which decodes and encodes pictures by rows; the extra `large` installs it."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from linearsr.images.rows.row_file import RowFile
from linearsr.images.writing import write_error

REMEDY = "pip install 'linearsr[large]'"
_FORMATS = {1: "uchar", 2: "ushort"}
_SPACES = {(1, 1): "b-w", (3, 1): "srgb", (1, 2): "grey16", (3, 2): "rgb16"}


@cache
def vips() -> Any:
    """Return the module `pyvips`. Raises ImportError, with the remedy, if it is missing."""
    # otherwise decoders write their warnings directly to stderr
    os.environ.setdefault("VIPS_WARNING", "0")
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise ImportError(f"large pictures are read and written in strips by pyvips: {REMEDY}") from error
    # a cached operation could return the content of a file that has been replaced since
    pyvips.cache_set_max(0)
    return pyvips


def as_image(rows: RowFile) -> Any:
    """Open a row file of 8 or 16 bits, grey or RGB, with or without alpha, as a pyvips image."""
    size = rows.dtype.itemsize
    space = _SPACES[rows.channels - (rows.channels in {2, 4}), size]
    shape = rows.width, rows.height, rows.channels
    return vips().Image.rawload(os.fspath(rows.path), *shape, format=_FORMATS[size], interpretation=space)


def depth_of(image: Any) -> np.dtype[Any] | None:
    """Return the dtype of a pyvips image; None if it does not have 8 or 16 bits."""
    return next((np.dtype(f"u{size}") for size, name in _FORMATS.items() if name == image.format), None)


def save(
    image: Any, kind: str, path: Path, on_progress: Callable[[float], None] | None = None, **options: Any
) -> None:
    """Write a pyvips image by its method `kind` ("rawsave", "pngsave"); its lazy operations are computed now.

    This runs in another thread, so that Ctrl-C takes effect. `on_progress` gets fractions from 0 to 1.

    Raises:
        ImageError: the disk is full.
        OSError: libvips fails; its message is passed on.
    """
    if on_progress is not None:
        image.set_progress(True)
        image.signal_connect("eval", lambda _, state: on_progress(state.percent / 100))
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(getattr(image, kind), os.fspath(path), **options)
        try:
            work.result()
        except vips().Error as error:
            reason = " ".join(error.detail.split())
            if os.strerror(errno.ENOSPC) in reason:
                raise write_error(path, OSError(errno.ENOSPC, reason)) from error
            raise OSError(reason) from error
        except BaseException:
            image.set_kill(True)
            raise
