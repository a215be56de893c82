"""`benchmarks/peers.py`: what the others make is kept, and one run prints every measure of every method."""

import importlib
from pathlib import Path

import pytest
import torch

from eval_tools import picture

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers")


def test_results_are_made_once_for_each_lr_image(peers, tmp_path):
    calls = []

    def upscale(lr):
        calls.append(1)
        return lr.repeat_interleave(4, 1).repeat_interleave(4, 2) * 1.01

    lr, other = torch.rand(2, 3, 4, 5).mul(255).round().div(255)
    first = peers.make_or_read(upscale, lr, tmp_path / "method", "photo")
    again = peers.make_or_read(upscale, lr, tmp_path / "method", "photo")
    assert len(calls) == 1
    assert first.seconds > 0
    assert again.seconds is None
    torch.testing.assert_close(again.image, first.image, atol=1e-6, rtol=0)
    # another degradation of the same photo
    peers.make_or_read(upscale, other, tmp_path / "method", "photo")
    assert len(calls) == len(list((tmp_path / "method").iterdir())) == 2
    assert peers.make_or_read(upscale, lr, None, "photo").seconds > 0


def test_one_table_for_photos_and_pairs(peers, tmp_path, tiny_model, monkeypatch, capsys):
    picture(tmp_path / "photos/a.png", size=(200, 204), noise=9)
    picture(tmp_path / "set/HR/b.png", size=(64, 48))
    picture(tmp_path / "set/LR/b.png", size=(16, 12))
    places = {"--hr": tmp_path / "photos", "--cache": tmp_path / "cache", "--model": tiny_model}
    arguments = [str(word) for pair in places.items() for word in pair]
    pairs = ["--pairs", str(tmp_path / "set/LR"), str(tmp_path / "set/HR")]
    command = [
        "peers.py",
        *arguments,
        *pairs,
        "--degrade",
        "bicubic",
        "--methods",
        "bicubic",
        "lanczos",
        "ours",
    ]
    monkeypatch.setattr("sys.argv", command)
    tables = []
    for _ in range(2):
        peers.main()
        lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
        tables.append([line.split() for line in lines if line.startswith(("input", "bicubic", "set"))])
    head, *rows = tables[0]
    assert " ".join(head) == "input method psnr_y ssim_y haarpsi lpips niqe sharpness s / MP"
    assert [row[2] for row in rows] == ["bicubic", "lanczos", "ours"] * 2
    assert [len(row) for row in rows] == [10] * 3 + [9] * 3  # NIQE needs 192x192 pixels
    again = tables[1][1:]
    # what is kept has the same figures, but no seconds
    assert [row[:9] for row in again[:3]] == [row[:9] for row in rows[:3]]
    assert [len(row) for row in again] == [9, 9, 10, 8, 8, 9]
