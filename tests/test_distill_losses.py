"""What a distilled network is judged by: formulas, and the two sides of the discriminator."""

import pytest
import torch

from linearsr.evaluation.metrics import ms_ssim as ms_ssim_figure
from linearsr.training.judges import FORMULAS, Discriminator, play
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


def test_the_similarity_loss_is_one_less_the_figure() -> None:
    hr, image = picture(0, 192), torch.lerp(picture(0, 192), picture(1, 192), 0.2)
    unit = [(x.double() + 1) / 2 for x in (image, hr)]
    assert float(FORMULAS["ms_ssim"](image, hr)) == pytest.approx(1 - ms_ssim_figure(*unit), abs=1e-4)


def test_the_discriminator_learns_to_tell_and_the_image_to_deceive_it() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(8)
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
