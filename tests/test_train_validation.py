"""What a run is validated on, by which metrics, and which of them look for its knee."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from image_tools import smooth_photo
from linearsr.evaluation.metrics import ssim_y
from linearsr.evaluation.registry import METRICS
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.training.curves import directions, read_curves
from linearsr.training.flow import FlowStage
from linearsr.training.knee import votes
from linearsr.training.section import ConfigError
from linearsr.training.validation import validation_pairs
from training_tools import (
    NETWORK,
    flow_stage,
    load_config,
    losses,
    make_photos,
    read_records,
    trainer,
    untagged,
    validation_on,
    weights,
    write_config,
)


def test_validation_photos_may_have_any_size(photos: Path, stem_folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    Image.new("RGB", (101, 110), (50, 90, 130)).save(odd / "a.png")
    changes = {"stage": flow_stage(stem_folder), "validation": validation_on(odd), "total_images": 6}
    trainer(photos, tmp_path / "run", **changes).run()
    validations = [record for record in read_records(tmp_path / "run") if "bicubic/stem/psnr_y" in record]
    assert len(validations) == 1
    assert all(record["bicubic/stem/psnr_y"] > 30 for record in validations)


def test_metrics_without_a_reference_look_at_the_sample(
    stem_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of pyiqa too; in the knee they vote in their own direction, beside the fidelity of the mean."""

    def score(x: torch.Tensor) -> torch.Tensor:
        return x.std()

    pyiqa = SimpleNamespace(create_metric=lambda name, device: score)
    monkeypatch.setitem(sys.modules, "pyiqa", pyiqa)
    monkeypatch.setattr("linearsr.evaluation.registry.find_spec", lambda name: True)
    large = tmp_path / "large"
    large.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((192, 192), Image.Resampling.BICUBIC).save(large / "a.png")
    validation = validation_on(large, every_images=2, metrics=["psnr_y", "haarpsi", "niqe", "musiq"])
    made = trainer(
        large, tmp_path / "run", validation=validation, stage=flow_stage(stem_folder), total_images=2
    )
    made.run()
    found = set(read_curves(tmp_path / "run").values)
    assert {name for name in found if name.startswith("bicubic/sample/")} == {
        f"bicubic/sample/{name}" for name in ("psnr_y", "haarpsi", "niqe", "musiq")
    }
    assert {"bicubic/mean/psnr_y", "bicubic/mean/haarpsi"} <= found
    assert not {"bicubic/mean/niqe", "bicubic/mean/musiq", "bicubic/stem/niqe"} & found
    better = directions(found)
    assert (better["bicubic/sample/niqe"], better["bicubic/sample/musiq"]) == (False, True)
    patterns = made.config.knee.metrics
    assert {name for name in found if votes(name, patterns)} == {
        "bicubic/mean/psnr_y",
        "bicubic/mean/haarpsi",
        *(f"bicubic/sample/{name}" for name in ("haarpsi", "niqe", "musiq")),
    }
    assert not votes("loss", patterns)
    assert not votes("train/loss", patterns)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fid", "'fid' is unknown: choose from psnr_y"),
        ("vmaf", "'vmaf' is unknown: choose from psnr_y"),
        ("musiq", r"musiq needs pip install 'linearsr\[iqa\]'"),
    ],
)
def test_validation_metrics_must_be_at_hand(
    name: str, message: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path / "a.yaml", photos, tmp_path / "run")
    monkeypatch.setattr("linearsr.evaluation.registry.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"validation.metrics: .*{message}"):
        load_config(config, [f"validation.metrics=[{name}]"])


def test_every_metric_of_an_evaluation_has_its_direction() -> None:
    names = [f"mild/sample/{name}" for name in METRICS]
    assert list(directions(names).values()) == [metric.higher_is_better for metric in METRICS.values()]


def test_a_validation_photo_must_be_large_enough_to_be_measured(tmp_path: Path) -> None:
    """The window of SSIM has 11 pixels, and sides are cut to multiples of the scale."""
    smooth_photo(0, (40, 11)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"a\.png: has less than 12 pixels on a side"):
        validation_pairs(tmp_path, "mild", 4, max_pictures=2)
    smooth_photo(0, (40, 12)).save(tmp_path / "a.png")
    ((_, _, hr),) = validation_pairs(tmp_path, "mild", 4, max_pictures=2)
    assert ssim_y((hr[None] + 1) / 2, (hr[None] + 1) / 2) == pytest.approx(1)


def test_photos_of_one_name_have_a_picture_each(photos: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        make_photos(tmp_path / "two" / folder, count=1)
    validation = validation_on(tmp_path / "two", every_images=12, max_pictures=2)
    trainer(photos, tmp_path / "run", validation=validation).run()
    pictures = sorted(picture.name for picture in (tmp_path / "run/samples/0000000012").iterdir())
    assert pictures == ["0-0-bicubic.png", "1-0-bicubic.png"]


def test_an_expert_is_validated_on_the_walk_of_all(stem_folder: Path, tmp_path: Path) -> None:
    """Each step by the network of its time: the one that is trained in its span, the others elsewhere."""
    base = LinearSRTransformer(replace(PRESETS["tiny"], **NETWORK))
    base.save_pretrained(tmp_path)
    stage = flow_stage(stem_folder, boundaries=[0.3, 0.6], expert=1, init=str(tmp_path), validation_steps=8)
    del stage["network"]
    asked: dict[str, list[float]] = {"own": [], "others": []}

    def spied(who: str) -> Callable[..., torch.Tensor]:
        return lambda z, times, *_: asked[who].append(float(times[0])) or torch.zeros_like(z)

    for folders in ([str(tmp_path)], [str(tmp_path)] * 3):
        objective = FlowStage(**stage, others=folders).objective()
        for other in objective.others[::2]:
            other.forward = spied("others")  # type: ignore[method-assign]
        pair = untagged(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 16, 16), [0])
        assert set(objective.predict(spied("own"), pair)) == {"denoised", "sample", "stem"}  # type: ignore[arg-type]
    assert asked["own"] == pytest.approx([0.6, 0.5, 0.375] * 2)
    assert asked["others"] == [1.0, 0.875, 0.75, 0.625, 0.25, 0.125] * 2
    alone = FlowStage(**stage).objective()
    assert set(alone.predict(spied("own"), pair)) == {"denoised", "stem"}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="others: 2 folders: give one, or 3"):
        FlowStage(**stage, others=folders[:2])


def test_a_run_ends_at_its_knee_and_keeps_the_weights_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The detector is given its answer: what it finds in curves is tested elsewhere."""
    from linearsr.training import trainer as module
    from linearsr.training.knee import Knee

    def knee_at_second(steps: list[int], curves: dict[str, list[float]], *_: object) -> Knee:
        assert set(curves) == {"bicubic/mean/psnr_y", "bicubic/mean/ssim_y"}
        found = len(steps) >= 4
        phases = ("improving",) * len(steps)
        return Knee(steps[1] if found else None, None, 0.9, found, tuple(steps), phases)

    monkeypatch.setattr(module, "find_knee", knee_at_second)
    validation = validation_on(photos, every_images=2)
    changes = {"validation": validation, "optimizer": {"lr": 1e-3, "final_lr": 1e-3, "warmup_images": 0}}
    run, short = tmp_path / "run", tmp_path / "short"
    knee = trainer(photos, run, total_images=40, **changes).run()
    assert losses(run)[-1][0] == 8
    assert json.loads((run / "knee.json").read_text())["images"] == 4

    trainer(photos, short, total_images=4, **changes).run()
    for name, tensor in weights(knee / "lr_stem").items():
        assert torch.equal(tensor, weights(short / "final" / "lr_stem")[name]), name
