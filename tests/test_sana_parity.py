"""Ours against `diffusers.SanaTransformer2DModel`: same names, same shapes, same numbers."""

import json

import pytest
import torch
from diffusers import SanaTransformer2DModel

from linearsr.models.transformer import INPUT_WEIGHT, LinearSRTransformer
from linearsr.models.transformer_config import PRESETS, TransformerConfig
from linearsr.runtime.checkpoints import CONFIG_NAME, WEIGHTS_NAME, CheckpointError

SMALL = {
    "in_channels": 6,
    "out_channels": 5,
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "num_layers": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 10,
    "caption_channels": 7,
}
TOKENS = 9


def sana(**changes):
    torch.manual_seed(0)
    config = (
        SMALL | {"cross_attention_dim": SMALL["num_attention_heads"] * SMALL["attention_head_dim"]} | changes
    )
    model = SanaTransformer2DModel(**config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ours(theirs, **changes):
    config = TransformerConfig(**(SMALL | changes))
    return LinearSRTransformer.from_state(config, theirs.state_dict(), "test")


def inputs(height=5, width=8, batch=2, tokens=TOKENS):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, SMALL["in_channels"], height, width, generator=generator)
    guidance = torch.randn(batch, tokens, SMALL["caption_channels"], generator=generator)
    return latent, torch.linspace(3.0, 990.0, batch), guidance


def mask_of(batch, tokens=TOKENS):
    mask = torch.ones(batch, tokens)
    for row in range(batch):
        mask[row, tokens - 2 * row - 1 :] = 0
    return mask


def relative_difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("qk_norm", [None, "rms_norm_across_heads"])
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (5, 8), (33, 2), (3, 50)])
@torch.no_grad()
def test_same_output(size, qk_norm, masked, fused):
    theirs = sana(qk_norm=qk_norm)
    model = ours(theirs, qk_norm=qk_norm)
    if fused:
        model.fuse_projections_()
    latent, timestep, guidance = inputs(*size)
    mask = mask_of(2) if masked else None
    expected = theirs(latent, guidance, timestep, encoder_attention_mask=mask).sample
    assert relative_difference(model(latent, timestep, None, guidance, mask), expected) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"patch_size": 2},
        {"norm_elementwise_affine": True},
        {"norm_eps": 1e-3},
        {"mlp_ratio": 4.0},
        {"num_layers": 1, "qk_norm": "rms_norm_across_heads", "attention_bias": True, "patch_size": 2},
    ],
)
@pytest.mark.parametrize(("tokens", "timestep_scale"), [(1, 1.0), (TOKENS, 0.25), (60, 1.0)])
@torch.no_grad()
def test_same_output_for_every_setting(changes, tokens, timestep_scale):
    theirs = sana(**changes)
    latent, timestep, guidance = inputs(6, 10, batch=1, tokens=tokens)
    expected = theirs(latent, guidance, timestep * timestep_scale).sample
    model = ours(theirs, **changes, timestep_scale=timestep_scale)
    assert relative_difference(model(latent, timestep, None, guidance), expected) < 1e-5
    assert relative_difference(model.fuse_projections_()(latent, timestep, None, guidance), expected) < 1e-5


@pytest.mark.parametrize("qk_norm", [None, "rms_norm_across_heads"])
def test_same_gradients(qk_norm):
    theirs = sana(qk_norm=qk_norm)
    model = ours(theirs, qk_norm=qk_norm)
    model.load_state_dict({name: tensor.clone() for name, tensor in theirs.state_dict().items()}, assign=True)
    latent, timestep, guidance = inputs()
    theirs(latent, guidance, timestep, encoder_attention_mask=mask_of(2)).sample.square().sum().backward()
    model(latent, timestep, None, guidance, mask_of(2)).square().sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        # The exact gradient of the key bias is zero: softmax does not see it.
        error = (parameter.grad - expected[name].grad).abs().max()
        assert error < 1e-4 * expected[name].grad.abs().max() + 1e-5, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_as_near_to_float32_as_theirs(dtype):
    theirs = sana()
    latent, timestep, guidance = inputs(16, 16)
    exact = theirs(latent, guidance, timestep).sample
    model = ours(theirs).to(dtype).fuse_projections_()
    error = relative_difference(model(latent.to(dtype), timestep, None, guidance.to(dtype)).float(), exact)
    theirs = theirs.to(dtype)
    their_error = relative_difference(
        theirs(latent.to(dtype), guidance.to(dtype), timestep).sample.float(), exact
    )
    assert error < 1.5 * their_error


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("qk_norm", [None, "rms_norm_across_heads"])
@torch.no_grad()
def test_from_sana_reads_what_diffusers_writes(tmp_path, qk_norm, shards):
    theirs = sana(qk_norm=qk_norm)
    theirs.save_pretrained(tmp_path, **({"max_shard_size": "30KB"} if shards else {}))
    assert (tmp_path / WEIGHTS_NAME).is_file() != shards
    model = LinearSRTransformer.from_sana(tmp_path, lr_channels=4, num_null_tokens=3)
    assert model.null_tokens.shape == (3, SMALL["caption_channels"])
    assert not model.get_parameter(INPUT_WEIGHT)[:, SMALL["in_channels"] :].any()
    latent, timestep, guidance = inputs()
    out = model(latent, timestep, torch.randn(2, 4, *latent.shape[2:]), guidance)
    assert relative_difference(out, theirs(latent, guidance, timestep).sample) < 1e-5
    model.save_pretrained(tmp_path / "ours")
    again = LinearSRTransformer.from_pretrained(tmp_path / "ours")
    assert again.config == model.config


def test_from_sana_takes_guidance_of_another_width(tmp_path):
    sana().save_pretrained(tmp_path)
    theirs = LinearSRTransformer.from_sana(tmp_path, num_null_tokens=2)
    model = LinearSRTransformer.from_sana(tmp_path, num_null_tokens=2, caption_channels=400)
    assert model.config.caption_channels == model.null_tokens.shape[1] == 400
    assert 0.01 < float(model.caption_projection.linear_1.weight.detach().std()) < 0.03
    new = ("caption_projection.linear_1.weight", "null_tokens")
    assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in model.state_dict().items() if n not in new)


def test_from_sana_converts_the_dtype_and_widens_by_nothing(tmp_path):
    sana().save_pretrained(tmp_path)
    model = LinearSRTransformer.from_sana(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.lr_channels == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"interpolation_scale": 1.0}, "positional"),
        ({"guidance_embeds": True}, "Sprint"),
        ({"qk_norm": "layer_norm"}, "qk_norm"),
        ({"cross_attention_dim": 99}, "99"),
        ({"_class_name": "PixArtTransformer2DModel"}, "PixArt"),
        ({"num_layers": 3}, "missing transformer_blocks.2"),
    ],
)
def test_from_sana_refuses_what_it_cannot_hold(tmp_path, changes, expected):
    sana().save_pretrained(tmp_path)
    path = tmp_path / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=expected) as caught:
        LinearSRTransformer.from_sana(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("600m", {"num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16,
                  "cross_attention_head_dim": 72, "cross_attention_dim": 1152}),
        ("1600m", {"num_attention_heads": 70, "num_layers": 20, "num_cross_attention_heads": 20,
                   "cross_attention_head_dim": 112, "cross_attention_dim": 2240}),
    ],
)  # fmt: skip
def test_every_shape_of_the_published_sizes(preset, published):
    with torch.device("meta"):
        theirs = SanaTransformer2DModel(**published)
        model = LinearSRTransformer(PRESETS[preset])
    expected = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    width, channels, *patch = expected[INPUT_WEIGHT]
    expected[INPUT_WEIGHT] = (width, channels + PRESETS[preset].lr_channels, *patch)
    expected["null_tokens"] = (PRESETS[preset].num_null_tokens, published.get("caption_channels", 2304))
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == expected
    assert (
        sum(parameter.numel() for parameter in theirs.parameters())
        == {"600m": 591_747_872, "1600m": 1_604_462_752}[preset]
    )
