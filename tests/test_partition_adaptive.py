"""Boundaries found from data: the best split of a matrix of cosines, and the command that measures one."""

import json
import math
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from commands import document, done, linearsr
from image_tools import smooth_photo
from linearsr.flow.partition import (
    PUBLISHED,
    Partition,
    best_parts,
    common_direction,
    edges_of,
    equal_in_log_snr,
    equal_in_time,
    partition_at,
)
from linearsr.flow.path import log_snr
from linearsr.model_folder import default_model_folder
from linearsr.pipeline import LinearSRPipeline
from linearsr.training.partition import log_snr_grid, measure, shared_network

GRID = log_snr_grid(24)


def directions(seed: int, count: int, width: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 5), st.data())
@settings(max_examples=100, deadline=None)
def test_no_split_is_better(seed, members, width, data):
    parts = data.draw(st.integers(1, members))
    vectors = directions(seed, members, width)
    similarity = vectors @ vectors.T
    found = best_parts(similarity, parts)
    assert (found[0], found[-1], len(found)) == (0, members, parts + 1)
    splits = [[0, *inner, members] for inner in combinations(range(1, members), parts - 1)]
    best = max(common_direction(similarity, split) for split in splits)
    assert common_direction(similarity, found) == pytest.approx(best, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_agreement_is_the_squared_mean_direction(seed, sizes):
    vectors = directions(seed, sum(sizes), 4)
    edges = [0, *np.cumsum(sizes).tolist()]
    parts = np.split(vectors, edges[1:-1])
    expected = sum(len(part) * np.sum(part.mean(axis=0) ** 2) for part in parts) / len(vectors)
    assert common_direction(vectors @ vectors.T, edges) == pytest.approx(expected)


def test_one_part_is_everything_and_none_or_too_many_are_refused():
    assert best_parts(np.eye(5), 1) == [0, 5]
    assert partition_at(GRID, [0, 24]) == Partition()
    for parts in (0, 6):
        with pytest.raises(ValueError, match="5 members cannot be split"):
            best_parts(np.eye(5), parts)


@given(st.lists(st.integers(1, 23), min_size=0, max_size=6, unique=True))
def test_a_partition_splits_the_grid_where_it_was_made(inner):
    edges = [0, *sorted(inner), 24]
    partition = partition_at(GRID, edges)
    assert partition.num_experts == len(edges) - 1
    assert edges_of(partition, GRID) == edges


def test_a_span_between_two_times_of_the_grid_is_an_empty_part():
    lam = GRID[10] + 0.2 * (GRID[11] - GRID[10])
    near = 1 / (1 + math.exp(lam / 2))
    edges = edges_of(Partition((near - 1e-4, near + 1e-4)), GRID)
    assert edges == [0, 11, 11, 24]
    assert common_direction(np.ones((24, 24)), edges) == pytest.approx(1)


def test_equal_spans():
    assert equal_in_time(4).boundaries == (0.25, 0.5, 0.75)
    assert equal_in_time(1) == equal_in_log_snr(1, -7, 9) == Partition()
    snrs = [log_snr(t) for t in equal_in_log_snr(4, -7, 9).boundaries]
    assert snrs == pytest.approx([5, 1, -3])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate("ab"):
        smooth_photo(seed, (96, 96), (24, 24)).save(folder / f"{name}.png")
    return folder


def test_products_are_those_of_vectors_and_the_seed_decides(tiny_model, photos):
    def measured(seed: int):
        pipe = LinearSRPipeline.from_pretrained(tiny_model, torch_dtype=torch.float32)
        return measure(pipe, photos, "bicubic", images=2, times=3, lr_crop=8, seed=seed)

    first = measured(0)
    assert first.products.shape == (1, 3, 3)
    assert (first.products == measured(0).products).all()
    assert (first.products != measured(1).products).any()
    similarity = first.similarity
    assert similarity == pytest.approx(similarity.T)
    assert (np.abs(similarity) <= 1 + 1e-6).all()
    assert np.diag(similarity) == pytest.approx(np.ones(3))
    assert np.linalg.eigvalsh(first.products[0]).min() > -1e-6 * first.products[0].max()


def test_the_shared_network_is_the_mean(tiny_model):
    pipe = LinearSRPipeline.from_pretrained(tiny_model, torch_dtype=torch.float32)
    shared = dict(shared_network(pipe.transformer).named_parameters())
    experts = [dict(expert.state_dict()) for expert in pipe.transformer.experts]
    for name, weight in shared.items():
        expected = torch.stack([expert[name] for expert in experts]).mean(dim=0)
        assert torch.allclose(weight, expected, atol=1e-6), name


run = partial(linearsr, "partition")


def test_the_command(tiny_model, photos, tmp_path):
    common = (tiny_model, "--data", photos, "--images", 4, "--times", 6, "--lr-crop", 8)
    figure = tmp_path / "partition.png"
    report = document(run(*common, "--degrade", "realesrgan", "--figure", figure, "--json"))
    boundaries = report["boundaries"]
    assert len(boundaries) == 3
    assert boundaries == sorted(boundaries)
    assert report["log_snr"] == pytest.approx([log_snr(t) for t in boundaries], abs=1e-3)
    assert report["others"]["published"]["boundaries"] == list(PUBLISHED.boundaries)
    assert report["agreement"] >= max(other["agreement"] for other in report["others"].values())
    assert np.array(report["similarity"]).shape == (6, 6)
    with Image.open(figure) as image:
        assert image.format == "PNG"
    again = run(*common, "--degrade", "realesrgan", "--json")
    assert json.loads(again.stdout) == {key: value for key, value in report.items() if key != "figure"}
    single = ("--experts", 1, "--images", 2)
    assert "found" in done(run(*common, *single)).stdout
    assert document(run(*common, *single, "--json"))["spread"] is None  # one batch says nothing of it


def test_wrong_use(tiny_model, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    taken = tmp_path / "taken.png"
    taken.touch()
    for arguments, reason in (
        ([tiny_model], "--data"),
        ([tiny_model, "--data", tmp_path / "none"], "is not a folder: give"),
        ([tiny_model, "--data", tmp_path / "empty"], "no images"),
        ([tiny_model, "--data", photos, "--degrade", "awful"], "choose from bicubic"),
        ([tiny_model, "--data", photos, "--experts", 9, "--times", 8], "allows at most 8"),
        ([tiny_model, "--data", photos, "--figure", taken], "add --overwrite to replace it"),
        ([tiny_model, "--data", photos, "--figure", "a.jpg"], "ends in .png"),
        ([tmp_path / "no-model", "--data", photos], "no-model"),
        ([default_model_folder(), "--data", photos], "has no experts to partition: choose one that has some"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert reason in " ".join(result.stderr.split()), (arguments, result.stderr)
