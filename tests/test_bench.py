"""Counting, timing and comparing: against closed forms, a direct softmax, and known powers."""

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from commands import document, linearsr, refused
from linearsr import LinearSRPipeline
from linearsr.evaluation import benchmark
from linearsr.evaluation.benchmark import Benchmark, exponent, local_exponents
from linearsr.evaluation.counting import count_macs, count_parts, transformer_macs
from linearsr.evaluation.rivals import rival_call, with_softmax_attention
from linearsr.evaluation.timing import Timing, measure, with_peak
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.runtime import devices

CPU = torch.device("cpu")


def macs_by_hand(height: int, width: int) -> int:
    """Of the preset `tiny` with its null tokens."""
    c, n = PRESETS["tiny"], height * width
    d, heads, head = c.width, c.num_attention_heads, c.attention_head_dim
    hidden, inner = int(c.mlp_ratio * d), c.num_cross_attention_heads * c.cross_attention_head_dim
    tokens = c.num_null_tokens
    attention = (
        4 * n * d * d + 2 * n * heads * head * head + n * heads * head
    )  # projections, S, apply, normaliser
    cross = 2 * n * d * inner + 2 * tokens * d * inner + 2 * n * tokens * inner
    ffn = n * d * 2 * hidden + n * 9 * 2 * hidden + n * hidden * d
    once = 256 * d + d * d + 6 * d * d + tokens * (c.caption_channels * d + d * d)
    ends = n * (c.in_channels + c.lr_channels) * d + n * d * c.out_channels
    return c.num_layers * (attention + cross + ffn) + once + ends


@pytest.mark.parametrize(("height", "width"), [(4, 4), (6, 9), (32, 16)])
def test_macs_of_the_transformer_are_those_of_its_products(height, width):
    assert transformer_macs(PRESETS["tiny"], height, width) == macs_by_hand(height, width)


def test_a_product_is_counted_once():
    assert count_macs(lambda: torch.zeros(5, 7) @ torch.zeros(7, 11)) == 5 * 7 * 11
    assert (
        count_macs(lambda: torch.conv2d(torch.zeros(1, 3, 8, 6), torch.zeros(4, 3, 3, 3), padding=1))
        == 48 * 4 * 27
    )


def test_the_parts_of_a_model_are_counted(tiny_model):
    pipe = LinearSRPipeline.from_pretrained(tiny_model)
    parts = {part.part: part for part in count_parts(pipe, 9, 7)}
    assert list(parts) == ["lr_stem", "transformer", "codec"]
    assert parts["lr_stem"].parameters == sum(p.numel() for p in pipe.lr_stem.parameters())
    assert parts["transformer"].macs == transformer_macs(pipe.transformer.config, 5, 4)
    small, large = (sum(part.macs for part in count_parts(pipe, side, side)) for side in (32, 64))
    assert large == pytest.approx(4 * small, rel=0.01)


@torch.no_grad()
def test_the_quadratic_rival_attends_by_softmax():
    torch.manual_seed(0)
    network = LinearSRTransformer(
        replace(PRESETS["tiny"], num_layers=1, qk_norm="rms_norm_across_heads")
    ).eval()
    quadratic = with_softmax_attention(network.fuse_projections_())
    attention = quadratic.transformer_blocks[0].attn1
    x = torch.randn(1, 6, 16)
    q, k, v = attention.norm_q(attention.to_q(x)), attention.norm_k(attention.to_k(x)), attention.to_v(x)
    heads = [part.view(6, 2, 8).transpose(0, 1) for part in (q, k, v)]
    weights = torch.softmax(heads[0] @ heads[1].transpose(1, 2) / math.sqrt(8), dim=-1)
    expected = attention.to_out[0]((weights @ heads[2]).transpose(0, 1).reshape(1, 6, 16))
    torch.testing.assert_close(attention(x), expected)
    inputs = {
        "hidden_states": torch.randn(1, 8, 3, 2),
        "timestep": torch.tensor([500.0]),
        "lr_features": torch.randn(1, 8, 3, 2),
        "encoder_hidden_states": None,
    }
    # the weights are ours, all but the attention works alike
    ours, theirs = network(**inputs), rival_call("softmax", network, inputs)()
    assert theirs.shape == ours.shape
    assert not torch.allclose(theirs, ours)
    assert (theirs - ours).abs().mean() < 0.5 * ours.abs().mean()


@given(st.floats(0.3, 3), st.floats(1e-6, 10))
def test_the_exponent_of_a_power_is_found(power, factor):
    tokens = [256, 1024, 4096]
    assert exponent(tokens, [factor * n**power for n in tokens]) == pytest.approx(power, abs=1e-6)
    assert local_exponents([1, 10, 100], [2.0, 20.0, 2000.0]) == pytest.approx([1, 2])
    with pytest.raises(ValueError, match="two sizes"):
        exponent([256, 256], [1.0, 1.1])


def test_the_median_is_of_the_counted_runs_only():
    waits = iter([0.2, 0.01, 0.02, 0.03])
    timing = measure(lambda: time.sleep(next(waits)), CPU, runs=3, warmup=1)
    assert timing.runs == 3
    assert 0.01 <= timing.low <= timing.median <= timing.high < 0.2
    assert Timing.of([0.5]) == Timing(0.5, 0.5, 0.5, 1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="other systems do not forget a peak")
def test_the_peak_is_of_the_call():
    _, base = with_peak(lambda: None, CPU)
    result, peak = with_peak(lambda: torch.ones(2**26).numel(), CPU)
    assert result == 2**26
    assert peak - base > 2**27
    assert with_peak(lambda: None, CPU)[1] - base < 2**26


@pytest.mark.parametrize(("rival", "sizes"), [("softmax", [True, False]), ("diffusers", [True, True])])
def test_a_rival_that_would_take_too_long_is_left_out(tiny_model, monkeypatch, rival, sizes):
    """Ours takes 1 s an evaluation; at that pace quadratic attention takes little more at 8x8, far more at 128x128."""
    monkeypatch.setattr(benchmark, "rival_call", lambda *_: lambda: None)
    monkeypatch.setattr(benchmark, "measure", lambda *_: Timing(1.0, 1.0, 1.0, 1))
    pipe = LinearSRPipeline.from_pretrained(tiny_model)
    reports = list(Benchmark(1, (rival,), max_seconds=2).of_model(pipe, [(128, 128), (8, 8)]))
    assert [report["input"] for report in reports] == [[8, 8], [128, 128]]
    assert [report["compare"][rival] is not None for report in reports] == sizes
    assert [report["expected_seconds"][rival] <= 2 for report in reports] == sizes


@pytest.mark.parametrize(
    "options", [["--preset", "default"], ["--preset", "tiny", "--compare", "softmax"], []]
)
def test_a_size_beyond_the_memory_is_refused_at_once(tiny_model, monkeypatch, options):
    monkeypatch.setattr(devices, "physical_memory", lambda device: 2**20)
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("nothing must be measured"))
    if "--preset" in options:  # the largest would take minutes, and memory
        monkeypatch.setattr(benchmark, "LinearSRTransformer", lambda _: pytest.fail("nothing must be built"))
    result = run(*(options or [tiny_model]), "--sizes", "8,512", "--runs", 1)
    assert result.exit_code == 1
    assert "an image of 512x512 needs about" in result.stderr
    assert result.stderr.count("\n") == 1


def test_compile_is_for_cuda_only(tiny_model):
    assert "--compile" in refused(run(tiny_model, "--sizes", 8, "--compile", "--device", "cpu"))


def test_compiled_networks_record_graphs_before_they_are_timed(tiny_model, monkeypatch):
    modes = []
    monkeypatch.setattr(LinearSRTransformer, "compile", lambda network, mode: modes.append(mode))
    pipe = LinearSRPipeline.from_pretrained(tiny_model, device="cpu")
    (report,) = Benchmark(1, compiled=True).of_model(pipe, [(8, 8)])
    assert modes == ["reduce-overhead"]
    assert report["nfe_seconds"]["runs"] == 1


def test_any_failure_is_one_line(tiny_model, monkeypatch):
    monkeypatch.setattr(LinearSRPipeline, "__call__", lambda *_: [] + 1)
    result = run(tiny_model, "--sizes", 8, "--runs", 1)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert result.stderr.startswith("linearsr: TypeError: can only concatenate list")


run = partial(linearsr, "bench")


def test_the_command_measures_and_draws(tiny_model, tmp_path):
    figure = tmp_path / "growth.png"
    options = ["--sizes", "8,16x12", "--runs", 2, "--compare", "softmax", "--figure", figure]
    report = document(run(tiny_model, *options, "--json"))
    assert [(size["input"], size["output"]) for size in report["sizes"]] == [
        ([8, 8], [32, 32]),
        ([16, 12], [64, 48]),
    ]
    assert set(report["exponents"]) == {"ours", "softmax"}
    # of two sizes, the fit goes through both
    assert report["exponents_by_step"] == {name: [power] for name, power in report["exponents"].items()}
    assert report["sizes"][0]["nfe_seconds"]["runs"] == 2
    assert Image.open(figure).format == "PNG"
    table = run(tiny_model, *options[:4])
    assert "lr_stem" in table.stdout
    assert "to the power" in table.stdout


def test_a_preset_has_one_evaluation(tmp_path):
    report = document(run("--preset", "tiny", "--sizes", 16, "--runs", 1, "--json"))
    (size,) = report["sizes"]
    assert [part["part"] for part in size["parts"]] == ["transformer"]
    assert (size["tokens"], size["image_seconds"]) == (64, None)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--sizes", "0"], "'0' is not a size"),
        (["--sizes", "12x"], "'12x' is not a size"),
        (["--sizes", ""], "is not a size"),
        (["--compare", "fast"], "choose from softmax, diffusers"),
        (["--preset", "huge"], "choose from tiny, default, 600m, 1600m"),
        (["--preset", "tiny", "model"], "either a model or --preset"),
        (["--figure", "a.png"], "needs two sizes"),
        (["--figure", "nowhere/a.png", "--sizes", "8,16"], "choose a file in an existing folder"),
        (["nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(options, complaint):
    assert complaint in refused(run(*options))
