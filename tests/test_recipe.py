"""Training a recipe: stages in order, each from the knee of the one before."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from linearsr import LinearSRPipeline
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.models.lr_stem import StridedStem
from linearsr.training.checks import check
from linearsr.training.knee import Knee
from linearsr.training.recipe import plan
from linearsr.training.section import ConfigError
from training_tools import (
    AUTOENCODER,
    make_photos,
    make_sana,
    parse,
    read_records,
    recipe_settings,
    train,
    weights,
)

RUNS = ["stem", "pretrain", "experts/0", "experts/1", "sft/0", "sft/1"]


def test_all_stages_in_order_give_a_model(photos: Path, tmp_path: Path) -> None:
    raw, seen = recipe_settings(photos, tmp_path / "run"), list[str]()
    folder = train(raw, seen=seen)
    assert seen == RUNS
    assert folder == tmp_path / "run" / "model"
    pipe = LinearSRPipeline.from_pretrained(folder)
    assert (pipe.config.fidelity, pipe.config.name) == (0.25, "test")
    assert pipe.transformer.partition.boundaries == (0.5,)
    assert pipe(Image.new("RGB", (9, 7)), seed=0).images[0].size == (36, 28)
    for run in RUNS:
        assert json.loads((tmp_path / "run" / run / "knee.json").read_text())["images"] > 0

    again = list[str]()
    train(raw, seen=again)
    assert again == []  # nothing is trained twice


def test_each_stage_starts_from_the_knee_of_the_one_before(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(steps: list[int], *_: object) -> Knee:
        return Knee(steps[0] if steps else None, None, 0.9, False, tuple(steps), ("improving",) * len(steps))

    monkeypatch.setattr("linearsr.training.trainer.find_knee", first)
    raw = recipe_settings(photos, tmp_path / "run")
    for stage in ("experts", "sft"):
        raw["stages"][stage]["optimizer"] = {"lr": 1e-12, "final_lr": 0.0, "warmup_images": 0}
    train(raw)
    name = "transformer_blocks.0.attn1.to_q.weight"
    start, final = (weights(tmp_path / "run/pretrain" / part / "transformer") for part in ("knee", "final"))
    assert (start[name] - final[name]).abs().max() > 1e-4
    for run in ("experts/0", "experts/1", "sft/1"):
        for name, tensor in weights(tmp_path / "run" / run / "knee/transformer").items():
            torch.testing.assert_close(tensor, start[name], rtol=0, atol=1e-6)
    configs = {run.name: run.config.stage for run in plan(parse(raw), "recipe.yaml")}
    experts = tuple(tmp_path / f"run/experts/{i}/knee/transformer" for i in range(2))
    assert configs["sft/1"].init == experts[1]  # type: ignore[union-attr]
    assert configs["sft/0"].others == experts  # type: ignore[union-attr]
    assert configs["experts/0"].others == (tmp_path / "run/pretrain/knee/transformer",)  # type: ignore[union-attr]


def test_experts_can_be_trained_apart_and_in_any_order(photos: Path, tmp_path: Path) -> None:
    raw = recipe_settings(photos, tmp_path / "run")
    with pytest.raises(ConfigError, match="pretrain starts from the knee of stem: train that first"):
        train(raw, only="pretrain")
    for only in ("stem", "pretrain", "experts/1", "experts/0", "sft/0"):
        assert train(raw, only=only) is None
    assert train(raw, only="sft") == tmp_path / "run" / "model"
    with pytest.raises(ConfigError, match="--stage fit: choose from stem, pretrain, experts/0"):
        train(raw, only="fit")


def test_what_was_trained_from_another_knee_is_not_kept(tmp_path: Path) -> None:
    photos, run_dir = make_photos(tmp_path / "photos"), tmp_path / "run"
    raw = recipe_settings(photos, run_dir)
    raw["stages"] = {name: raw["stages"][name] for name in ("stem", "pretrain", "experts")}
    raw["stages"]["experts"]["total_images"] = 2
    train(raw)

    seen = list[str]()
    stem = raw["stages"]["stem"]
    longer = {**raw, "stages": {**raw["stages"], "stem": {**stem, "total_images": 14}}}
    another = "pretrain, experts/0, experts/1 were trained from another knee of stem"
    with pytest.raises(ConfigError, match=another):
        train(longer, seen=seen)
    other = {**raw, "stages": {**raw["stages"], "stem": {**stem, "seed": 1}}}
    with pytest.raises(ConfigError, match="stem: seed: was 0 when this run began and is 1 now"):
        train(other, seen=seen)
    assert seen == []

    shutil.rmtree(run_dir / "stem")
    with pytest.raises(ConfigError, match=another):
        train(other, seen=seen)
    train({**other, "stages": {"stem": other["stages"]["stem"]}}, seen=seen)
    with pytest.raises(ConfigError, match=f"{another} than this config gives: remove their folders"):
        train(other, seen=seen)
    assert seen == ["stem"]
    for outdated in ("pretrain", "experts"):
        shutil.rmtree(run_dir / outdated)
    assert train(other, seen=seen) == run_dir / "model"
    assert seen == ["stem", "pretrain", "experts/0", "experts/1"]


def test_a_learned_codec_and_the_paper_s_stem(photos: Path, tmp_path: Path) -> None:
    """The full size's way from nothing: an autoencoder, then a network and a strided stem trained together."""
    stages = {
        "codec": {"total_images": 40, "stage": {"autoencoder": {**AUTOENCODER}}},
        "pretrain": {"stage": {"preset": "tiny", "times": {"law": "logit_normal", "shift": 3.0}}},
        "experts": {"total_images": 4},
    }
    raw = recipe_settings(photos, tmp_path / "run", stages=stages)
    raw["common"]["data"] = {**raw["common"]["data"], "degradations": {"bicubic": 1.0}}
    folder = train(raw)
    assert folder is not None
    codec = [record for record in read_records(tmp_path / "run/codec") if "grad_norm" in record]
    assert codec[-1]["l1"] < codec[0]["l1"]  # type: ignore[operator]
    autoencoder = DeepCompressionCodec.from_pretrained(tmp_path / "run/codec/knee/codec")
    scaled = autoencoder.encode(torch.rand(8, 3, 32, 32) * 2 - 1, None)  # type: ignore[arg-type]
    assert 0.1 < float(scaled.std()) < 10
    pipe = LinearSRPipeline.from_pretrained(folder)
    assert isinstance(pipe.lr_stem, StridedStem)
    assert isinstance(pipe.codec, DeepCompressionCodec)
    assert pipe(Image.new("RGB", (9, 7))).images[0].size == (36, 28)


@pytest.fixture(scope="module")
def sana_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sana(tmp_path_factory.mktemp("sana"))


def test_a_sana_model_is_a_start(photos: Path, sana_folder: Path, tmp_path: Path) -> None:
    """It has its own sizes; what it has not stands beside it."""
    added = {"lr_channels": 5, "num_null_tokens": 3}
    stages = {
        "pretrain": {
            "stage": {"sana": str(sana_folder), "network": added, "gradient_checkpointing": True},
            "optimizer": {"lr": 1e-12, "final_lr": 0.0, "warmup_images": 0},
        },
        "experts": {"total_images": 4},
    }
    folder = train(recipe_settings(photos, tmp_path / "run", stages=stages))
    assert folder is not None
    theirs = weights(sana_folder / "transformer")
    trained = weights(tmp_path / "run/pretrain/knee/transformer")
    name = "transformer_blocks.1.attn1.to_q.weight"
    torch.testing.assert_close(trained[name], theirs[name], rtol=0, atol=1e-6)
    assert LinearSRPipeline.from_pretrained(folder).codec.latent_channels == 8
    assert (trained["patch_embed.proj.weight"].shape[1], len(trained["null_tokens"])) == (8 + 5, 3)


def test_a_sana_model_of_another_size_is_refused(photos: Path, sana_folder: Path, tmp_path: Path) -> None:
    stages = {"pretrain": {"stage": {"preset": "600m", "sana": str(sana_folder)}}}
    with pytest.raises(ConfigError, match=r"stage\.sana: num_attention_heads is 2, preset 600m has 36"):
        check(plan(parse(recipe_settings(photos, tmp_path / "run", stages=stages)), "recipe.yaml"))
