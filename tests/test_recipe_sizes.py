"""The full size by the same way: learned codecs, weights of SANA, and low-rank updates."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from linearsr import LinearSRPipeline
from linearsr.models.codec import DeepCompressionCodec
from linearsr.models.lr_stem import StridedStem
from linearsr.runtime.checkpoints import CheckpointError
from recipe_tools import recipe_settings, train
from training_tools import AUTOENCODER, make_sana, read_records, weights


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
