"""`linearsr train`: from a config to weights, one line for every mistake, and no run lost by accident."""

import builtins
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from PIL import Image

from commands import document, done, linearsr, refused
from image_tools import noise
from linearsr.models.lr_stem import PredictiveStem
from training_tools import losses, recipe_settings, write_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    noise(photos / "a.png", 48, 40)
    validation = {"folder": str(photos), "every_images": 4, "max_pictures": 1}
    changes = {"total_images": 4, "save_every_images": 2, "validation": validation}
    return write_config(tmp_path / "stem.yaml", photos, tmp_path / "run", **changes)


train = partial(linearsr, "train")


def test_trains_refuses_and_resumes(config, tmp_path):
    run = tmp_path / "run"
    result = done(train(config, "--threads", 1))
    assert result.stderr.splitlines()[-1] == f"weights in {run / 'knee'}"
    assert "psnr_y" in result.stderr
    assert PredictiveStem.from_pretrained(run / "knee" / "lr_stem").config.channels == 8

    for again in (train(config), train(config, "--resume")):
        assert done(again).stderr.splitlines() == ["stem: done", f"weights in {run / 'knee'}"]
    assert [images for images, _ in losses(run)] == [2, 4]
    assert "seed: was 0 when this run began" in refused(train(config, "--resume", "--set", "seed=1"))
    assert "--resume" in refused(train(config, "--set", "total_images=8"))
    resumed = done(train(config, "--resume", "--set", "total_images=8"))
    assert "going on from its newest checkpoint" in resumed.stderr
    assert [images for images, _ in losses(run)] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["none.yaml"], "none.yaml"),
        (["{config}", "--set", "no_such_key=1"], "no_such_key"),
        (["{config}", "--set", "data.folders={{/nowhere: 1}}"], "/nowhere"),
        (["{config}", "--set", "validation.folder=/nowhere"], "validation.folder: /nowhere"),
        (["{config}", "--set", "data.lr_crop=98"], "data.folders: every photo is smaller"),
        (["{config}", "--set", "run_dir=/proc/run"], "run_dir: /proc/run cannot be written"),
        (["{config}", "--set", "stage={{kind: flow, stem: /nowhere}}"], "/nowhere"),
        (["{config}", "--stage", "pretrain"], "--stage pretrain"),
    ],
)
def test_mistakes_are_one_line(config, arguments, named):
    assert named in refused(train(*(argument.format(config=config) for argument in arguments)))


def test_missing_extra_names_the_command(config, monkeypatch):
    real = builtins.__import__

    def without_accelerate(name, *arguments, **options):
        if name.split(".")[0] == "accelerate":
            raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")
        return real(name, *arguments, **options)

    for module in ("checks", "config", "recipe", "runs", "trainer", "validation"):
        monkeypatch.delitem(sys.modules, f"linearsr.training.{module}", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_accelerate)
    assert refused(train(config)) == "linearsr: training needs accelerate: pip install 'linearsr[train]'\n"


def test_interrupt_says_how_to_go_on(config, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("linearsr.training.trainer.Trainer.run", interrupt)
    result = train(config)
    assert result.exit_code == 130
    assert "--resume" in result.stderr


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(config, tmp_path):
    result = done(train(config, "--dry-run"))
    assert "4 images in 2 steps at most" in result.stdout
    assert "1 photos" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120
    assert not (tmp_path / "run").exists()
    plan = document(train(config, "--dry-run", "--json"))
    assert set(plan["stem"]) == {"network", "memory", "data", "batch", "schedule", "optimizer"}


def test_a_knee_under_a_decaying_learning_rate_is_warned_of(config):
    warned = train(config, "--dry-run")
    assert "stop_at_knee may end the training before the learning rate has fallen" in warned.stderr
    for chosen in (["stop_at_knee=false"], ["optimizer.lr=1e-3", "optimizer.final_lr=1e-3"]):
        overrides = [word for setting in chosen for word in ("--set", setting)]
        assert "stop_at_knee" not in train(config, "--dry-run", *overrides).stderr


def test_only_the_chosen_runs_must_not_have_begun(config, tmp_path):
    raw = recipe_settings(tmp_path / "photos", tmp_path / "recipe")
    raw["stages"] = {name: {**raw["stages"][name], "total_images": 2} for name in ("stem", "pretrain")}
    config.write_text(yaml.safe_dump(raw))
    stem = done(train(config, "--stage", "stem"))
    assert stem.stderr.splitlines()[-2:] == [
        f"stem: weights in {tmp_path / 'recipe' / 'stem' / 'knee'}",
        "no model yet: other runs of the recipe are still to be done",
    ]
    pretrain = done(train(config, "--stage", "pretrain"))
    assert "stem: " not in pretrain.stderr
    assert pretrain.stderr.splitlines()[-1] == f"weights in {tmp_path / 'recipe' / 'model'}"
    longer = ("--stage", "pretrain", "--set", "stages.pretrain.total_images=4")
    assert "--resume" in refused(train(config, *longer))


def test_a_recipe_without_a_network_makes_no_model(config, tmp_path):
    raw = recipe_settings(tmp_path / "photos", tmp_path / "recipe")
    raw["stages"] = {"stem": {**raw["stages"]["stem"], "total_images": 2}}
    config.write_text(yaml.safe_dump(raw))
    assert done(train(config)).stderr.splitlines()[-2:] == [
        f"stem: weights in {tmp_path / 'recipe' / 'stem' / 'knee'}",
        "no model to put together: the recipe trains no flow",
    ]


def test_the_tiny_recipe_makes_a_model_that_upscales(tmp_path, monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    small = {"run_dir": tmp_path / "run", "common.batch_size": 1, "common.validation.every_images": 100}
    small |= {f"stages.{stage}.total_images": 1 for stage in ("stem", "pretrain", "experts", "sft")}
    changes = (part for item in small.items() for part in ("--set", "=".join(map(str, item))))
    done(train("configs/tiny.yaml", *changes))
    photo, output = tmp_path / "lr.png", tmp_path / "sr.png"
    Image.new("RGB", (12, 10), (90, 60, 30)).save(photo)
    done(linearsr("upscale", photo, "-o", output, "--model", tmp_path / "run" / "model"))
    assert Image.open(output).size == (48, 40)


def test_every_stage_of_the_tiny_recipe_is_planned():
    result = done(train("configs/tiny.yaml", "--dry-run"))
    assert "experts/0, experts/1, experts/2, experts/3" in result.stdout
    assert "16 photos" in result.stdout


def test_broken_photos_are_named_and_left_out(config, tmp_path):
    (tmp_path / "photos" / "b.png").write_bytes((tmp_path / "photos" / "a.png").read_bytes()[:700])
    (tmp_path / "photos" / "c.jpg").write_bytes(b"no picture")
    chosen = ("--set", f"validation.folder={tmp_path / 'whole'}")
    assert train(config, *chosen).exit_code == 2
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "a.png").write_bytes((tmp_path / "photos" / "a.png").read_bytes())
    assert "c.jpg" in done(train(config, *chosen)).stderr
