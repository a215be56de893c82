"""The trunk: its arithmetic against a plain RRDBNet, its strips against the whole, its part in a model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.images.convert import lr_tensor, picture_from_array
from linearsr.images.mixing import towards_mean
from linearsr.model_folder import default_model_folder
from linearsr.models.rows import Chain, Convolution, InPieces, through
from linearsr.models.rrdb import RRDBNet, RRDBNetConfig
from linearsr.runtime.checkpoints import load_weights, quantised, save_weights
from linearsr.streaming.memory import strip_bytes, strip_rows_within
from strips import in_strips
from tiny_model import build


def tiny_trunk() -> RRDBNet:
    torch.manual_seed(1)
    return RRDBNet(RRDBNetConfig(channels=8, growth_channels=4, num_blocks=2)).eval()


def with_trunk(**settings: object) -> LinearSRPipeline:
    model = build()
    config = replace(model.config, num_inference_steps=0, mean="stem", **settings)  # type: ignore[arg-type]
    return LinearSRPipeline(model.lr_stem, model.transformer, model.codec, config, trunk=tiny_trunk())


def plain(net: RRDBNet, lr: Tensor) -> Tensor:
    """RRDBNet as its paper draws it, one function call a layer, on an image whose border is mirrored."""
    state, border = net.state_dict(), 4

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def dense(x: Tensor, name: str) -> Tensor:
        seen = x
        for i in range(1, 5):
            seen = torch.cat([seen, act(conv(seen, f"{name}.conv{i}"))], dim=1)
        return x + 0.2 * conv(seen, f"{name}.conv5")

    first = conv(F.pad(lr / 2 + 0.5, (border,) * 4, mode="reflect"), "conv_first")
    x = first
    for block in range(net.config.num_blocks):
        inner = x
        for i in (1, 2, 3):
            inner = dense(inner, f"body.{block}.rdb{i}")
        x = x + 0.2 * inner
    x = first + conv(x, "conv_body")
    for name in ("conv_up1", "conv_up2"):
        x = act(conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), name))
    x = conv(act(conv(x, "conv_hr")), "conv_last")
    return 2 * x[:, :, 4 * border : -4 * border, 4 * border : -4 * border] - 1


@torch.inference_mode()
def test_it_computes_what_the_paper_draws() -> None:
    net = tiny_trunk().double()
    lr = torch.rand(2, 3, 9, 13, dtype=torch.float64) * 2 - 1
    # the last convolution is computed in float32
    torch.testing.assert_close(net(lr).double(), plain(net, lr), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (5, 2), (17, 11), (33, 8)])
def test_strips_of_any_height_are_the_whole(dtype: torch.dtype, height: int, width: int) -> None:
    net = tiny_trunk().to(dtype)
    lr = torch.rand(1, 3, height, width) * 2 - 1
    whole = net(lr)
    assert whole.shape == (1, 3, 4 * height, 4 * width)
    assert whole.dtype == torch.float32
    for rows in (1, 2, 7):
        strips = torch.cat(list(through(net.rows(), lr.split(rows, dim=2))), dim=2)
        torch.testing.assert_close(strips, whole, atol=2e-5 if dtype == torch.float32 else 0.02, rtol=0)


@torch.inference_mode()
def test_without_a_border_the_rest_is_the_same() -> None:
    net, lr = tiny_trunk(), torch.rand(1, 3, 9, 13) * 2 - 1
    mirrored = F.pad(lr, (4,) * 4, mode="reflect")
    (made,) = through(net.rows(border=0), [mirrored])
    torch.testing.assert_close(made[..., 16:-16, 16:-16], net(lr))
    assert made.shape == (1, 3, 68, 84)


class Watched:
    """Rows as they are; notes how many pixels come at once."""

    def __init__(self) -> None:
        self.pixels: list[int] = []

    def push(self, x: Tensor | None, last: bool = False) -> Tensor | None:
        self.pixels += [] if x is None else [x.shape[2] * x.shape[3]]
        return x


def test_rows_that_come_at_once_go_on_in_pieces() -> None:
    watched, image = Watched(), torch.rand(1, 2, 50, 7)
    made = torch.cat(list(through(InPieces(30, watched), image.split(45, dim=2))), dim=2)
    assert torch.equal(made, image)
    assert max(watched.pixels) == 28
    assert InPieces(30, Watched()).push(None, last=True) is None


def test_what_lags_in_the_blocks() -> None:
    net, height = tiny_trunk(), 60
    blocks = Chain(*(block.rows() for block in net.body), Convolution(net.conv_body))
    out = blocks.push(torch.rand(1, 8, height, 5))
    assert out is not None
    assert out.shape[2] == height - net.lag


def test_the_memory_that_is_expected_grows_with_the_picture() -> None:
    pipe = with_trunk()
    smallest, small, large = (pipe.estimate_memory(side, side) for side in (1, 1000, 2000))
    assert (large - smallest) / (small - smallest) == pytest.approx(4, rel=1e-3)
    for limit in (10**7, 10**8, 10**9):
        rows = strip_rows_within(pipe, 300, limit)
        assert rows == 1 or strip_bytes(pipe, 300, rows) <= limit


def test_without_a_step_the_result_lies_between_trunk_and_mean() -> None:
    pipe = with_trunk()
    photo = np.random.default_rng(0).random((10, 14, 3), dtype=np.float32)
    lr = lr_tensor(picture_from_array(photo))
    with torch.inference_mode():
        drawn, mean = ((x + 1) / 2 for x in (pipe.trunk(lr), pipe.lr_stem(lr).prediction))
    for fidelity in (0.0, 0.3, 1.0):
        result = pipe(photo, fidelity=fidelity, output_type="pt").images[0]
        expected = towards_mean(2 * drawn - 1, 2 * mean - 1, fidelity) if fidelity else 2 * drawn - 1
        torch.testing.assert_close(result[None], (expected / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    one_step = pipe(photo, num_inference_steps=1, fidelity=0.0, output_type="pt").images[0]
    assert not torch.allclose(one_step[None], drawn.clamp(0, 1), atol=0.01)


@pytest.mark.parametrize("color_fix", ["none", "wavelet"])
@pytest.mark.parametrize("fidelity", [0.0, 0.4, 1.0])
def test_a_picture_in_strips(fidelity: float, color_fix: str) -> None:
    pipe = with_trunk(fidelity=fidelity, color_fix=color_fix)
    picture = picture_from_array(np.random.default_rng(0).random((37, 26, 3), dtype=np.float32))
    whole = pipe.upscale(picture, stream=False).colour
    for rows in (2, 8):
        np.testing.assert_allclose(in_strips(pipe, picture.colour, strip_rows=rows), whole, atol=2e-5)


def test_a_model_with_a_trunk_is_saved_and_read(tmp_path: Path) -> None:
    pipe = with_trunk()
    pipe.save_pretrained(tmp_path)
    read = LinearSRPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    image = Image.new("RGB", (8, 8), (10, 100, 200))
    assert read.config.num_inference_steps == 0
    assert np.array_equal(np.asarray(read(image).images[0]), np.asarray(pipe(image).images[0]))


def test_what_cannot_be_done_without_a_step() -> None:
    model, image = build(), Image.new("RGB", (8, 8))
    with pytest.raises(ValueError, match="no trunk, so at least 1 is needed"):
        model(image, num_inference_steps=0)
    config = replace(model.config, num_inference_steps=0)
    with pytest.raises(ValueError, match="num_inference_steps 0: the model has no trunk"):
        LinearSRPipeline(model.lr_stem, model.transformer, model.codec, config)
    with pytest.raises(ValueError, match="ask for at least one step"):
        with_trunk()(image, output_type="latent")
    two = build(scale=2)
    with pytest.raises(ValueError, match="trunk: needs a stem of scale 4"):
        LinearSRPipeline(two.lr_stem, two.transformer, two.codec, two.config, trunk=tiny_trunk())


def test_kernels_in_8_bits_come_back_within_half_a_step(tmp_path: Path) -> None:
    state = tiny_trunk().state_dict()
    state["conv_first.weight"][0, 0] = 0
    save_weights(tmp_path, {}, quantised(state))
    read = load_weights(tmp_path)
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        step = tensor.abs().amax((2, 3), keepdim=True) / 127 if tensor.ndim == 4 else torch.zeros(1)
        assert ((read[name] - tensor).abs() <= 0.51 * step + 1e-7).all(), name


def test_the_built_in_trunk_is_stored_in_8_bits() -> None:
    stored = load_file(next((default_model_folder() / "trunk").glob("*.safetensors")))
    kernels = [tensor for name, tensor in stored.items() if name.endswith(".weight")]
    assert {tensor.dtype for tensor in kernels} == {torch.int8}
