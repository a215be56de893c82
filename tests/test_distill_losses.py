"""What a distilled network is judged by: formulas, and the two sides of the discriminator."""

import pytest
import torch

from linearsr.evaluation.haarpsi import haarpsi as haarpsi_figure
from linearsr.evaluation.metrics import ms_ssim as ms_ssim_figure
from linearsr.training.judges import FORMULAS, Discriminator, DiscriminatorConfig, play
from training_tools import picture


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_falls_on_the_way_to_the_photo_and_leads_there(name: str) -> None:
    hr, start = picture(0), picture(1)
    values = [float(FORMULAS[name](torch.lerp(start, hr, share), hr)) for share in (0.0, 0.5, 0.9, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0, abs=1e-5)
    image = torch.lerp(hr, start, 0.1).requires_grad_()
    FORMULAS[name](image, hr).backward()
    assert image.grad is not None
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
