"""Twelve pictures that are no photos, and shapes of alpha, for the tests and `benchmarks/graphics.py`.

Each comes as (LR, HR), uint8 (h, w, 3) and (4 h, 4 w, 3): drawn large, and reduced as such pictures really are. Alpha
has no channels, and hard edges in LR.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
SIZE = 416, 320
_WORDS = (
    "Sphinx of black quartz, judge my vow. The five boxing wizards jump quickly; 0123456789 (1% of $42). "
)


def graphics() -> dict[str, tuple[Pixels, Pixels]]:
    """All of them by name."""
    pictures = {
        "sprites": (_sprites(4), "nearest", False),
        "tiles": (_sprites(8), "box", False),
        "window, light": (_window("#f5f5f5", "#202020", "#2f6fed"), "box", False),
        "window, dark": (_window("#1e1f24", "#e0e0e0", "#c4531c"), "bicubic", True),
        "bar chart": (_bars(), "bicubic", False),
        "line chart": (_lines(), "box", True),
        "text, small": (_text(32), "bicubic", False),
        "text, middle": (_text(48), "box", True),
        "text, large": (_text(96), "box", False),
        "line art": (_line_art(), "bicubic", False),
        "cartoon": (_cartoon(), "box", True),
        "dithered scan": (_dithered(), "nearest", False),
    }
    return {name: (_reduced(*made), np.asarray(made[0])) for name, made in pictures.items()}


def alphas() -> dict[str, tuple[Pixels, Pixels]]:
    """By name: soft edges in HR, which LR has lost."""
    large = {name: Image.new("L", (1024, 1024)) for name in ("disc", "glyph")}
    ImageDraw.Draw(large["disc"]).ellipse((152, 144, 872, 864), fill=255)
    ImageDraw.Draw(large["glyph"]).text((60, 100), "Rg", fill=255, font=_font(680))
    made = {}
    for name, shape in large.items():
        hr, lr = (shape.resize((side, side), Image.Resampling.BOX) for side in (256, 64))
        made[name] = (np.where(np.asarray(lr) > 127, 255, 0).astype(np.uint8), np.asarray(hr))
    return made


def _reduced(hr: Image.Image, how: str, as_jpeg: bool) -> Pixels:
    lr = hr.resize((hr.width // 4, hr.height // 4), Image.Resampling[how.upper()])
    if as_jpeg:
        file = io.BytesIO()
        lr.save(file, "JPEG", quality=75)
        lr = Image.open(file)
    return np.asarray(lr)


def _antialiased(
    draw: Callable[[ImageDraw.ImageDraw, Callable[..., list[int]]], None], paper: str
) -> Image.Image:
    """What `draw` draws, with soft edges; its second argument brings coordinates to the scale of drawing."""
    large = Image.new("RGB", (3 * SIZE[0], 3 * SIZE[1]), paper)
    draw(ImageDraw.Draw(large), lambda *values: [round(3 * value) for value in values])
    return large.resize(SIZE, Image.Resampling.BOX)


def _sprites(pixel: int) -> Image.Image:
    """Symmetric figures of 8x8 pixels in 16 colours, each pixel a square of that side."""
    random = np.random.default_rng(pixel)
    palette = random.integers(0, 256, (16, 3), dtype=np.uint8)
    rows, columns = SIZE[1] // pixel, SIZE[0] // pixel
    picture = np.tile(palette[0], (rows, columns, 1))
    for top in range(1, rows - 8, 9):
        for left in range(1, columns - 8, 9):
            half = random.integers(0, 4, (8, 4)) * (random.random((8, 4)) < 0.7)
            colours = palette[np.r_[0, random.integers(1, 16, 3)]]
            picture[top : top + 8, left : left + 8] = colours[np.hstack([half, half[:, ::-1]])]
    return Image.fromarray(picture.repeat(pixel, 0).repeat(pixel, 1))


def _window(paper: str, ink: str, accent: str) -> Image.Image:
    def draw(on: ImageDraw.ImageDraw, at: Callable[..., list[int]]) -> None:
        on.rectangle(at(0, 0, 416, 36), fill=accent)
        on.text(at(12, 4), "Settings", fill="white", font=_font(3 * 24))
        for i in range(3):
            on.ellipse(at(330 + 28 * i, 10, 346 + 28 * i, 26), fill="white")
        for i, label in enumerate(("Name", "Colour", "Scale", "Format")):
            top = 56 + 50 * i
            on.text(at(16, top), label, fill=ink, font=_font(3 * 28))
            on.rounded_rectangle(at(150, top, 390, top + 36), 18, outline=ink, width=6)
            on.text(at(160, top + 4), f"value {i}", fill=ink, font=_font(3 * 24))
        on.rounded_rectangle(at(250, 264, 390, 308), 30, fill=accent)
        on.text(at(280, 268), "Save", fill="white", font=_font(3 * 28))
        on.line(at(20, 290, 34, 304, 60, 272), fill=accent, width=15)

    return _antialiased(draw, paper)


def _bars() -> Image.Image:
    def draw(on: ImageDraw.ImageDraw, at: Callable[..., list[int]]) -> None:
        for i in range(5):
            on.line(at(50, 40 + 50 * i, 400, 40 + 50 * i), fill="#cccccc", width=6)
            on.text(at(6, 26 + 50 * i), str(100 - 20 * i), fill="black", font=_font(3 * 22))
        for i, colour in enumerate(("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd")):
            on.rectangle(at(70 + 66 * i, 70 + 31 * (i * 3 % 5), 110 + 66 * i, 280), fill=colour)
            on.text(at(76 + 66 * i, 284), "ABCDE"[i], fill="black", font=_font(3 * 26))
        on.line(at(50, 20, 50, 280, 400, 280), fill="black", width=9)

    return _antialiased(draw, "white")


def _lines() -> Image.Image:
    def draw(on: ImageDraw.ImageDraw, at: Callable[..., list[int]]) -> None:
        on.rectangle(at(40, 16, 400, 280), outline="black", width=9)
        x = np.linspace(44, 396, 60)
        for i, colour in enumerate(("#0072b2", "#d55e00", "#009e73")):
            y = 150 + 90 * np.sin(x / (30 + 18 * i) + i) * np.exp(-x / 500)
            on.line(at(*np.column_stack([x, y]).ravel()), fill=colour, width=12)
        for i in range(6):
            on.text(at(44 + 66 * i, 286), f"{i}.5", fill="black", font=_font(3 * 22))

    return _antialiased(draw, "white")


def _text(size: int) -> Image.Image:
    def draw(on: ImageDraw.ImageDraw, at: Callable[..., list[int]]) -> None:
        start = 0
        for top in range(8, SIZE[1] - size, round(1.2 * size)):
            line = (_WORDS * 3)[start : start + 2 * SIZE[0] // size]
            on.text(at(10, top), line, fill="#101010", font=_font(3 * size))
            start += len(line)

    return _antialiased(draw, "#fffdf5")


def _line_art() -> Image.Image:
    def draw(on: ImageDraw.ImageDraw, at: Callable[..., list[int]]) -> None:
        angle = np.linspace(0, 2 * np.pi, 200)
        for i in range(6):
            radius = 130 + 12 * np.sin((3 + i) * angle) - 20 * i
            x, y = 170 + radius * np.cos(angle), 160 + radius * np.sin(angle)
            on.line(at(*np.column_stack([x, y]).ravel()), fill="black", width=9)
        for i in range(14):
            on.line(at(310, 20 + 20 * i, 405, 60 + 16 * i), fill="black", width=6)

    return _antialiased(draw, "white")


def _cartoon() -> Image.Image:
    def draw(on: ImageDraw.ImageDraw, at: Callable[..., list[int]]) -> None:
        on.rectangle(at(0, 220, 416, 320), fill="#7cc36a")
        on.ellipse(at(310, 20, 390, 100), fill="#ffd94a", outline="black", width=12)
        on.ellipse(at(90, 60, 250, 220), fill="#f2b38b", outline="black", width=15)
        for x in (135, 195):
            on.ellipse(at(x - 14, 110, x + 14, 146), fill="white", outline="black", width=9)
            on.ellipse(at(x - 5, 122, x + 5, 138), fill="black")
        on.arc(at(130, 130, 210, 195), 20, 160, fill="black", width=15)
        on.polygon(at(70, 310, 170, 218, 270, 310), fill="#d8433a", outline="black", width=15)

    return _antialiased(draw, "#8fd3f4")


def _dithered() -> Image.Image:
    """A shaded page in dots of one bit, and words on it."""
    height, width = SIZE[1] // 4, SIZE[0] // 4
    y, x = np.mgrid[:height, :width]
    shade = 128 + 90 * np.sin(x / 17) * np.cos(y / 13)
    page = Image.fromarray(shade.astype(np.uint8))
    ImageDraw.Draw(page).text((6, 4), "No. 17", fill=0, font=_font(20))
    return page.convert("1").convert("RGB").resize(SIZE, Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The one that Pillow has inside."""
    return ImageFont.load_default(size)
