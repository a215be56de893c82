"""Distillation to few steps: the detail head, and whole runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import PUBLISHED
from linearsr.models.residual import DetailHead
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.config import TrainConfig, parse_settings
from linearsr.training.distill import DistillStage
from linearsr.training.section import ConfigError
from tiny_model import build
from training_tools import flow_stage, picture, read_records, settings, trainer, untagged, weights


@examples(deadline=None, max_examples=10)
@given(blocks=st.integers(1, 3), row=st.integers(0, 15))
def test_a_row_depends_on_rows_within_reach_only(blocks: int, row: int) -> None:
    torch.manual_seed(0)
    head = DetailHead(4, 4, blocks, 12).double()
    torch.nn.init.normal_(head.conv_out.weight)
    for block in head.blocks:
        torch.nn.init.normal_(block.conv_2.weight)
    tokens = torch.randn(1, 16, 16, 3, dtype=torch.float64).requires_grad_()
    head(tokens, torch.randn(1, 4, 16, 3, dtype=torch.float64))[..., row, :].sum().backward()
    assert tokens.grad is not None
    rows = tokens.grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    assert min(rows) == max(0, row - head.reach)
    assert max(rows) == min(15, row + head.reach)


def test_a_new_head_adds_nothing_and_keeps_the_blocks() -> None:
    network = build().transformer.experts[0]
    assert isinstance(network, LinearSRTransformer)
    detailed = network.with_detail(2)
    latent, lr = torch.randn(1, 192, 3, 5), torch.randn(1, 32, 3, 5)
    assert not detailed(latent, torch.tensor([1000.0]), lr_features=lr).any()
    state = detailed.state_dict()
    kept = {
        name
        for name, weight in network.state_dict().items()
        if torch.equal(weight, state.get(name, weight + 1))
    }
    assert {name for name in network.state_dict() if name not in kept} <= {"proj_out.weight", "proj_out.bias"}


@pytest.mark.parametrize("change", [{"out_channels": 100}, {"lr_skip": True}, {"patch_size": 2}])
def test_a_head_needs_a_latent_of_pixels(change: dict[str, int]) -> None:
    network = build().transformer.experts[0]
    assert isinstance(network, LinearSRTransformer)
    with pytest.raises(ValueError, match="detail_blocks"):
        replace(network.config, detail_blocks=2, **change)


def stage(stem: Path, **changes: object) -> dict[str, object]:
    return flow_stage(stem, kind="distill", channels=8, pure_noise_prob=1.0, **changes)


def test_a_run_gives_a_network_without_its_discriminator(
    photos: Path, stem_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    expert = tiny_model / "transformer" / "expert_0"
    what = stage(
        stem_folder,
        init=str(expert),
        network={},
        detail_blocks=1,
        formulas={"l1": 1.0, "ms_ssim": 0.2},
    )
    what |= {"boundaries": [0.223, 0.875, 0.939], "expert": 0}
    made = trainer(photos, tmp_path / "run", stage=what, total_images=4).run()
    assert sorted(folder.name for folder in made.iterdir()) == ["transformer"]
    names = weights(made / "transformer")
    assert "detail_head.conv_out.weight" in names
    assert not any("discriminator" in name for name in names)
    step = next(r for r in read_records(tmp_path / "run") if "grad_norm" in r)
    assert {"l1", "ms_ssim", "adversarial", "discriminator"} <= set(step)
    # the head is another, the interface is the same: it stands beside the other experts
    experts = [
        LinearSRTransformer.from_pretrained(tiny_model / "transformer" / f"expert_{i}") for i in range(1, 4)
    ]
    SNRExperts(PUBLISHED, [LinearSRTransformer.from_pretrained(made / "transformer"), *experts])


def test_a_student_comes_closer_to_its_teacher(photos: Path, stem_folder: Path, tiny_model: Path) -> None:
    torch.manual_seed(0)
    raw = stage(stem_folder, adversarial=0, formulas={}, teacher=str(tiny_model / "transformer"))
    objective = DistillStage.model_validate(raw).objective()
    lr, hr = picture(0, 16), picture(0, 64)
    optimizer = torch.optim.AdamW(objective.network.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        terms = objective.loss(objective.network, untagged(lr, hr, [1, 2]))
        assert set(terms) == {"teacher"}
        optimizer.zero_grad()
        terms["teacher"].backward()
        optimizer.step()
        losses.append(terms["teacher"].item())
    assert losses[-1] < 0.7 * losses[0]


def test_half_of_the_inputs_begin_from_the_first_step(stem_folder: Path, tiny_model: Path) -> None:
    raw = {
        **stage(stem_folder, adversarial=0, rollout=str(tiny_model / "transformer")),
        "pure_noise_prob": 0.5,
    }
    objective = DistillStage.model_validate(raw).objective()
    seeds = list(range(40))
    batch = untagged(
        picture(0, 16)[:1].expand(40, -1, -1, -1), picture(1, 64)[:1].expand(40, -1, -1, -1), seeds
    )
    condition, latent = objective._encode(batch)
    assert condition is not None
    begun = objective._begun(latent, torch.zeros_like(latent), condition, seeds, None)
    true = (begun == latent).all((1, 2, 3))
    assert 10 <= int(true.sum()) <= 30
    alone = objective._begun(
        latent[3:4],
        torch.zeros_like(latent[:1]),
        condition._replace(features=condition.features[3:4]),
        [3],
        None,
    )
    torch.testing.assert_close(alone[0], begun[3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formulas": {"lpips": 1.0}}, "formulas.lpips.*'l1' or 'ms_ssim'"),
        ({"stem": None, "codec": "somewhere"}, "stem: give the folder of a trained stem"),
        ({"detail_blocks": 4}, "detail_blocks needs init"),
        ({"formulas": {"l1": -1.0}}, "formulas.l1.*greater than 0"),
        ({"formulas": {}, "adversarial": 0}, "there is nothing to learn from"),
        ({"teacher_times": [1.0, 0.5, 0.9]}, "teacher_times: .*must fall strictly from 1"),
    ],
)
def test_mistakes_are_one_line(
    change: dict[str, object], message: str, photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    config = settings(photos, tmp_path / "run", stage={**stage(stem_folder), **change})
    with pytest.raises(ConfigError, match=message):
        parse_settings(TrainConfig, config, "test")
