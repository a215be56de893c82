"""Feed the image reader bytes from a coverage-guided fuzzer. It must return a picture or raise ImageError.

    pip install atheris tifffile imagecodecs pillow-heif pillow-jxl-plugin
    python benchmarks/fuzz_images.py --runs 20000

Begins with small files of every format that Pillow writes. An input that breaks the rule is kept as
`crash-*`, with a traceback.
"""

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import atheris
import numpy as np
import tifffile
from pillow_heif import register_heif_opener
from rich.console import Console

with atheris.instrument_imports(include=["PIL", "linearsr.images"]):
    import pillow_jxl  # noqa: F401
    from PIL import Image

    from linearsr.images.picture import ImageError
    from linearsr.images.reading import read_image

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "TIFF",
    "GIF",
    "BMP",
    "PPM",
    "TGA",
    "ICO",
    "JPEG2000",
    "PCX",
    "SGI",
    "DDS",
    "AVIF",
    "HEIF",
    "JXL",
)
MODES = ("RGB", "RGBA", "L", "P", "I;16", "CMYK", "1")
MAX_PIXELS = 1_000_000

outcomes: Counter[str] = Counter()


def read(data: bytes) -> None:
    """Read bytes as an upload is read, within the limit of pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = read_image(data, max_pixels=MAX_PIXELS)
    except ImageError as error:
        line = str(error)
        if "\n" in line or "Traceback" in line:
            raise AssertionError("not one line") from error
        outcomes["refused with one line"] += 1
    else:
        assert 0 < picture.size[0] * picture.size[1] <= MAX_PIXELS
        outcomes["read"] += 1
    if sum(outcomes.values()) % 1000 == 0:
        Console().print(f"{sum(outcomes.values())} inputs: {dict(outcomes)}", highlight=False)


def write_corpus(folder: Path) -> None:
    """Write a small file of each format and mode that go together, and TIFF files that Pillow cannot read."""
    register_heif_opener()
    colours = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    for file_format in FORMATS:
        for mode in MODES:
            path = folder / f"{file_format}-{mode.replace(';', '')}"
            try:
                Image.fromarray(colours).convert("L" if mode == "I;16" else mode).convert(mode).save(
                    path, file_format
                )
            except (OSError, ValueError, KeyError, NotImplementedError):
                path.unlink(missing_ok=True)

    for dtype in (np.uint16, np.float16, np.float32):
        for planar in ("contig", "separate"):
            array = (colours / 255).astype(dtype) if dtype != np.uint16 else colours.astype(dtype) * 257
            array = array if planar == "contig" else np.ascontiguousarray(np.moveaxis(array, 2, 0))
            path = folder / f"TIFF-{np.dtype(dtype).name}-{planar}"
            tifffile.imwrite(path, array, photometric="rgb", planarconfig=planar, compression="zlib")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder))
        options = [
            f"-runs={asked.runs}",
            f"-seed={asked.seed}",
            "-max_len=4096",
            "-timeout=30",
            "-rss_limit_mb=4096",
        ]
        atheris.Setup([sys.argv[0], *options, folder], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
