"""What is ours in the transformer: LR features, null tokens, the skip, fused projections, checkpointing, layouts."""

from dataclasses import replace

import pytest
import torch

from linearsr.models.rows import joined
from linearsr.models.transformer import INPUT_WEIGHT, LinearSRTransformer
from linearsr.models.transformer_config import PRESETS

TINY = PRESETS["tiny"]


def fresh(config=TINY, noise=0.05):
    torch.manual_seed(0)
    model = LinearSRTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def inputs(config=TINY, batch=2, height=6, width=4):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, config.in_channels, height, width, generator=generator)
    lr_features = torch.randn(batch, config.lr_channels, height, width, generator=generator)
    return latent, torch.linspace(10.0, 900.0, batch), lr_features


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    with torch.device("meta"):
        model = LinearSRTransformer(PRESETS[name])
    assert model.config.width == {"tiny": 16, "default": 192, "600m": 1152, "1600m": 2240}[name]
    assert model.patch_embed.proj.in_channels == model.config.in_channels + model.config.lr_channels


@pytest.mark.parametrize("name", ["tiny", "default"])
@torch.no_grad()
def test_lr_features_and_guidance_have_no_say_at_the_start(name):
    config = PRESETS[name]
    model = LinearSRTransformer(config)
    latent, timestep, lr_features = inputs(config)
    out = model(latent, timestep, lr_features)
    assert out.shape == (2, config.out_channels, 6, 4)
    assert out.abs().max() > 0
    assert torch.equal(out, model(latent, timestep, -lr_features))
    guidance = torch.randn(2, 3, config.caption_channels)
    assert torch.allclose(out, model(latent, timestep, lr_features, guidance), atol=1e-6)


def test_what_starts_at_zero_learns():
    config = replace(TINY, lr_skip=True)
    model = LinearSRTransformer(config)
    model(*inputs(config)).square().sum().backward()
    for name in (
        INPUT_WEIGHT,
        "lr_skip.weight",
        "lr_skip.bias",
        "transformer_blocks.0.attn2.to_out.0.weight",
    ):
        assert model.get_parameter(name).grad.abs().sum() > 0, name
    assert model.get_parameter(INPUT_WEIGHT).grad[:, config.in_channels :].abs().sum() > 0


@torch.no_grad()
def test_the_skip_adds_a_linear_map_of_the_features():
    config = replace(TINY, lr_skip=True)
    model = fresh(config)
    latent, timestep, lr_features = inputs(config)
    with_skip = model(latent, timestep, lr_features)
    skip = torch.einsum("oc,bchw->bohw", model.lr_skip.weight[:, :, 0, 0], lr_features)
    skip += model.lr_skip.bias[:, None, None]
    model.lr_skip.weight.zero_()
    model.lr_skip.bias.zero_()
    torch.testing.assert_close(with_skip - model(latent, timestep, lr_features), skip, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_null_tokens_stand_in_for_missing_guidance():
    model = fresh()
    latent, timestep, lr_features = inputs()
    given = model.null_tokens.expand(2, -1, -1)
    out = model(latent, timestep, lr_features)
    assert torch.equal(out, model(latent, timestep, lr_features, given))
    assert not torch.allclose(out, model(latent, timestep, lr_features, given + 1))
    assert not hasattr(LinearSRTransformer(replace(TINY, num_null_tokens=0)), "null_tokens")


@torch.no_grad()
def test_masked_tokens_do_not_count_and_samples_of_a_batch_are_independent():
    model = fresh()
    latent, timestep, lr_features = inputs()
    guidance = torch.randn(2, 5, TINY.caption_channels)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    out = model(latent, timestep, lr_features, guidance, mask)
    torch.testing.assert_close(out[:1], model(latent[:1], timestep[:1], lr_features[:1], guidance[:1]))
    alone = model(latent[1:], timestep[1:], lr_features[1:], guidance[1:, :2])
    torch.testing.assert_close(out[1:], alone)
    torch.testing.assert_close(
        model(latent, torch.tensor(500.0), lr_features), model(latent, torch.full((2,), 500.0), lr_features)
    )


@pytest.mark.parametrize(
    ("config", "change", "expected"),
    [
        (TINY, {"lr_features": None}, r"\(2, 8, 6, 4\)"),
        (TINY, {"lr_features": torch.zeros(2, 8, 3, 2)}, r"\(2, 8, 3, 2\)"),
        (replace(TINY, lr_channels=0), {"lr_features": torch.zeros(2, 8, 6, 4)}, "lr_features"),
        (replace(TINY, num_null_tokens=0), {}, "encoder_hidden_states"),
        (TINY, {"encoder_attention_mask": torch.ones(2, 2)}, "encoder_hidden_states"),
        (replace(TINY, patch_size=4), {}, "6x4"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(config, change, expected):
    latent, timestep, lr_features = inputs(config)
    arguments = {"lr_features": lr_features if config.lr_channels else None} | change
    with pytest.raises(ValueError, match=expected):
        LinearSRTransformer(config)(latent, timestep, **arguments)


@pytest.mark.parametrize(
    "change",
    [{"num_layers": 0}, {"lr_channels": -1}, {"qk_norm": "layer"}, {"prediction_type": "eps"},
     {"lr_skip": True, "lr_channels": 0}],
)  # fmt: skip
def test_configs_that_mean_nothing_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(TINY, **change)


@pytest.mark.parametrize("config", [TINY, replace(TINY, qk_norm="rms_norm_across_heads")])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (40, 30), (5, 200), (300, 4)])
def test_the_pass_without_gradients_gives_the_same_numbers(config, size):
    model = fresh(config)
    arguments = inputs(config, height=size[0], width=size[1])
    kept = [tensor.clone() for tensor in arguments]
    with_gradients = model(*arguments).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(*arguments), with_gradients, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(arguments, kept, strict=True))


def test_gradient_checkpointing_recomputes_the_blocks_and_changes_no_number():
    gradients, calls = [], []
    for recompute in (False, True):
        model = fresh()
        if recompute:
            model.enable_gradient_checkpointing()
            model.transformer_blocks[0].ff.register_forward_hook(lambda *_: calls.append(1))
        out = model(*inputs())
        out.square().sum().backward()
        gradients.append([out.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert len(calls) == 2


@pytest.mark.parametrize("attention_bias", [False, True])
@torch.no_grad()
def test_fused_projections_are_saved_under_the_separate_names(tmp_path, attention_bias):
    model = fresh(replace(TINY, attention_bias=attention_bias))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    out = model(*inputs())
    assert model.fuse_projections_().fuse_projections_() is model
    torch.testing.assert_close(model(*inputs()), out)
    assert not any("attn1.to_q." in name for name, _ in model.named_parameters())
    model.save_pretrained(tmp_path)
    after = LinearSRTransformer.from_pretrained(tmp_path).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_round_trip_gives_the_same_output(tmp_path, dtype):
    config = replace(TINY, lr_skip=True, prediction_type="sample")
    model = fresh(config).to(dtype)
    arguments = [tensor.to(dtype) for tensor in inputs(config)]
    model.save_pretrained(tmp_path)
    again = LinearSRTransformer.from_pretrained(tmp_path)
    assert again.config == config
    assert torch.equal(again(*arguments), model(*arguments))


@pytest.mark.parametrize("config", [TINY, replace(TINY, qk_norm="rms_norm_across_heads", lr_skip=True)])
def test_autocast_trains_and_validates(config, recwarn):
    model = fresh(config)
    arguments = inputs(config, height=16, width=16)
    exact = model(*arguments).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(*arguments)
        out.float().square().mean().backward()
        with torch.no_grad():
            validated = model(*arguments)
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters()
    )
    for result in (out.detach(), validated):
        assert (result.float() - exact).abs().max() < 0.03 * exact.abs().max()
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


@pytest.mark.parametrize("batch", [1, 3])
def test_images_are_joined_as_pixels(batch):
    first, second = torch.randn(batch, 5, 4, 6), torch.randn(batch, 4, 6, 7).permute(0, 3, 1, 2)
    found = joined(first, second)
    assert torch.equal(found, torch.cat([first, second], dim=1))
    assert found.stride() == (4 * 6 * 12, 1, 6 * 12, 12)


def test_tokens_alone_in_their_batch_are_joined_as_pixels_too():
    # of this layout, `torch.cat` on channels makes one of planes
    tokens = torch.randn(24, 8).reshape(1, 4, 6, 1, 1, 8).permute(0, 5, 1, 3, 2, 4).reshape(1, 8, 4, 6)
    assert joined(tokens, tokens).stride() == (4 * 6 * 16, 1, 6 * 16, 16)
    assert joined(tokens).is_contiguous(memory_format=torch.channels_last)
