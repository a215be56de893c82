"""Counting and timing: against closed forms."""

import time
from functools import partial
from pathlib import Path

import pytest
import torch

from commands import document, linearsr, refused
from linearsr import LinearSRPipeline
from linearsr.evaluation import benchmark
from linearsr.evaluation.benchmark import count_parts, measure, transformer_macs, with_peak
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


def test_the_parts_of_a_model_are_counted(tiny_model):
    pipe = LinearSRPipeline.from_pretrained(tiny_model)
    parts = {part.part: part for part in count_parts(pipe, 9, 7)}
    assert list(parts) == ["lr_stem", "transformer", "codec"]
    assert parts["lr_stem"].parameters == sum(p.numel() for p in pipe.lr_stem.parameters())
    assert parts["transformer"].macs == transformer_macs(pipe.transformer.config, 5, 4)
    small, large = (sum(part.macs for part in count_parts(pipe, side, side)) for side in (32, 64))
    assert large == pytest.approx(4 * small, rel=0.01)


def test_the_median_is_of_the_counted_runs_only():
    waits = iter([0.2, 0.01, 0.02, 0.03])
    assert 0.01 <= measure(lambda: time.sleep(next(waits)), CPU, runs=3) < 0.2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="other systems do not forget a peak")
def test_the_peak_is_of_the_call():
    _, base = with_peak(lambda: None, CPU)
    result, peak = with_peak(lambda: torch.ones(2**26).numel(), CPU)
    assert result == 2**26
    assert peak - base > 2**27
    assert with_peak(lambda: None, CPU)[1] - base < 2**26


def test_a_size_beyond_the_memory_is_refused_at_once(tiny_model, monkeypatch):
    monkeypatch.setattr(devices, "physical_memory", lambda device: 2**20)
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("nothing must be measured"))
    result = run(tiny_model, "--sizes", "8,512", "--runs", 1)
    assert result.exit_code == 1
    assert "an image of 512x512 needs about" in result.stderr
    assert result.stderr.count("\n") == 1


def test_any_failure_is_one_line(tiny_model, monkeypatch):
    monkeypatch.setattr(LinearSRPipeline, "__call__", lambda *_: [] + 1)
    result = run(tiny_model, "--sizes", 8, "--runs", 1)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert result.stderr.startswith("linearsr: TypeError: can only concatenate list")


run = partial(linearsr, "bench")


def test_the_command_measures(tiny_model):
    options = ["--sizes", "16x12,8", "--runs", 2]
    report = document(run(tiny_model, *options, "--json"))
    assert [(size["input"], size["output"]) for size in report["sizes"]] == [
        ([8, 8], [32, 32]),
        ([16, 12], [64, 48]),
    ]
    assert report["sizes"][0]["image_seconds"] > report["sizes"][0]["nfe_seconds"] > 0
    assert "lr_stem" in run(tiny_model, *options).stdout


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--sizes", "0"], "'0' is not a size"),
        (["--sizes", "12x"], "'12x' is not a size"),
        (["--sizes", ""], "is not a size"),
        (["nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(options, complaint):
    assert complaint in refused(run(*options))
