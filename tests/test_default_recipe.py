"""The recipe of the model in the package, from start to end, in small."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from linearsr import LinearSRPipeline
from linearsr.models.rrdb import RRDBNet, RRDBNetConfig
from linearsr.training.checks import check, check_model
from linearsr.training.config import read_settings
from linearsr.training.recipe import plan
from linearsr.training.section import ConfigError
from training_tools import make_photos, parse, published_lite0, train, weights

RECIPE = Path(__file__).parents[1] / "configs/default/pipeline.yaml"


def small(folder: Path) -> dict[str, Any]:
    """The recipe with small networks, and a step a stage, on photos made here."""
    raw = copy.deepcopy(read_settings(RECIPE))
    photos = make_photos(folder / "photos", 10)
    (folder / "vocabulary.txt").write_text("sky\nsea\n")
    (folder / "tags.json").write_text(
        json.dumps({f"photos/{i}.png": [("sky", "sea")[i % 2]] for i in range(10)})
    )
    torch.manual_seed(0)
    RRDBNet(RRDBNetConfig(8, 4, 1)).save_pretrained(folder / "trunk")
    data = {"folders": {str(photos): 1.0}, "lr_crop": 8, "workers": 0, "best_share": 1.0}
    common = {"batch_size": 2, "mixed_precision": "no", "stop_at_knee": False}
    for stage in (raw["common"], *raw["stages"].values()):
        stage.update(common)
        stage["data"] = {**stage.get("data", {}), **data}
        checked = {"folder": str(photos), "every_images": 2, "max_pictures": 1, "sample_pictures": 0}
        stage["validation"] = {**stage.get("validation", {}), "degradations": ["mild"], **checked}
        if "total_images" in stage:
            stage["total_images"] = 2
        if isinstance(stage.get("stage", {}).get("stem"), dict):
            stage["stage"]["stem"] |= {"channels": 8}
    raw["stages"]["stem"]["stage"]["stem"]["num_blocks"] = 1
    raw["stages"]["grow"]["stage"]["stem"]["num_blocks"] = 2
    tagger = raw["stages"]["tagger"]
    tagger["data"]["tags"] = str(folder / "tags.json")
    tagger["stage"] |= {
        "vocabulary": str(folder / "vocabulary.txt"),
        "trunk": str(published_lite0(folder / "lite0.pth", num_blocks=2)),
        "tagger": {"num_blocks": 2, "image_size": 16},
        "held_out": 0.4,
    }
    raw["parts"]["trunk"] = str(folder / "trunk")
    return {**raw, "run_dir": str(folder / "run")}


def test_one_recipe_makes_the_model_of_the_package(tmp_path: Path) -> None:
    raw, seen = small(tmp_path), list[str]()
    runs = plan(parse(raw), "pipeline.yaml")
    names = [run.name for run in runs]
    assert names == list(raw["stages"])
    objectives = check(runs)
    check_model(parse(raw), runs, objectives)
    assert set(objectives) == {"stem", "grow", "finish", "broaden", "widen"}
    model = train(raw, seen=seen)
    assert seen == names
    assert model is not None
    pipe = LinearSRPipeline.from_pretrained(model)
    assert pipe(Image.new("RGB", (9, 7))).images[0].size == (36, 28)
    assert pipe.transformer is None
    assert pipe.trunk is not None
    assert pipe.tagger is not None
    run = tmp_path / "run"
    stem = weights(run / "wide/knee/lr_stem")
    before, after = (weights(run / name / "lr_stem") for name in ("base/knee", "widen/final"))
    for name, weight in before.items():
        if weight.is_floating_point():
            torch.testing.assert_close(stem[name], torch.lerp(weight, after[name], 0.6))
    assert 0 <= json.loads((run / "tagger/knee.json").read_text())["map"] <= 1

    again = list[str]()
    assert train(raw, seen=again) == model
    assert again == []

    del raw["parts"]["lr_stem"]
    with pytest.raises(ConfigError, match=r"parts\.lr_stem: a model without experts needs a stem"):
        check_model(parse(raw), runs, objectives)
