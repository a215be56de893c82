"""How degraded an image is: fitted to a trained stem, told by it, and what a model does with a clean image."""

import copy
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import uniform_filter
from torch import Tensor

from linearsr.images.convert import lr_tensor
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.io import Picture, read_image
from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.pipeline import LinearSRPipeline
from linearsr.serving.worker import Worker
from linearsr.training import computed
from linearsr.training.computed import degraded, explained, fit_strength, interpolate, strength_of
from linearsr.training.config import TrainConfig
from linearsr.training.section import ConfigError
from linearsr.training.stem import StemStage
from serve_tools import send, serving, wait_for
from strips import in_strips
from tiny_model import build
from training_tools import settings as training_settings

PHOTOS = Path(__file__).parents[1] / "examples/photos/val"
LEVEL = 1 / 255


def stem_with_summary() -> PredictiveStem:
    torch.manual_seed(0)
    return PredictiveStem(PredictiveStemConfig(channels=8, num_blocks=1, summary_channels=4)).eval()


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """A flat image and a noisy one, (24, 20, 3)."""
    flat = np.full((24, 20, 3), 0.5, dtype=np.float32)
    noise = np.random.default_rng(0).uniform(0, 1, flat.shape).astype(np.float32)
    return flat, noise


@pytest.fixture(scope="module")
def fitted() -> PredictiveStem:
    """A stem whose head has learned random numbers."""
    return fit_strength(stem_with_summary(), torch.randn(64, 4), torch.rand(64), channels=3).eval()


@pytest.fixture(scope="module")
def pipe(fitted: PredictiveStem) -> LinearSRPipeline:
    """Two steps, and one for what is clean: the flat image, not the noisy one."""
    whole, stem = build(), copy.deepcopy(fitted)
    flat, noise = (stem.strength(lr(image)).item() for image in pictures())
    if flat > noise:
        with torch.no_grad():
            stem.strength_head[2].weight.neg_()
            stem.strength_head[2].bias.neg_()
        flat, noise = -flat, -noise
    config = replace(
        whole.config, num_inference_steps=2, clean_steps=1, clean_strength=(flat + noise) / 2, mean="stem"
    )
    return LinearSRPipeline(stem, whole.transformer, whole.codec, config)


def lr(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1


def steps_of(pipe: LinearSRPipeline, image: np.ndarray, **settings: float) -> int:
    reached: list[float] = []
    pipe(image, callback_on_step_end=lambda _, step, time, state: reached.append(time), **settings)
    return len(reached)


def test_strength_is_the_logarithm_of_a_difference_over_the_detail() -> None:
    clean = np.random.default_rng(0).uniform(0.2, 0.8, (30, 40, 3)).astype(np.float32)
    mean = uniform_filter(clean, (5, 5, 0), mode="constant")
    mean /= uniform_filter(np.ones_like(clean), (5, 5, 0), mode="constant")
    detail = np.sqrt(np.square(clean - mean).mean())
    assert strength_of(clean, clean) == 0
    assert strength_of(clean + np.float32(0.09) * detail, clean) == pytest.approx(np.log(10), abs=1e-3)
    flat = np.full((8, 8, 3), 0.5, dtype=np.float32)
    assert strength_of(flat + np.float32(0.09 / 255), flat) == pytest.approx(np.log(10), abs=1e-3)


def test_what_is_learned_from_goes_from_clean_to_bad() -> None:
    hr = np.asarray(Image.open(PHOTOS / "forest.jpg").convert("RGB"), dtype=np.float32)[:160, :160] / 255
    drawn = [degraded(hr, np.random.default_rng(seed), 4) for seed in range(40)]
    assert all(image.shape == (40, 40, 3) and 0 <= image.min() <= image.max() <= 1 for image, _ in drawn)
    strengths = [strength for _, strength in drawn]
    # some are resized and nothing else, by other filters than bicubic too
    bicubic = degrade(hr, PRESETS["bicubic"], np.random.default_rng(0), 4)
    clean = [image for image, strength in drawn if strength == 0]
    assert len(clean) >= 3
    assert any((image != bicubic).any() for image in clean)
    assert max(strengths) > 3.5
    again, strength = degraded(hr, np.random.default_rng(7), 4)
    assert np.array_equal(again, drawn[7][0])
    assert strength == drawn[7][1]


def test_the_fit_tells_what_can_be_told_and_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    stem, generator = stem_with_summary(), torch.Generator().manual_seed(1)
    # far from unit deviation, as summaries are
    summaries = 40 + 0.01 * torch.randn(600, 4, generator=generator)
    strengths = 1 + (100 * (summaries[:, 0] - 40)).tanh() + 20 * (summaries[:, 1] - 40)
    fitted = fit_strength(stem, summaries[:500], strengths[:500])
    assert explained(fitted, summaries[500:], strengths[500:]) > 0.95
    for name, weight in stem.state_dict().items():
        assert torch.equal(fitted.state_dict()[name], weight), name
    unrelated = torch.randn(600, generator=generator)
    fooled = fit_strength(stem, summaries[:500], unrelated[:500])
    assert explained(fooled, summaries[500:], unrelated[500:]) < 0.1
    monkeypatch.setattr(computed, "_STEPS", 20)
    first, again = (fit_strength(stem, summaries, strengths).strength_head[0].weight for _ in range(2))
    assert torch.equal(first, again)


def test_the_middle_of_a_large_image_counts(fitted: PredictiveStem) -> None:
    image = torch.rand(2, 3, 30, 700) * 2 - 1
    with torch.no_grad():
        told = fitted.strength(image)
        assert told.shape == (2,)
        torch.testing.assert_close(fitted.strength(image[..., 94:606]), told)
        image[..., :94] = image[..., 606:] = 1
        torch.testing.assert_close(fitted.strength(image), told)
        image[..., 300:400] = 1
        assert (fitted.strength(image) - told).abs().min() > 1e-4


def test_a_stem_without_the_head_says_so() -> None:
    with pytest.raises(ValueError, match="does not tell"):
        stem_with_summary().strength(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="summary_channels"):
        PredictiveStemConfig(strength_channels=3)
    whole = build()
    with pytest.raises(ValueError, match="clean_steps: the stem does not tell"):
        LinearSRPipeline(whole.lr_stem, whole.transformer, whole.codec, replace(whole.config, clean_steps=1))
    for steps in (0, whole.config.num_inference_steps + 1):
        with pytest.raises(ValueError, match="from 1 to num_inference_steps"):
            replace(whole.config, clean_steps=steps)
    with pytest.raises(ValueError, match="must be a number"):
        replace(whole.config, clean_strength=float("nan"))
    with pytest.raises(ValueError, match="fitted at the end"):
        StemStage(kind="stem", stem={"summary_channels": 4, "strength_channels": 3})


def test_a_stem_that_is_trained_on_must_be_fitted_anew(fitted: PredictiveStem) -> None:
    grown = fitted.grown()
    assert grown.strength_head is None
    assert torch.equal(grown.summary.to_modulation.weight, fitted.summary.to_modulation.weight)
    assert interpolate(fitted, stem_with_summary(), 0.5).config == stem_with_summary().config


def test_a_clean_image_takes_other_steps_unless_the_call_names_them(pipe: LinearSRPipeline) -> None:
    flat, noise = pictures()
    assert (steps_of(pipe, flat), steps_of(pipe, noise)) == (1, 2)
    assert steps_of(pipe, flat, fidelity=0.5) == 1
    assert steps_of(pipe, flat, num_inference_steps=2) == steps_of(pipe, noise, num_inference_steps=2) == 2
    for image, steps in ((flat, 1), (noise, 2)):
        own, named = (
            pipe(image, output_type="np", **s).images[0] for s in ({}, {"num_inference_steps": steps})
        )
        np.testing.assert_array_equal(own, named)
        latent, same = (
            pipe(image, output_type="latent", **s).images[0] for s in ({}, {"num_inference_steps": steps})
        )
        torch.testing.assert_close(latent, same)


def test_by_strips_as_in_one_piece(pipe: LinearSRPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linearsr.models.lr_stem.STRENGTH_SIDE", 8)
    flat, noise = pictures()
    framed = noise.copy()
    framed[8:16, 6:14] = 0.5
    assert [steps_of(pipe, image) for image in (flat, noise, framed)] == [1, 2, 1]
    for image in (flat, noise, framed):
        whole = pipe(image, output_type="np").images[0]
        streamed = pipe(image, output_type="np", stream=True).images[0]
        np.testing.assert_allclose(streamed, whole, atol=LEVEL / 10)
        np.testing.assert_allclose(in_strips(pipe, image, strip_rows=8).clip(0, 1), whole, atol=LEVEL / 10)


def test_clean_and_other_images_in_one_batch(pipe: LinearSRPipeline) -> None:
    flat, noise = (Picture(colour=image) for image in pictures())
    options = pipe.options()
    together = pipe.upscale_together([noise, flat, noise], [0, 1, 2], options)
    for picture, seed, result in zip([noise, flat, noise], range(3), together, strict=True):
        np.testing.assert_allclose(pipe.upscale(picture, seed=seed).colour, result.colour, atol=LEVEL / 10)


def test_it_is_saved_with_the_model(pipe: LinearSRPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    loaded = LinearSRPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32, device="cpu")
    assert loaded.config == pipe.config
    assert [steps_of(loaded, image) for image in pictures()] == [1, 2]


def test_the_built_in_model_knows_a_clean_photo(tmp_path: Path) -> None:
    model = LinearSRPipeline.from_pretrained(device="cpu")
    assert isinstance(model.lr_stem, PredictiveStem)
    for photo in sorted(PHOTOS.iterdir()):
        hr = Image.open(photo).convert("RGB")
        small = hr.resize((hr.width // 4, hr.height // 4), Image.Resampling.LANCZOS)
        small.save(tmp_path / "clean.png")
        small.save(tmp_path / "compressed.jpg", quality=75)
        noise = np.random.default_rng(0).normal(0, 12, (small.height, small.width, 3))
        Image.fromarray((np.asarray(small) + noise).clip(0, 255).astype(np.uint8)).save(
            tmp_path / "noisy.png"
        )
        found = {
            name: model.lr_stem.strength(lr_tensor(read_image(tmp_path / name)).to(model.dtype)).item()
            for name in ("clean.png", "compressed.jpg", "noisy.png")
        }
        clean = found.pop("clean.png")
        assert clean < model.config.clean_strength < min(found.values()), photo.name


def test_the_stage(tmp_path: Path) -> None:
    def compute(stem: str, photos: Path) -> Any:
        stage = {"kind": "strength", "stem": tmp_path / stem, "images": 24}
        data = {"folders": {photos: 1.0}}
        config = TrainConfig(**training_settings(PHOTOS, tmp_path / "run", stage=stage, data=data))
        return config.stage.compute(config.data, config.seed)  # type: ignore[union-attr]

    stem_with_summary().save_pretrained(tmp_path / "stem")
    made, figures = compute("stem", PHOTOS)
    assert figures["explained"] <= 1
    assert made["lr_stem"].config.strength_channels == 32
    assert made["lr_stem"].strength(torch.zeros(1, 3, 16, 16)).isfinite().all()

    build().lr_stem.save_pretrained(tmp_path / "plain")
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(PHOTOS / "car.jpg", one)
    for stem, photos, expected in (
        ("plain", PHOTOS, r"^stage\.stem: .*without a summary"),
        ("stem", tmp_path / "none", "is no folder"),
        ("stem", one, "at least 2 photos"),
    ):
        with pytest.raises(ConfigError, match=expected):
            compute(stem, photos)


def test_a_batch_says_which_pictures_a_step_was_for_and_how_many_there_are(pipe: LinearSRPipeline) -> None:
    flat, noise = (Picture(colour=image) for image in pictures())
    seen: list[tuple[int, int, list[int]]] = []

    def tell(_: object, step: int, time: float, state: dict[str, Any]) -> None:
        seen.append((step, state["steps"], state["places"]))

    options = pipe.options(callback_on_step_end=tell)
    pipe.upscale_together([noise, flat, noise], [0, 1, 2], options)
    assert sorted(seen) == [(0, 1, [1]), (0, 2, [0, 2]), (1, 2, [0, 2])]


def test_the_server_says_how_many_steps_there_were(pipe: LinearSRPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    with serving(tmp_path / "model", tmp_path / "data") as client:
        for image, steps in zip(pictures(), (1, 2), strict=True):
            file = io.BytesIO()
            Image.fromarray((image * 255).round().astype(np.uint8)).save(file, "PNG")
            job = wait_for(client, send(client, file.getvalue(), wait="false").json(), "done", "failed")
            assert (job["status"], job["step"], job["steps"]) == ("done", steps, steps)


def test_a_worker_tells_each_task_of_its_own_steps(pipe: LinearSRPipeline, tmp_path: Path) -> None:
    names = ("scale", "num_inference_steps", "fidelity", "tags", "guidance_scale", "color_fix")
    tasks = []
    for task, image in zip(("clean", "noisy"), pictures(), strict=True):
        path = tmp_path / f"{task}.png"
        Image.fromarray((image * 255).round().astype(np.uint8)).save(path)
        options = {**dict.fromkeys(names), "seed": 0}
        tasks.append({"id": task, "input": str(path), "options": options, "max_pixels": 10**6})
    answers = io.StringIO()
    assert list(Worker(pipe, answers)._upscale_together(tasks)) == ["clean", "noisy"]
    told = [json.loads(line) for line in answers.getvalue().splitlines()]
    steps = {task: [(a["step"], a["steps"]) for a in told if a["id"] == task] for task in ("clean", "noisy")}
    assert steps == {"clean": [(1, 1)], "noisy": [(1, 2), (2, 2)]}
