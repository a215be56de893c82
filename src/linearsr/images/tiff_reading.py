"""Reading of TIFF: choice of the full-size page, and pixels that Pillow cannot read, by tifffile."""

import logging
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from linearsr.images.files import CAMERA_RAW
from linearsr.images.picture import FloatArray, ImageError
from linearsr.images.samples import ForeignPixels, Samples, checked_float, split_alpha, unmultiplied

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _CHILDREN = 254, 255, 256, 257, 262, 330
_SENSOR = frozenset({32803, 34892})
_MOST_PAGES = 100
_NAMES = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"}
_WHITE_IS_ZERO, _RGB, _CMYK, _CIELAB, _ICCLAB, _FLOAT_PREDICTOR = 0, 2, 5, 8, 9, 3
_COLOURS = {0: 1, 1: 1, _RGB: 3, _CIELAB: 3, _ICCLAB: 3}
_WEBP = 50001
"""A compression that Pillow takes for one of its own, but cannot decode."""
_PREMULTIPLIED, _ALPHA = 1, (1, 2)
_MOST_CHANNELS, _LONGEST_FILL = 32, 16
_D50 = np.array([0.9642, 1, 0.8249], np.float32)
_TO_LINEAR_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ],
    np.float32,
)


class ForeignTiff(TiffImageFile):
    """A TIFF with pixels unknown to Pillow: only its size, tags and notes are read."""

    def _setup(self) -> None:
        tags: Any = self.tag_v2
        self._size = (int(tags[_WIDTH]), int(tags[_HEIGHT]))
        if _PHOTOMETRIC not in tags:
            raise SyntaxError("most of its tags are missing")
        self._mode, self.tile = "F", []
        for tag, key in ((34675, "icc_profile"), (700, "xmp")):
            if block := tags.get(tag):
                self.info[key] = block
        if tags.get(296, 2) in {2, 3} and 282 in tags and 283 in tags:
            unit = 2.54 if tags.get(296) == 3 else 1
            self.info["dpi"] = (float(tags[282]) * unit, float(tags[283]) * unit)


def full_size_page(name: str, file: BinaryIO) -> int | None:
    """Return the offset of the full-size picture's directory if the first page is a reduced copy, else None.

    Raises ImageError if the file holds raw sensor data of a camera, not a picture.
    """
    try:
        pages = list(_pages(file))
        is_raw = any(tags.get(_PHOTOMETRIC) in _SENSOR for _, tags in pages)
        first_is_full = not pages or not _is_reduced(pages[0][1])
        full = max(pages, key=lambda page: (not _is_reduced(page[1]), _area(page[1])), default=(0, None))[0]
    except Exception:  # too broken to tell
        return None
    if is_raw:
        raise ImageError(name, CAMERA_RAW)
    return None if first_is_full or full == pages[0][0] else full


def with_first_page(data: bytes, offset: int) -> bytes:
    """Return a TIFF file changed so that its first directory is the one at `offset`."""
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    size = 8 if b"+" in data[2:4] else 4
    return data[:size] + offset.to_bytes(size, order) + data[2 * size :]


def _pages(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """Yield (offset, tags) of the pages and of their child directories."""
    file.seek(0)
    head = file.read(8)
    if b"+" in head[2:4]:
        head += file.read(8)
    todo, seen = [ImageFileDirectory_v2(head).next], set[int]()
    while todo and len(seen) < _MOST_PAGES:
        at = todo.pop(0)
        if not at or at in seen:
            continue
        seen.add(at)
        tags: Any = ImageFileDirectory_v2(head)
        file.seek(at)
        try:
            tags.load(file)
        except Exception:  # a broken page is no candidate
            continue
        yield at, tags
        children = tags.get(_CHILDREN, ())
        todo += [*(children if isinstance(children, tuple) else (children,)), tags.next]


def _is_reduced(tags: Any) -> bool:
    """Return whether the tags mark a page as a smaller copy or a mask."""
    return bool(int(tags.get(_SUBFILE, 0) or 0) & 5) or tags.get(_OLD_SUBFILE) == 2


def _area(tags: Any) -> int:
    return int(tags.get(_WIDTH, 0)) * int(tags.get(_HEIGHT, 0))


def is_foreign(im: Image.Image) -> TypeGuard[TiffImageFile]:
    """Return whether an opened image is a TIFF with pixels that Pillow does not know or misreads."""
    if isinstance(im, ForeignTiff) or not isinstance(im, TiffImageFile):
        return isinstance(im, ForeignTiff)
    tags: Any = im.tag_v2
    if tags.get(259) == _WEBP or (im.mode == "L" and tags.get(339) in {2, (2,)}):
        return True
    samples, photometric = tags.get(277, 1), tags.get(262)
    # Pillow reads such separate planes as noise, or shifted, without an error
    planes = (
        tags.get(284) == 2
        and samples > 1
        and photometric != _CMYK
        and ((samples, photometric) != (3, _RGB) or depth_of(im) > 8)
    )
    return planes or (im.mode == "F" and (tags.get(317) == _FLOAT_PREDICTOR or photometric == _WHITE_IS_ZERO))


def kind_of(im: TiffImageFile) -> str:
    """Describe the pixels in words, such as "32-bit float RGB of 3 channels in separate planes"."""
    tags: Any = im.tag_v2
    forms = tags.get(339, 1)
    form = {2: " signed", 3: " float"}.get(forms[0] if isinstance(forms, tuple) else forms, "")
    colour = _NAMES.get(tags.get(262, -1), "unknown")
    planes = " in separate planes" if tags.get(284) == 2 else ""
    return f"{depth_of(im)}-bit{form} {colour} of {tags.get(277, 1)} channels{planes}"


def foreign_samples(im: TiffImageFile, level: int | None = None) -> Samples:
    """Read grey, RGB or Lab of up to 16 bits or float, with or without alpha; other channels are left out.

    `level`: value of the bytes that a truncated file lacks; None: it must be complete. Raises ForeignPixels
    for other kinds of pixels, or if the extra `large` is not installed.
    """
    kind = f"has pixels of {kind_of(im)}"
    try:
        from tifffile import TiffFile
    except ImportError as error:
        remedy = "pip install 'linearsr[large]' reads it, or save it as RGB of 8 or 16 bits"
        raise ForeignPixels(f"{kind}; {remedy}") from error
    # tifffile would report everything unusual on stderr
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    assert im.fp is not None
    im.fp.seek(0)
    data = im.fp.read()
    if level is not None:
        data = data.ljust(min(_end_of_pixels(im), _LONGEST_FILL * len(data)), bytes([level]))
    with TiffFile(BytesIO(data)) as file:
        page: Any = file.pages[0]
        colours = _COLOURS.get(page.photometric, _MOST_CHANNELS)
        if not colours <= page.samplesperpixel <= _MOST_CHANNELS or page.imagedepth != 1:
            raise ForeignPixels(f"{kind}; save it as RGB of 8 or 16 bits")
        array = page.asarray(maxworkers=1)
        array = array[..., None] if array.ndim == 2 else np.moveaxis(array, page.axes.index("S"), 2)
        photometric, depth, alphas = page.photometric, page.bitspersample, page.extrasamples[:1]
    is_float = np.issubdtype(array.dtype, np.floating)
    if not is_float and (array.dtype.kind != "u" or depth > 16):
        raise ForeignPixels(f"{kind}; save it as RGB of 8 or 16 bits")
    has_alpha = bool(alphas) and alphas[0] in _ALPHA
    samples = array[..., : colours + has_alpha]
    unit = checked_float(samples if is_float else samples / np.float32(2**depth - 1))
    if photometric in {_CIELAB, _ICCLAB}:
        if is_float or depth not in {8, 16}:
            raise ForeignPixels(f"{kind}; save it as RGB of 8 or 16 bits")
        unit[..., :3] = _lab_to_srgb(samples[..., :3], is_signed=photometric == _CIELAB)
    elif photometric == _WHITE_IS_ZERO:
        unit[..., :1] = 1 - unit[..., :1]
    if has_alpha and alphas[0] == _PREMULTIPLIED:
        unit = unmultiplied(unit)
    return split_alpha(unit, 8 if depth <= 8 else 16, has_alpha, managed=colours == 3 and photometric != _RGB)


def depth_of(im: TiffImageFile) -> int:
    """Return the bits of the deepest channel."""
    tags: Any = im.tag_v2
    bits = tags.get(258, 1)
    return int(max(bits) if isinstance(bits, tuple) else bits)


def _end_of_pixels(im: TiffImageFile) -> int:
    tags: Any = im.tag_v2
    places = zip(
        *(tags.get(strips, tags.get(tiles, ())) for strips, tiles in ((273, 324), (279, 325))), strict=False
    )
    return max(map(sum, places), default=0)


def _lab_to_srgb(lab: NDArray[Any], is_signed: bool) -> FloatArray:
    """Convert Lab (H, W, 3), 8 or 16 bits, D50, to sRGB in [0, 1]; a and b are signed (CIE) or not (ICC)."""
    size = lab.dtype.itemsize
    white = 65280 if size == 2 and not is_signed else np.iinfo(lab.dtype).max
    lightness = lab[..., :1].astype(np.float32) / np.float32(white)
    steps = lab[..., 1:].astype(lab.dtype.str.replace("u", "i") if is_signed else np.int32)
    a, b = np.split(
        steps.astype(np.float32) / np.float32(256 ** (size - 1)) - (0 if is_signed else 128), 2, axis=2
    )
    y = (lightness * 100 + 16) / 116
    f = np.concatenate([y + a / 500, y, y - b / 200], axis=2)
    linear = (np.where(f > 6 / 29, f**3, (f - 4 / 29) * (108 / 841)) * _D50) @ _TO_LINEAR_SRGB.T
    curved = np.where(linear > 0.0031308, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055, 12.92 * linear)
    clipped: FloatArray = np.clip(curved, 0, 1).astype(np.float32)
    return clipped
