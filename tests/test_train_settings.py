"""What the configs of runs and recipes may say, and how their mistakes are told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from linearsr.training.config import TrainConfig, parse_settings, read_settings
from linearsr.training.recipe import plan
from linearsr.training.section import ConfigError
from training_tools import load_config, parse, recipe_settings, write_config


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"batch": 3}, [], r"batch: is unknown: did you mean batch_size\?"),
        ({"lr": 3}, [], r"lr: is not a setting of this section: it belongs in optimizer\.lr"),
        ({"total_imags": 8, "total_images": None}, [], r"did you mean total_images\?"),
        ({"stage": {"kind": "stem", "formulas": {}}}, [], r"stage\.formulas \(kind distill\)"),
        (
            {"stage": {"kind": "distill", "formulas": {"l2": 1}}},
            [],
            r": stage\.formulas\.l2: .* 'l1' or 'ms_ssim'",
        ),
        ({}, ["nonsense=1"], r"nonsense: is unknown: choose from run_dir, stage,"),
        ({"batch_size": 0}, [], "batch_size: Input should be greater than 0"),
        ({}, ["data.degradations={fog: 1}"], "data.degradations: .*unknown degradation 'fog'"),
        ({}, ["optimizer"], "write it as key=value"),
        ({}, ["batch_size.x=1"], "batch_size is a value"),
        (
            {"stage": {"kind": "flow", "stem": "x", "preset": "huge"}},
            [],
            r": stage\.preset: unknown preset 'huge'",
        ),
        ({"stage": {"kind": "flow", "stem": "x", "expert": 7}}, [], ": stage: .*expert 7 does not exist"),
        (
            {"stage": {"kind": "flow", "stem": "x", "network": {"lr_channel": 3}}},
            [],
            r": stage: network: lr_channel is unknown: did you mean lr_channels\?",
        ),
        (
            {"stage": {"kind": "flow", "sana": "x", "network": {"num_layers": 3}}},
            [],
            "num_layers is SANA's own",
        ),
        ({"total_images": 1}, [], "total_images 1 is less than one batch of 2"),
        ({}, ["optimizer.lr=["], "is not valid YAML"),
    ],
)
def test_config_mistakes_name_the_key(
    changes: dict[str, object], overrides: list[str], message: str, photos: Path, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "c.yaml", photos, tmp_path / "run", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", None])
def test_an_unreadable_config_is_one_line(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_stage_has_the_stage_settings_of_the_one_before(photos: Path, tmp_path: Path) -> None:
    raw = recipe_settings(photos, tmp_path / "run")
    raw["stages"]["pretrain"]["stage"]["pure_noise_prob"] = 0.2
    raw["stages"]["experts"]["stage"] = {"pure_noise_prob": 0.4}
    raw["stages"]["sft"] = {"total_images": 2}
    stages: dict[str, Any] = {run.name: run.config.stage for run in plan(parse(raw), "recipe.yaml")}
    found = {
        name: (stage.min_weight_time, stage.pure_noise_prob)
        for name, stage in stages.items()
        if name != "stem"
    }
    assert found["pretrain"] == (0.3, 0.2)
    assert found["experts/0"] == found["sft/0"] == (0.3, 0.4)


@pytest.mark.parametrize("place", ["common", "experts"])
def test_a_new_way_out_is_made_once(photos: Path, tmp_path: Path, place: str) -> None:
    raw = recipe_settings(photos, tmp_path / "run")
    if place == "common":
        del raw["stages"]["stem"], raw["stages"]["pretrain"]["stage"]["network"]
        start = {"init": str(tmp_path / "trained"), "stem": str(tmp_path / "stem"), "detail_blocks": 4}
        raw["common"]["stage"] = start
    else:
        raw["stages"]["experts"]["stage"] = {"detail_blocks": 4}
    raw["stages"]["sft"] = {"total_images": 2}
    stages = {run.name: run.config.stage for run in plan(parse(raw), "recipe.yaml") if run.name != "stem"}
    with_one = {name.split("/")[0] for name, stage in stages.items() if stage.detail_blocks}  # type: ignore[union-attr]
    assert with_one == {"pretrain" if place == "common" else "experts"}


def test_an_empty_section_sets_nothing(photos: Path, tmp_path: Path) -> None:
    raw = recipe_settings(photos, tmp_path / "run", model=None)
    raw["stages"] |= {"experts": None, "sft": {"total_images": 2, "stage": None, "data": None}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(raw))
    runs = plan(parse(read_settings(file, ["stages.experts.total_images=4"])), "recipe.yaml")
    assert {run.name: run.config.total_images for run in runs}["experts/1"] == 4
    assert runs[-1].config.data == runs[0].config.data


def test_a_stage_can_be_dropped_on_the_command_line(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe_settings(photos, tmp_path / "run")))
    runs = plan(parse(read_settings(file, ["stages.sft=null"])), "recipe.yaml")
    assert [run.name for run in runs] == ["stem", "pretrain", "experts/0", "experts/1"]
    with pytest.raises(
        ConfigError, match=r"stages\.fit=null: there is no stage fit: choose from experts, pre"
    ):
        read_settings(file, ["stages.fit=null"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": {"dream": {}}}, "unknown stage 'dream': choose from codec, stem, pretrain, experts, sft"),
        ({"stages": {"experts": {}}}, r"^recipe\.yaml: stages: experts and sft .*pretrain, which is missing"),
        ({"boundaries": [0.9, 0.1]}, "must rise strictly"),
        ({"model": {"fidelty": 1}}, r": model: fidelty is unknown: did you mean fidelity\?"),
        ({"batch_size": 4}, r"batch_size: .*it belongs in common\.batch_size"),
        ({"batch": 4}, r"batch: is unknown: did you mean common\.batch_size\?"),
        (
            {"nonsense": 4},
            r"nonsense: is unknown: choose from run_dir, boundaries, common, stages, parts, model$",
        ),
        ({"stages": {"stem": {"batch": 3}}}, r"stages\.stem: batch: is unknown: did you mean batch_size\?"),
        (
            {"stages": {"pretrain": {"stage": {"lr_channels": 64}}}},
            r"stage\.lr_channels: .*it belongs in stage\.network\.lr_channels \(kind flow\)",
        ),
        ({"common": {"optimizer": {"lrr": 1}}}, r": common: optimizer\.lrr: is unknown: .* optimizer\.lr\?"),
        (
            {"common": {"optimizer": {"learning_rate": 1}}},
            r"optimizer\.learning_rate: is unknown: choose from name, lr,",
        ),
        ({"stages": None}, "stages: .*there is none: choose from codec, stem"),
        ({"stages": {"stem": {"stage": 3}}}, r"stages\.stem: .*stage: 3 is a value, not a section"),
        ({"stages": {"stem": {"run_dir": "there"}}}, r"stages\.stem: .*run_dir: the recipe sets this"),
        (
            {"stages": {"pretrain": {"stage": {"expert": 1}}}},
            r"stages\.pretrain: .*stage\.expert: the recipe sets",
        ),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(
    changes: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan(parse(recipe_settings(photos, tmp_path, **changes)), "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_the_configs_of_the_repository_can_be_read() -> None:
    configs = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
    assert len(configs) >= 4
    for config in configs:
        settings = read_settings(config)
        if "stages" not in settings:
            parse_settings(TrainConfig, settings, str(config))
            continue
        for run in plan(parse(settings), str(config)):
            # the knee detector needs five evaluations, and must have seen four on the plateau
            enough = run.config.total_images >= 6 * run.config.validation.every_images
            wanted = run.config.stop_at_knee and config.name != "tiny.yaml"
            assert enough or not wanted, (config, run.name)
