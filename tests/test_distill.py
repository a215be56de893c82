"""Distillation to few steps: formulas, the discriminator's two sides, the detail head, and whole runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from linearsr.evaluation.haarpsi import haarpsi as haarpsi_figure
from linearsr.evaluation.metrics import ms_ssim as ms_ssim_figure
from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import PUBLISHED
from linearsr.models.residual import DetailHead
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.config import TrainConfig, parse_settings
from linearsr.training.distill import DistillStage
from linearsr.training.judges import FORMULAS, Discriminator, DiscriminatorConfig, play
from linearsr.training.section import ConfigError
from tiny_model import build
from training_tools import flow_stage, read_records, settings, trainer, untagged, weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    build().save_pretrained(folder)
    return folder


def picture(seed: int, side: int = 64) -> torch.Tensor:
    small = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic").clamp(-1, 1)


# formulas


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_least_for_equal_images_and_falls_on_the_way_there(name: str) -> None:
    hr, start = picture(0), picture(1)
    values = [float(FORMULAS[name](torch.lerp(start, hr, share), hr)) for share in (0.0, 0.5, 0.9, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_leads_towards_the_photo(name: str) -> None:
    hr = picture(0)
    image = torch.lerp(hr, picture(1), 0.1).requires_grad_()
    FORMULAS[name](image, hr).backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    # downhill is the way to the photo
    assert float((image.grad * (hr - image.detach())).sum()) < 0


def test_gradient_and_focal_frequency_are_what_their_definitions_say() -> None:
    flat = torch.zeros(1, 1, 4, 4).expand(1, 3, 4, 4)
    step = flat.clone()
    step[..., 2:] = 1
    assert float(FORMULAS["gradient"](step, flat)) == pytest.approx(1 / 3)
    # one frequency alone weighs in full: the squared error of the pixels
    wave = torch.cos(torch.arange(8) * torch.pi / 2).expand(1, 3, 8, 8).contiguous()
    assert float(FORMULAS["focal_frequency"](wave, 0 * wave)) == pytest.approx(
        float(wave.square().mean()), rel=1e-4
    )


@pytest.mark.parametrize("name", ["l1", "gradient", "focal_frequency", "ms_ssim"])
def test_a_turned_picture_costs_the_same(name: str) -> None:
    hr, image = picture(0), torch.lerp(picture(0), picture(1), 0.2)
    turned = [torch.rot90(x, 1, (2, 3)).contiguous() for x in (image, hr)]
    assert float(FORMULAS[name](*turned)) == pytest.approx(float(FORMULAS[name](image, hr)), rel=1e-3)


def test_a_mesh_costs_more_than_grain_as_strong() -> None:
    hr = picture(0)
    generator = torch.Generator().manual_seed(0)
    cell = torch.randn(1, 3, 4, 4, generator=generator)
    cell -= cell.mean((2, 3), keepdim=True)
    mesh, grain = cell.repeat(2, 1, 16, 16), torch.randn(2, 3, 64, 64, generator=generator)
    costs = [float(FORMULAS["grid"](hr + 0.1 * x / x.std(), hr)) for x in (mesh, mesh.roll(1, 3), grain)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-3)  # whatever the phase
    assert costs[0] > 1.5 * costs[2]
    wider = torch.cos(torch.arange(64) * 2 * torch.pi / 7).expand(2, 3, 64, 64)
    assert float(FORMULAS["grid"](hr + 0.1 * wider, hr)) < 0.5 * costs[0]


def test_similarity_losses_are_one_less_the_figures() -> None:
    hr, image = picture(0, 192), torch.lerp(picture(0, 192), picture(1, 192), 0.2)
    for name, figure in (("ms_ssim", ms_ssim_figure), ("haarpsi", haarpsi_figure)):
        unit = [(x.double() + 1) / 2 for x in (image, hr)]
        assert float(FORMULAS[name](image, hr)) == pytest.approx(1 - figure(*unit), abs=1e-4)


# the detail head


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


@pytest.mark.parametrize(
    "change", [{"out_channels": 100}, {"lr_channels": 0}, {"lr_skip": True}, {"patch_size": 2}]
)
def test_a_head_needs_a_latent_of_pixels(change: dict[str, int]) -> None:
    network = build().transformer.experts[0]
    assert isinstance(network, LinearSRTransformer)
    with pytest.raises(ValueError, match="detail_blocks"):
        replace(network.config, detail_blocks=2, **change)


# the game of two networks


def test_each_side_of_the_game_moves_its_own_weights_only() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(8))
    image, hr, prediction = (picture(i, 32) for i in range(3))
    image.requires_grad_()
    verdict = play(discriminator, image, hr, prediction)
    verdict.generator.backward(retain_graph=True)
    assert image.grad is not None
    assert image.grad.any()
    assert all(weight.grad is None for weight in discriminator.parameters())
    image.grad = None
    verdict.discriminator.backward()
    assert image.grad is None
    assert all(weight.grad is not None for weight in discriminator.parameters())


def test_the_discriminator_learns_to_tell_and_the_image_to_deceive_it() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(8))
    prediction = picture(2, 32)
    hr = prediction + 0.2 * torch.randn_like(prediction)
    optimizer = torch.optim.AdamW(discriminator.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        verdict = play(discriminator, prediction, hr, prediction)
        optimizer.zero_grad()
        verdict.discriminator.backward()
        optimizer.step()
        losses.append(verdict.discriminator.item())
    assert losses[-1] < 0.7 * losses[0]
    image = prediction.clone().requires_grad_()
    before = play(discriminator, image, hr, prediction).generator
    before.backward()
    assert image.grad is not None
    moved = image.detach() - 0.1 * image.grad / image.grad.abs().max()
    assert play(discriminator, moved, hr, prediction).generator < before


def test_matched_features_pull_the_image_to_the_photo() -> None:
    torch.manual_seed(0)
    # in training, the spectral norm changes a little with every look
    discriminator = Discriminator(DiscriminatorConfig(8)).eval()
    hr, prediction = picture(1, 32), picture(2, 32)
    assert play(discriminator, hr, hr, prediction).feature_matching == 0
    image = picture(0, 32).requires_grad_()
    before = play(discriminator, image, hr, prediction).feature_matching
    before.backward()
    assert all(weight.grad is None for weight in discriminator.parameters())
    assert image.grad is not None
    moved = image.detach() - 0.02 * image.grad / image.grad.abs().max()
    assert play(discriminator, moved, hr, prediction).feature_matching < before


def test_features_need_a_discriminator_to_be_matched(stem_folder: Path) -> None:
    with pytest.raises(ValueError, match="feature_matching"):
        DistillStage.model_validate(stage(stem_folder, adversarial=0, feature_matching=0.5))


# whole runs


def stage(stem: Path, **changes: object) -> dict[str, object]:
    return flow_stage(stem, kind="distill", channels=8, pure_noise_prob=1.0, **changes)


def train(tmp_path: Path, photos: Path, what: dict[str, object]) -> Path:
    data = {"folders": {str(photos): 1.0}, "lr_crop": 16, "workers": 0}
    return trainer(photos, tmp_path / "run", stage=what, data=data).run()


def test_a_run_gives_a_network_without_its_discriminator(
    photos: Path, stem_folder: Path, model: Path, tmp_path: Path
) -> None:
    expert = model / "transformer" / "expert_0"
    what = stage(
        stem_folder,
        init=str(expert),
        network={},
        detail_blocks=1,
        formulas={"l1": 1.0, "gradient": 0.5},
        feature_matching=0.1,
    )
    what |= {"boundaries": [0.223, 0.875, 0.939], "expert": 0}
    made = train(tmp_path, photos, what)
    assert sorted(folder.name for folder in made.iterdir()) == ["discriminator", "transformer"]
    names = weights(made / "transformer")
    assert "detail_head.conv_out.weight" in names
    assert not any("discriminator" in name for name in names)
    step = next(r for r in read_records(tmp_path / "run") if "grad_norm" in r)
    assert {"l1", "gradient", "adversarial", "discriminator", "feature_matching"} <= set(step)
    # the head is another, the interface is the same: it stands beside the other experts
    experts = [
        LinearSRTransformer.from_pretrained(model / "transformer" / f"expert_{i}") for i in range(1, 4)
    ]
    SNRExperts(PUBLISHED, [LinearSRTransformer.from_pretrained(made / "transformer"), *experts])


def test_a_discriminator_goes_on_where_another_run_left_it(
    photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    made = train(tmp_path, photos, stage(stem_folder))
    left = Discriminator.from_pretrained(made / "discriminator")
    raw = stage(stem_folder, discriminator=str(made / "discriminator"))
    taken = DistillStage.model_validate(raw).objective().network.discriminator
    assert isinstance(taken, Discriminator)
    assert taken.training
    image, prediction = picture(0, 32), picture(1, 32)
    torch.testing.assert_close(taken.eval()(image, prediction), left.eval()(image, prediction))


def test_a_student_comes_closer_to_its_teacher(photos: Path, stem_folder: Path, model: Path) -> None:
    torch.manual_seed(0)
    raw = stage(stem_folder, adversarial=0, formulas={}, teacher=str(model / "transformer"))
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


def test_half_of_the_inputs_begin_from_the_first_step(stem_folder: Path, model: Path) -> None:
    raw = {**stage(stem_folder, adversarial=0, rollout=str(model / "transformer")), "pure_noise_prob": 0.5}
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
        ({"formulas": {"lpips": 1.0}}, "unknown formula 'lpips': choose from l1, gradient"),
        ({"stem": None, "codec": "somewhere"}, "stem: give the folder of a trained stem"),
        ({"detail_blocks": 4}, "detail_blocks needs init"),
        ({"formulas": {"l1": -1.0}}, "weights must be above 0"),
        ({"formulas": {}, "adversarial": 0}, "there is nothing to learn from"),
        ({"lora": {"rank": 2}}, "lora needs init or sana"),
        ({"teacher_times": [0.875, 0.2]}, "teacher_times: .*must fall strictly from 1"),
        ({"teacher_times": [1.0, 0.5, 0.9]}, "teacher_times: .*must fall strictly from 1"),
    ],
)
def test_mistakes_are_one_line(
    change: dict[str, object], message: str, photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    config = settings(photos, tmp_path / "run", stage={**stage(stem_folder), **change})
    with pytest.raises(ConfigError, match=message):
        parse_settings(TrainConfig, config, "test")
