"""Draw pictures of signs, labels and pages for training, because photos have too little text.

    python research/text_photos.py OUT --photos PHOTOS --words docs/*.md --fonts '/usr/share/fonts/**/*.ttf'

Each picture has lines of random words, some with Chinese characters, in one font on a plain background or a
blurred photo, with uneven light and seen at a slant. It is drawn at twice its size. Its licence is that of
the photos.
"""

import argparse
import glob
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from linearsr.images.files import is_image_name

SIDE = 512
CHINESE = ("wqy", "noto-cjk")


def ground(rng: np.random.Generator, photos: list[Path], size: int) -> tuple[Image.Image, tuple[int, ...]]:
    """Return a background, and a colour for the text that differs from it in lightness."""
    if photos and rng.random() < 0.25:
        with Image.open(photos[rng.integers(len(photos))]) as photo:
            image = photo.convert("RGB").resize((size, size)).filter(ImageFilter.GaussianBlur(size / 40))
        dark = np.asarray(image).mean() < 110
    else:
        dark = rng.random() < 0.45
        level, spread = (60, 50) if dark else (205, 45)
        colour = np.clip(rng.normal(level, spread, 3), 0, 255)
        grey = rng.random() * (colour.mean() - colour)  # rather the colours of paper and walls than of paint
        image = Image.new("RGB", (size, size), tuple(int(c) for c in colour + grey))
    level = 225 if dark else 35
    return image, tuple(int(c) for c in np.clip(rng.normal(level, 30, 3), 0, 255))


def lit(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Apply light that falls off to one side."""
    ramp = np.linspace(rng.uniform(0.7, 1), rng.uniform(0.85, 1.08), image.width)
    light = np.add.outer(rng.permutation([ramp, ramp[::-1]])[0], ramp) / 2
    pixels = np.asarray(image, dtype=np.float32) * light[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def slanted(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Slant the picture. The corners of the quadrilateral lie inside it, so that no border shows."""
    size, reach = image.width, 0.1 * image.width
    corners = rng.uniform(0, reach, (4, 2)) * [[1, 1], [1, -1], [-1, -1], [-1, 1]]
    corners += np.array([[0, 0], [0, size], [size, size], [size, 0]])
    return image.transform((size, size), Image.Transform.QUAD, corners.ravel(), Image.Resampling.BICUBIC)


def draw(rng: np.random.Generator, words: list[str], fonts: list[str], photos: list[Path]) -> Image.Image:
    size = 2 * SIDE
    image, ink = ground(rng, photos, size)
    pen, name = ImageDraw.Draw(image), fonts[rng.integers(len(fonts))]
    height = int(2 * np.exp(rng.uniform(np.log(16), np.log(120))))
    font, top = ImageFont.truetype(name, height), int(rng.integers(0, height))
    if rng.random() < 0.3:
        inset = int(rng.integers(size // 40, size // 8))
        pen.rectangle((inset, inset, size - inset, size - inset), outline=ink, width=max(2, height // 8))
    while top < size:
        line = ""
        while pen.textlength(line, font) < size:
            line += words[rng.integers(len(words))] + " "
            if any(mark in name for mark in CHINESE) and rng.random() < 0.7:
                line += "".join(chr(c) for c in rng.integers(0x4E00, 0x8000, rng.integers(1, 6)))
        line = line.upper() if rng.random() < 0.25 else line
        pen.text((rng.integers(0, height), top), line, fill=ink, font=font)
        top += int(height * rng.uniform(1.1, 2.2))
    return lit(rng, slanted(rng, image)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of photos for grounds")
    parser.add_argument("--words", type=Path, nargs="+", required=True, help="texts to take words from")
    parser.add_argument("--fonts", required=True, help="pattern of font files")
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    text = " ".join(file.read_text(encoding="utf-8") for file in args.words)
    words = re.findall(r"[A-Za-z][a-z]+|\d+", text)
    fonts = sorted(f for f in glob.glob(args.fonts, recursive=True) if "Math" not in f)
    photos = sorted(p for folder in args.photos for p in folder.iterdir() if is_image_name(p))
    args.output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    for i in range(args.count):
        draw(rng, words, fonts, photos).save(args.output / f"text-{i:04d}.png")


if __name__ == "__main__":
    main()
