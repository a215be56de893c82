"""`Picture`, an image in memory with its metadata, and `ImageError`, raised if it cannot be handled."""

import sys
import warnings
from dataclasses import dataclass, field, fields
from os import PathLike, fspath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class ImageError(ValueError):
    """An error about an image, told in one line: which image, what is wrong with it and what to do."""

    def __init__(self, source: str | PathLike[str], problem: str) -> None:
        self._told = fspath(source), problem
        line = f"{fspath(source)}: {' '.join(problem.split())}"
        # A file name may hold line breaks or undecodable bytes; the message must still print as one line.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Pickle the arguments of the constructor, so that the error can be passed between processes."""
        return type(self), self._told


def warn_of(source: str | PathLike[str], problem: str) -> None:
    """Warn about an image; the warning names the line outside this package that called into it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("linearsr."):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{fspath(source)}: {problem}", stacklevel=level)


@dataclass(frozen=True, eq=False, kw_only=True)
class Notes:
    """The metadata of a picture as raw blocks, correct for the upright picture; None or () if there is none.

    `icc_profile`: the colour profile of the channels; `exif`: an EXIF block; `dpi`: pixels per inch (x, y);
    `xmp`: a packet in UTF-8; `iptc`: IPTC-IIM records; `png_texts`: (kind, data) of text chunks, which only
    PNG can hold; `colour_chunks`: (kind, data) of the PNG chunks that define the colours (such as cICP, gAMA,
    cHRM and sRGB), which are written to PNG unchanged and to other formats as an ICC profile.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    png_texts: tuple[tuple[bytes, bytes], ...] = ()
    colour_chunks: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, eq=False)
class Picture(Notes):
    """An upright still image of H rows and W columns, with its metadata.

    `colour`: float32 (H, W, 3) RGB or (H, W, 1) grey, in [0, 1], in the colour space of `icc_profile` or
    `colour_chunks` (sRGB without both).
    `alpha`: float32 (H, W) in [0, 1], not premultiplied, or None if the image is opaque.
    `bits`: bits per channel of the file it came from and, in PNG and TIFF, of the file it is written to.
    `tags`: words for what it shows, written as keywords. Raises ValueError if an array has another type.
    """

    colour: FloatArray
    alpha: FloatArray | None = None
    bits: Literal[8, 16] = 8
    tags: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        shape, dtype = self.colour.shape, self.colour.dtype
        if len(shape) != 3 or shape[2] not in {1, 3} or 0 in shape or dtype != np.float32:
            raise ValueError(f"colour must be float32 (H, W, 3) or (H, W, 1), not {dtype} {shape}")
        alpha = self.alpha
        if alpha is not None and (alpha.shape != shape[:2] or alpha.dtype != np.float32):
            raise ValueError(
                f"alpha must be float32 {shape[:2]} like colour, not {alpha.dtype} {alpha.shape}"
            )
        if self.bits not in {8, 16}:
            raise ValueError(f"bits must be 8 or 16, not {self.bits}")

    @property
    def size(self) -> tuple[int, int]:
        """The (width, height) in pixels, in Pillow's order."""
        return self.colour.shape[1], self.colour.shape[0]

    @property
    def notes(self) -> Notes:
        """The metadata alone, without the pixels."""
        return Notes(**{note.name: getattr(self, note.name) for note in fields(Notes)})

    def quantised(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return colour and alpha as one array (H, W, 1 to 4) of `bits`-bit integers, rounded and clamped."""
        return quantise(self.colour, self.alpha, self.bits)


def quantise(
    colour: FloatArray, alpha: FloatArray | None, bits: Literal[8, 16]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Round (H, W, C) colour and (H, W) alpha in [0, 1] to integers (H, W, C or C + 1) of `bits` bits.

    Raises ValueError if a sample is NaN or infinite.
    """
    samples = colour if alpha is None else np.concatenate([colour, alpha[..., None]], axis=-1)
    if not np.isfinite(samples).all():
        raise ValueError("has pixels that are NaN or infinite; compute it again")
    rounded: FloatArray = np.rint(np.clip(samples, 0, 1) * np.float32(2**bits - 1))
    return rounded.astype(np.uint8) if bits == 8 else rounded.astype(np.uint16)
