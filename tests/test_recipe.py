"""Recipes: stages in order, each from the knee of the one before, and the full size by the same way."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from linearsr import LinearSRPipeline
from linearsr.checkpoints import CheckpointError
from linearsr.models.codec import DeepCompressionCodec
from linearsr.models.lr_stem import StridedStem
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.config import parse_settings
from linearsr.training.recipe import RecipeConfig, plan, train_recipe
from linearsr.training.section import ConfigError
from training_tools import make_photos, read_records, settings, weights

NETWORK = {"in_channels": 192, "out_channels": 192, "lr_channels": 32, "prediction_type": "sample"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


def recipe_settings(photos: Path, run_dir: Path, **changes: Any) -> dict[str, Any]:
    common = settings(photos, run_dir)
    del common["run_dir"], common["stage"]
    return {
        "run_dir": str(run_dir),
        "boundaries": [0.5],
        "common": common,
        "stages": {
            "stem": {"stage": {"stem": {"channels": 8, "num_blocks": 1}}},
            "pretrain": {"stage": {"preset": "tiny", "network": NETWORK, "min_weight_time": 0.3}},
            "experts": {"total_images": 6, "optimizer": {"lr": 1e-4}},
            "sft": {"total_images": 2, "stage": {"pure_noise_prob": 0.5}},
        },
        "model": {"fidelity": 0.25, "num_inference_steps": 2, "name": "test"},
        **changes,
    }


def parse(raw: dict[str, Any]) -> RecipeConfig:
    return parse_settings(RecipeConfig, copy.deepcopy(raw), "recipe.yaml")


def train(raw: dict[str, Any], only: str | None = None, seen: list[str] | None = None) -> Path | None:
    recipe = parse(raw)
    names = seen if seen is not None else []

    def report_for(run: Any) -> Any:
        names.append(run.name)
        return lambda record: None

    return train_recipe(recipe, plan(recipe, "recipe.yaml"), report_for, only)


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


def test_each_stage_starts_from_the_knee_of_the_one_before(photos: Path, tmp_path: Path) -> None:
    raw = recipe_settings(photos, tmp_path / "run")
    raw["common"]["optimizer"] = {"lr": 1e-12, "final_lr": 0.0, "warmup_images": 0}
    del raw["stages"]["experts"]["optimizer"]
    train(raw)
    start = weights(tmp_path / "run/pretrain/knee/transformer")
    for run in ("experts/0", "experts/1", "sft/1"):
        for name, tensor in weights(tmp_path / "run" / run / "knee/transformer").items():
            torch.testing.assert_close(tensor, start[name], rtol=0, atol=1e-6)
    configs = {run.name: run.config.stage for run in plan(parse(raw), "recipe.yaml")}
    assert str(configs["sft/1"].init) == str(tmp_path / "run/experts/1/knee/transformer")  # type: ignore[union-attr]
    assert configs["experts/0"].min_weight_time == 0.3  # type: ignore[union-attr]


def test_experts_can_be_trained_apart_and_in_any_order(photos: Path, tmp_path: Path) -> None:
    raw = recipe_settings(photos, tmp_path / "run")
    with pytest.raises(ConfigError, match="pretrain starts from the knee of stem: train that first"):
        train(raw, only="pretrain")
    for only in ("stem", "pretrain", "experts/1", "experts/0", "sft/0"):
        assert train(raw, only=only) is None
    assert train(raw, only="sft") == tmp_path / "run" / "model"
    with pytest.raises(ConfigError, match="--stage fit: choose from stem, pretrain, experts/0"):
        train(raw, only="fit")


def test_a_recipe_goes_on_where_it_was_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linearsr.training.trainer import Trainer

    whole = recipe_settings(photos, tmp_path / "whole")
    train(whole)
    raw = recipe_settings(photos, tmp_path / "run")
    plain = Trainer._step

    def killed(self: Trainer, *arguments: Any) -> Any:
        if "experts/1" in str(self.config.run_dir) and self.progress.images == 4:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(raw)
    monkeypatch.undo()
    seen = list[str]()
    train(raw, seen=seen)
    assert seen == ["experts/1", "sft/0", "sft/1"]
    for expert in ("sft/0", "sft/1"):
        for name, tensor in weights(tmp_path / "run" / expert / "knee/transformer").items():
            assert torch.equal(tensor, weights(tmp_path / "whole" / expert / "knee/transformer")[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": {"dream": {}}}, "unknown stage 'dream': choose from codec, stem, pretrain, experts, sft"),
        ({"stages": {"experts": {}}}, "pretrain, which is missing"),
        ({"boundaries": [0.9, 0.1]}, "must rise strictly"),
        ({"model": {"fidelty": 1}}, "unknown setting 'fidelty'"),
        ({"model": {"solver": "magic"}}, "solver 'magic'"),
        ({"comon": {}}, "comon: Extra inputs"),
        ({"stages": {"stem": {"batch": 3}}}, r"stages\.stem: batch: Extra inputs"),
        ({"stages": {"pretrain": {"stage": {"preset": "huge"}}}}, r"stages\.pretrain: .*huge"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(
    changes: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan(parse(recipe_settings(photos, tmp_path, **changes)), "recipe.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_the_configs_of_the_repository_can_be_read(config: Path) -> None:
    recipe = parse(yaml.safe_load(config.read_text()))
    assert plan(recipe, str(config))


AUTOENCODER = {
    "in_channels": 3,
    "latent_channels": 8,
    "attention_head_dim": 8,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": (8, 8, 16, 16),
    "decoder_block_out_channels": (8, 8, 16, 16),
    "encoder_layers_per_block": (1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "encoder_qkv_multiscales": ((), (), (), ()),
    "decoder_qkv_multiscales": ((), (), (), ()),
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
}


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
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("sana")
    torch.manual_seed(0)
    diffusers.SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
    ).save_pretrained(folder / "transformer")
    diffusers.AutoencoderDC(**AUTOENCODER, scaling_factor=0.41407).save_pretrained(folder / "vae")
    return folder


def test_a_sana_model_is_a_start(photos: Path, sana_folder: Path, tmp_path: Path) -> None:
    stages = {
        "pretrain": {
            "stage": {"preset": "tiny", "sana": str(sana_folder), "gradient_checkpointing": True},
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


def test_a_sana_model_of_another_size_is_refused(photos: Path, sana_folder: Path, tmp_path: Path) -> None:
    stages = {"pretrain": {"stage": {"preset": "600m", "sana": str(sana_folder)}}}
    with pytest.raises(CheckpointError, match="num_attention_heads is 2, preset 600m has 36"):
        train(recipe_settings(photos, tmp_path / "run", stages=stages))


def test_low_rank_updates_train_and_are_merged(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    raw = recipe_settings(photos, tmp_path / "run")
    raw["stages"]["sft"] = {
        "total_images": 4,
        "ema_decay": 0.0,
        "optimizer": {"lr": 1e-2, "warmup_images": 0},
        "stage": {"lora": {"rank": 2, "alpha": 4}},
    }
    folder = train(raw)
    assert folder is not None
    before = weights(tmp_path / "run/experts/0/knee/transformer")
    after = weights(tmp_path / "run/sft/0/knee/transformer")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(
        name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for name in changed
    )
    difference = (
        after["transformer_blocks.0.attn1.to_q.weight"] - before["transformer_blocks.0.attn1.to_q.weight"]
    )
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2


def test_merged_low_rank_updates_compute_the_same(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from linearsr.models.presets import PRESETS
    from linearsr.training.lora import LoraConfig, add_lora, merge_lora

    torch.manual_seed(0)
    network = LinearSRTransformer(PRESETS["tiny"]).eval()
    config = LoraConfig(rank=2, alpha=8)
    add_lora(network, config)
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    plain = LinearSRTransformer.from_state(PRESETS["tiny"], merge_lora(network.state_dict(), config), "test")
    inputs = torch.randn(1, 8, 4, 4), torch.tensor([500.0]), torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(network(*inputs), plain(*inputs), rtol=1e-4, atol=1e-5)
