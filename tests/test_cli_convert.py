"""`linearsr convert`: from SANA's folders, and to 8 bits."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaTransformer2DModel
from PIL import Image

from commands import document, done, linearsr, refused
from full_size_model import autoencoder
from image_tools import smooth_photo
from linearsr.backends import nvlabs
from linearsr.models import int8
from linearsr.pipeline import LinearSRPipeline
from linearsr.runtime.checkpoints import CheckpointError, save_tensors
from linearsr.runtime.devices import best_dtype
from test_rrdb import with_trunk
from tiny_encoders import write_gemma2, write_tokenizer

needs_int8 = pytest.mark.skipif(not int8.supported(), reason="this torch has no 8-bit convolutions")


convert = partial(linearsr, "convert")


def toy_transformer(head_dim: int, **more: Any) -> SanaTransformer2DModel:
    heads = 4 if head_dim == 32 else 2
    sizes = {"num_attention_heads": 2, "attention_head_dim": head_dim, "cross_attention_dim": 2 * head_dim}
    cross = {"num_cross_attention_heads": heads, "cross_attention_head_dim": 2 * head_dim // heads}
    given = {"in_channels": 8, "out_channels": 8, "caption_channels": 16, "num_layers": 1, **more}
    return SanaTransformer2DModel(**sizes, **cross, **given)


@pytest.fixture
def sana(tmp_path: Path) -> Path:
    """A SANA of a toy's size, each part written by `diffusers` or `transformers` itself."""
    torch.manual_seed(0)
    folder = tmp_path / "Sana_toy"
    toy_transformer(8).save_pretrained(folder / "transformer")
    autoencoder().save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    write_gemma2(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')
    return folder


def test_sana_becomes_a_model_that_upscales(sana: Path, tmp_path: Path) -> None:
    assert document(convert(sana, "-o", tmp_path / "model", "--json"))["guidance"] == "text"
    pipe = LinearSRPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32, device="cpu")
    assert pipe.config.flow_shift == 3.0
    assert pipe.multiple_of == 8
    out = pipe(np.zeros((16, 16, 3), np.uint8), num_inference_steps=1, tags="sky").images[0]
    assert out.size == (64, 64)
    theirs = SanaTransformer2DModel.from_pretrained(sana / "transformer").state_dict()
    ours = next(pipe.transformer.experts.children()).state_dict()
    assert all(torch.equal(ours[k], v) for k, v in theirs.items() if k != "patch_embed.proj.weight")
    weight = ours["patch_embed.proj.weight"]
    assert torch.equal(weight[:, :8], theirs["patch_embed.proj.weight"])
    assert not weight[:, 8:].any()


def test_sana_without_a_text_encoder_has_no_guidance(sana: Path, tmp_path: Path) -> None:
    (sana / "text_encoder").rename(tmp_path / "elsewhere")
    result = convert(sana, "-o", tmp_path / "model", "--json")
    assert json.loads(result.stdout)["guidance"] is None
    assert LinearSRPipeline.from_pretrained(tmp_path / "model", device="cpu").guidance is None


NVLABS_NAMES = {
    "patch_embed.proj": "x_embedder.proj",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1",
    "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "time_embed.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_embed.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_embed.linear": "t_block.1",
    "caption_norm": "attention_y_norm",
    "proj_out": "final_layer.linear",
}
NVLABS_BLOCK_NAMES = {
    "attn1.to_out.0": "attn.proj",
    "attn1.norm_q": "attn.q_norm",
    "attn1.norm_k": "attn.k_norm",
    "attn2.to_q": "cross_attn.q_linear",
    "attn2.to_out.0": "cross_attn.proj",
    "attn2.norm_q": "cross_attn.q_norm",
    "attn2.norm_k": "cross_attn.k_norm",
    "ff.conv_inverted": "mlp.inverted_conv.conv",
    "ff.conv_depth": "mlp.depth_conv.conv",
    "ff.conv_point": "mlp.point_conv.conv",
}


def as_nvlabs(network: SanaTransformer2DModel) -> dict[str, torch.Tensor]:
    """Its weights as NVlabs' own code names and joins them."""
    left, theirs = network.state_dict(), {}
    theirs["final_layer.scale_shift_table"] = left.pop("scale_shift_table")
    renamed = dict(NVLABS_NAMES)
    for i in range(network.config.num_layers):
        block, other = f"transformer_blocks.{i}.", f"blocks.{i}."
        theirs[f"{other}scale_shift_table"] = left.pop(f"{block}scale_shift_table")
        renamed |= {block + ours: other + name for ours, name in NVLABS_BLOCK_NAMES.items()}
        for joined, parts in (("attn.qkv", "qkv"), ("cross_attn.kv_linear", "kv")):
            attention = "attn1" if parts == "qkv" else "attn2"
            for kind in ("weight", "bias"):
                names = [f"{block}{attention}.to_{part}.{kind}" for part in parts]
                if names[0] in left:
                    theirs[f"{other}{joined}.{kind}"] = torch.cat([left.pop(name) for name in names])
    for name in list(left):
        layer, _, kind = name.rpartition(".")
        theirs[f"{renamed[layer]}.{kind}"] = left.pop(name)
    theirs["y_embedder.y_embedding"] = torch.zeros(300, network.config.caption_channels)
    theirs["pos_embed"] = torch.zeros(1, 1024, network.config.cross_attention_dim)
    return theirs


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> SanaTransformer2DModel:
    """A network of a toy's size, whose width is taken for a published one."""
    monkeypatch.setitem(nvlabs.CROSS_ATTENTION_HEADS, 64, 4)
    torch.manual_seed(0)
    return toy_transformer(32, num_layers=2, qk_norm="rms_norm_across_heads").eval()


@torch.no_grad()
def test_a_checkpoint_of_nvlabs_becomes_a_sana(original, sana: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": as_nvlabs(original)}, tmp_path / "sana.pth")
    result = done(convert(tmp_path / "sana.pth", "-o", tmp_path / "out", "--json"))
    read = SanaTransformer2DModel.from_pretrained(tmp_path / "out" / "transformer").eval()
    assert json.loads(result.stdout)["parameters"] == sum(p.numel() for p in read.parameters())
    inputs = torch.randn(2, 8, 4, 6), torch.randn(2, 5, 16), torch.tensor([900.0, 3.0])
    assert torch.equal(read(*inputs).sample, original(*inputs).sample)
    assert "out has no folder vae: put that of a" in refused(
        convert(tmp_path / "out", "-o", tmp_path / "none")
    )
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(sana / part, tmp_path / "out" / part)
    assert convert(tmp_path / "out", "-o", tmp_path / "model").exit_code == 0
    assert LinearSRPipeline.from_pretrained(tmp_path / "model", device="cpu").config.flow_shift == 3.0


class Malice:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"cfg_embedder.mlp.0.weight": torch.zeros(1)}, "Sprint"),
        ({"pos_embed": torch.zeros(1, 4096, 64)}, "512 or 1024 pixels"),
        ({"x_embedder.proj.weight": torch.zeros(48, 8, 1, 1)}, "a width of 48"),
        ({"final_layer.linear.weight": None}, "missing proj_out.weight"),
        ({"epoch": 3}, "no tensors by name"),
        ({"state_dict": Malice()}, "cannot be read as plain weights"),
    ],
)
def test_other_checkpoints_are_refused_in_one_line(original, tmp_path, capfd, contents, message) -> None:
    whole = {**as_nvlabs(original), **contents}
    torch.save({name: value for name, value in whole.items() if value is not None}, tmp_path / "sana.pth")
    assert message in refused(convert(tmp_path / "sana.pth", "-o", tmp_path / "out"))
    assert capfd.readouterr().out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("contents", [b"hello", b"", b"\xff\xd8\xff\xe0 a photo", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "junk.pth").write_bytes(contents)
    said = refused(convert(tmp_path / "junk.pth", "-o", tmp_path / "out"))
    assert "junk.pth: cannot be read as plain weights" in said
    assert "weights_only" not in said


def test_a_folder_with_files_is_not_written_into(sana: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("")
    assert "--overwrite" in refused(convert(sana, "-o", tmp_path / "model"))
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["mine.txt"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        smooth_photo(i, (96, 96), (9, 9)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def drawing_model(tmp_path: Path) -> Path:
    """One with a trunk."""
    with_trunk().save_pretrained(tmp_path / "drawing")
    return tmp_path / "drawing"


@needs_int8
def test_int8_keeps_the_weights_and_is_used_where_it_is_faster(
    drawing_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = convert(drawing_model, "--to", "int8", "--photos", photos, "-o", tmp_path / "int8", "--json")
    assert document(made)["psnr_db"]["least"] > 45
    assert "6 ranges; PSNR against float32 on 2 other photos, degraded" in document(made)["note"]
    for file in drawing_model.rglob("*.safetensors"):
        assert (tmp_path / "int8" / file.relative_to(drawing_model)).read_bytes() == file.read_bytes()
    info = json.loads(linearsr("info", str(tmp_path / "int8"), "--json").stdout)

    exact = LinearSRPipeline.from_pretrained(tmp_path / "int8", torch_dtype=torch.float32, device="cpu")
    assert exact.arithmetic == "float32"
    assert info["model"]["int8_ranges"] == len(exact.int8_ranges) == 6
    assert info["int8"] == int8.faster_than(best_dtype(torch.device("cpu")))
    photo = Image.open(photos / "0.png")
    expected = exact(photo, output_type="np").images[0]
    for faster in (True, False):
        monkeypatch.setattr(int8, "faster_than", lambda dtype, faster=faster: faster)
        auto = LinearSRPipeline.from_pretrained(tmp_path / "int8", device="cpu")
        assert auto.arithmetic.startswith("int8") == faster
        for stream in (False, True):
            found = auto(photo, output_type="np", stream=stream).images[0]
            np.testing.assert_allclose(found, expected, atol=2 / 255)
    exact.save_pretrained(tmp_path / "saved")
    saved = (tmp_path / "saved" / "int8_ranges.safetensors").read_bytes()
    assert saved == (tmp_path / "int8" / "int8_ranges.safetensors").read_bytes()


def test_a_model_without_a_trunk_has_no_8_bits(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    said = refused(convert(tiny_model, "--to", "int8", "--photos", photos, "-o", tmp_path / "out"))
    assert "has no trunk, which is the part that computes in 8 bits" in said


@needs_int8
def test_8_bits_that_are_too_coarse_are_not_written(
    drawing_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linearsr.cli.convert._LEAST_AGREEMENT", 200)
    said = refused(convert(drawing_model, "--to", "int8", "--photos", photos, "-o", tmp_path / "int8"), 1)
    assert "8 bits are too coarse for this model" in said
    assert not (tmp_path / "int8").exists()


def test_ranges_that_make_no_sense_are_one_line(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        save_tensors(folder / "int8_ranges.safetensors", {"body.0.rdb1": torch.tensor([value])})
        with pytest.raises(CheckpointError, match=r"int8_ranges.safetensors: int8_ranges must be above 0"):
            LinearSRPipeline.from_pretrained(folder, device="cpu")
    (folder / "int8_ranges.safetensors").write_bytes(b"?")
    with pytest.raises(CheckpointError, match=r"int8_ranges.safetensors: damaged"):
        LinearSRPipeline.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("tiny", [], "neither a SANA in diffusers format nor"),
        ("tiny", ["--to", "int8"], "--to int8 needs photos"),
        ("tiny", ["--photos", "."], "--photos is used only with --to int8"),
        ("default", [], "add --to int8"),
    ],
)
def test_wrong_use_is_one_line(tiny_model: Path, tmp_path: Path, source: str, options, expected: str) -> None:
    given = tiny_model if source == "tiny" else source
    assert expected in refused(convert(given, "-o", tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()
