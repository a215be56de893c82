"""Which photos are trained on: the best share, by detail or a metric."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from image_tools import cut_short
from linearsr.images.photos import detail_score
from linearsr.training.data import CropPairs
from linearsr.training.section import ConfigError
from training_tools import data_config


def test_the_best_share_is_the_crisp_one(tmp_path: Path) -> None:
    crisp = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    sharp = Image.fromarray(crisp).resize((96, 96), Image.Resampling.LANCZOS)
    folder = tmp_path / "mixed"
    folder.mkdir()
    noise = np.random.default_rng(0).normal(128, 10, (96, 96, 3)).astype(np.uint8)
    variants = {
        "a_soft": sharp.filter(ImageFilter.GaussianBlur(2)),
        "b_flat": Image.new("RGB", (96, 96), (90, 120, 60)),
        "c_crisp": sharp,
        "d_noise": Image.fromarray(noise),
        "e_broken": sharp,
    }
    for name, image in variants.items():
        image.save(folder / f"{name}.png")
    cut_short(folder / "e_broken.png")

    def kept(share: float) -> list[str]:
        pairs = CropPairs(data_config(folder, best_share=share), 4, 0, 1)
        return [pairs.catalogue[i].path.stem for i in range(len(pairs.catalogue))]

    assert kept(0.25) == ["c_crisp"]
    assert kept(0.5) == ["a_soft", "c_crisp"]
    assert len(kept(0.99)) == 4  # the broken one is not among them
    assert len(kept(1.0)) == 5
    (broken,) = CropPairs(data_config(folder, best_share=0.5), 4, 0, 1).catalogue.skipped
    assert Path(broken.name).stem == "e_broken"


def test_the_best_share_by_a_metric_is_kept_for_other_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, scores = tmp_path / "photos", tmp_path / "scores"
    folder.mkdir()
    crisp = Image.open(Path(__file__).parents[1] / "examples/photos/train/building.jpg").crop(
        (0, 0, 200, 200)
    )
    crisp.save(folder / "crisp.png")
    crisp.filter(ImageFilter.GaussianBlur(2)).save(folder / "soft.png")
    crisp.resize((60, 60)).save(folder / "tiny.png")

    def kept(**changes: object) -> list[str]:
        changes = {"best_share": 0.5, "best_by": "niqe", "scores": scores, **changes}
        catalogue = CropPairs(data_config(folder, **changes), 4, 0, 1).catalogue
        return [catalogue[i].path.stem for i in range(len(catalogue))]

    assert kept() == ["crisp"]
    assert "tiny.png: niqe: " in caplog.text
    measured = json.loads((scores / "niqe.json").read_text())
    assert measured.keys() == {"../photos/crisp.png", "../photos/soft.png"}
    assert measured["../photos/crisp.png"] < measured["../photos/soft.png"]
    # another process, for this one remembers what it has seen
    (scores / "niqe.json").write_text(json.dumps({name: -value for name, value in measured.items()}))
    assert kept(lr_crop=9) == ["soft"]
    (scores / "niqe.json").write_text("[")
    with pytest.raises(ConfigError, match=r"^data\.scores: .*niqe\.json: .*Invalid JSON"):
        kept(lr_crop=10)
    (scores / "niqe.json").write_text('{"crisp.png": "best"}')
    with pytest.raises(ConfigError, match=r"niqe\.json: it must hold a score for each photo \('crisp\.png'"):
        kept(lr_crop=11)


@pytest.mark.parametrize(
    ("name", "message"),
    [("psnr_y", "'psnr_y' is unknown: choose from detail, niqe"), ("musiq", "musiq needs pip")],
)
def test_photos_are_chosen_by_known_scores(
    name: str, message: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linearsr.evaluation.registry.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        data_config(photos, best_by=name)


@pytest.mark.parametrize("side", [19, 20, 21, 37])
def test_detail_is_scored_at_any_size(side: int) -> None:
    score = detail_score(np.random.default_rng(0).integers(0, 256, (side, 50, 3), dtype=np.uint8))
    assert np.isfinite(score)
