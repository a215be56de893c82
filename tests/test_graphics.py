"""Pictures that are no photos: they are told from photos, and come out clean; their alpha too."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from graphics import alphas, graphics
from linearsr import LinearSRPipeline
from linearsr.images import graphics as module
from linearsr.images.convert import lr_tensor, picture_from_array
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.graphics import likeness_to_drawing, lost, squares_where_lost
from linearsr.images.photos import read_rgb
from linearsr.images.picture import Picture
from linearsr.images.reading import read_image
from linearsr.images.writing import write_image
from linearsr.jobs.large import upscale_file
from strips import in_strips
from test_rrdb import with_trunk

PHOTOS = sorted((Path(__file__).parents[1] / "examples").rglob("*.jpg"))
SPRITES = np.ascontiguousarray(graphics()["sprites"][0][:36, :44])


@pytest.fixture(scope="module")
def default() -> LinearSRPipeline:
    return LinearSRPipeline.from_pretrained()


def likeness(pixels: np.ndarray) -> float:
    lr = lr_tensor(picture_from_array(np.ascontiguousarray(pixels)))
    return likeness_to_drawing(lambda top, bottom: lr[:, :, top:bottom], pixels.shape[:2])


def squares(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(4, axis=0).repeat(4, axis=1)


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.asarray(a, dtype=float) - b) ** 2)))


def lanczos(lr: np.ndarray) -> np.ndarray:
    return np.asarray(
        Image.fromarray(lr).resize((4 * lr.shape[1], 4 * lr.shape[0]), Image.Resampling.LANCZOS)
    )


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_drawings_are_told() -> None:
    found = {name: round(likeness(lr), 1) for name, (lr, _) in graphics().items()}
    # JPEG hides flat colours; what is drawn boldly comes out well all the same
    hidden = {"window, dark": 0.0, "cartoon": 0.0}
    assert found.pop("line chart") >= 0.7
    assert found == {name: hidden.get(name, 1.0) for name in found}


@pytest.mark.parametrize("preset", PRESETS)
def test_degraded_photos_are_photos(preset: str) -> None:
    random = np.random.default_rng(0)
    for path in PHOTOS[::3]:
        hr = read_rgb(path)
        hr = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4]
        lr = np.rint(255 * degrade(hr.astype(np.float32) / 255, PRESETS[preset], random)).astype(np.uint8)
        assert likeness(lr) == 0, path


@pytest.mark.parametrize("quality", [20, 50, 80])
def test_compressed_photos_are_photos(quality: int) -> None:
    assert [likeness(as_jpeg(read_rgb(path)[::2, ::2], quality)) for path in PHOTOS] == [0] * len(PHOTOS)


def test_what_says_nothing_counts_as_a_photo() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, 60).astype(np.uint8)[:, None, None].repeat(60, 1).repeat(3, 2)
    for pixels in (noise, ramp, np.full((60, 60, 3), 255, np.uint8), noise[:2, :2], noise[:1, :1] * 0):
        assert likeness(pixels) == 0


def test_it_is_the_same_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    chart = graphics()["line chart"][0]
    whole = likeness(chart)
    assert 0 < whole < 1
    for rows in (1, 2, 7):
        monkeypatch.setattr(module, "_STRIP_PIXELS", rows * chart.shape[1])
        assert likeness(chart) == whole


def test_squares_come_where_a_picture_is_lost() -> None:
    lr = torch.linspace(0.4, 0.6, 64).view(1, 1, 8, 8).repeat(1, 3, 1, 1)
    own = lr.repeat_interleave(4, 2).repeat_interleave(4, 3)
    near, far, between = (own + off / 255 for off in (19, 31, 25))
    assert torch.equal(squares_where_lost(near, lr, 1.0), near)
    assert torch.equal(squares_where_lost(far, lr, 1.0), own)
    torch.testing.assert_close(lost(between, lr), torch.full((1, 1, 8, 8), 0.5), atol=1e-4, rtol=0)
    torch.testing.assert_close(squares_where_lost(far, lr, 0.25), torch.lerp(far, own, 0.25))
    detail = torch.rand(1, 3, 32, 32) * 0.9 + 0.05
    assert torch.equal(squares_where_lost(detail, F.avg_pool2d(detail, 4), 1.0), detail)


def test_what_is_flat_in_a_drawing_stays_flat() -> None:
    lr = torch.rand(1, 3, 8, 8)
    lr[:, :, 2:5, 2:5] = 0.5
    large = lr.repeat_interleave(4, 2).repeat_interleave(4, 3)
    made = squares_where_lost(large + 0.01, lr, 1.0)
    assert (made[:, :, 12:16, 12:16] == 0.5).all()
    assert torch.equal(made[:, :, :8], large[:, :, :8] + 0.01)


@pytest.mark.parametrize("ink", [0, 1], ids=["white on black", "black on white"])
@pytest.mark.parametrize(("across", "down"), [(4, 4), (5, 5), (8, 4), (8, 1)], ids=str)
def test_sparse_dots_and_lines_keep_their_brightness(
    default: LinearSRPipeline, ink: int, across: int, down: int
) -> None:
    lr = np.full((64, 64, 3), ink, np.float32)
    lr[::down, ::across] = 1 - ink
    made = default.upscale(Picture(lr)).colour
    off = made.reshape(2, 128, 2, 128, 3).mean((1, 3)) - lr.reshape(2, 32, 2, 32, 3).mean((1, 3))
    assert np.abs(off).max() < 1 / 255


def test_a_drawing_is_the_mean_with_squares_where_that_is_lost() -> None:
    pipe = with_trunk(fidelity=0.25)
    lr = lr_tensor(picture_from_array(SPRITES))
    with torch.inference_mode():
        mean = (pipe.lr_stem(lr).prediction + 1) / 2
    expected = squares_where_lost(mean, (lr + 1) / 2, 1.0)
    assert (expected - mean).abs().max() > 0.2
    made = pipe(SPRITES, output_type="pt").images[0]
    torch.testing.assert_close(made, expected[0].clamp(0, 1), atol=1e-5, rtol=0)
    asked = pipe(SPRITES, fidelity=1.0, output_type="pt").images[0]
    torch.testing.assert_close(asked, mean[0].clamp(0, 1), atol=1e-5, rtol=0)


def test_a_photo_comes_out_as_with_the_models_own_fidelity() -> None:
    pipe = with_trunk(fidelity=0.25)
    photo = read_rgb(PHOTOS[0])[:40, :60]
    assert np.array_equal(*(np.asarray(pipe(photo, fidelity=f).images[0]) for f in (None, 0.25)))


@pytest.mark.parametrize("color_fix", ["none", "wavelet"])
def test_a_drawing_in_strips(color_fix: str) -> None:
    pipe = with_trunk(fidelity=0.25, color_fix=color_fix)
    for pixels in (SPRITES, graphics()["line chart"][0][:37, :50]):
        picture = picture_from_array(np.ascontiguousarray(pixels))
        whole = pipe.upscale(picture, stream=False).colour
        for rows in (2, 8):
            np.testing.assert_allclose(in_strips(pipe, picture.colour, strip_rows=rows), whole, atol=2e-5)


@pytest.mark.parametrize("name", ["sprites", "tiles", "bar chart", "text, small", "dithered scan"])
def test_the_default_model_beats_lanczos_on_drawings(default: LinearSRPipeline, name: str) -> None:
    lr, hr = (pixels[: 48 * s, : 56 * s] for pixels, s in zip(graphics()[name], (1, 4), strict=True))
    worst = {"sprites": 1, "tiles": 2, "dithered scan": 1}.get(name, rmse(lanczos(lr), hr))
    assert rmse(default(lr).images[0], hr) < worst


@pytest.mark.parametrize(("name", "worst"), [("disc", 12.5), ("glyph", 24.0)])
def test_alpha_without_its_staircase(default: LinearSRPipeline, name: str, worst: float) -> None:
    lr, hr = alphas()[name]
    picture = Picture(np.full((64, 64, 3), 0.5, np.float32), lr.astype(np.float32) / 255)
    made = default.upscale(picture).alpha
    assert made is not None
    levels = np.rint(255 * made)
    assert rmse(levels, hr) < worst < rmse(np.asarray(Image.fromarray(lr).resize((256, 256), 3)), hr)
    # far from an edge, opaque is opaque and clear is clear
    inside = -F.max_pool2d(-torch.from_numpy(lr).float()[None], 3, 1, 1)[0].numpy()
    outside = F.max_pool2d(torch.from_numpy(lr).float()[None], 3, 1, 1)[0].numpy()
    assert (made[squares(inside) == 255] == 1).all()
    assert (made[squares(outside) == 0] == 0).all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_alpha_stays(value: float) -> None:
    picture = Picture(SPRITES.astype(np.float32) / 255, np.full(SPRITES.shape[:2], value, np.float32))
    for scale in (2.0, 2.5, 4.0):
        made = with_trunk().upscale(picture, scale=scale).alpha
        assert made is not None
        assert (made == value).all()


@pytest.mark.parametrize("scale", [2.5, 4.0])
def test_alpha_of_a_file_in_strips(tmp_path: Path, scale: float) -> None:
    pytest.importorskip("pyvips")
    pipe = with_trunk(fidelity=0.25)
    alpha = alphas()["disc"][0][::2, ::2].astype(np.float32) / 255
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    write_image(Picture(np.random.default_rng(0).random((32, 32, 3), np.float32), alpha), source)
    whole = pipe.upscale(read_image(source), scale=scale, stream=False)
    shares: list[float] = []
    upscale_file(
        pipe,
        source,
        target,
        settings={"scale": scale},
        strip_rows=8,
        progress=lambda _, share: shares.append(share),
    )
    in_strips = read_image(target)
    assert np.abs(in_strips.quantised().astype(int) - whole.quantised()).max() <= 1
    assert shares == sorted(shares)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
