"""Low-rank updates: what they train, and that merging them changes nothing."""

from pathlib import Path

import pytest
import torch

from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.training.flow import FlowStage
from linearsr.training.lora import LoraConfig, add_lora, merge_lora
from linearsr.training.section import ConfigError
from training_tools import make_sana, untagged

pytest.importorskip("peft")


def test_a_network_from_sana_learns_to_see_the_photo(tmp_path: Path) -> None:
    """Its LR inputs start at zero: were they frozen with the rest, nothing of the LR image would ever arrive."""
    sana = make_sana(tmp_path)
    stage = FlowStage(kind="flow", preset="tiny", sana=str(sana), lora=LoraConfig(rank=2))
    objective = stage.objective()
    network = objective.network
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-2)
    for step in range(3):
        lr, hr = torch.rand(2, 3, 8, 8) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
        objective.loss(network, untagged(lr, hr, [2 * step, 2 * step + 1]))["flow"].backward()
        optimizer.step()
        optimizer.zero_grad()
    noisy, times, lr = torch.randn(1, 8, 4, 4), torch.tensor([0.7]), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        seen = network(noisy, times, lr, None) - network(noisy, times, -lr, None)
    assert float(seen.abs().max()) > 1e-4
    merged = objective.parts(network.state_dict())["transformer"]
    assert isinstance(merged, LinearSRTransformer)


@pytest.mark.parametrize(
    ("target", "message"),
    [("to_x", "has no layer to_x"), ("conv_inverted", "conv_inverted is no linear layer")],
)
def test_a_target_that_cannot_be_is_one_line(target: str, message: str) -> None:
    network = LinearSRTransformer(PRESETS["tiny"])
    with pytest.raises(ConfigError, match=rf"stage\.lora\.targets: .*{message}"):
        add_lora(network, LoraConfig(targets=("to_q", target)))


def test_merged_low_rank_updates_compute_the_same() -> None:
    torch.manual_seed(0)
    network = LinearSRTransformer(PRESETS["tiny"]).eval()
    config = LoraConfig(rank=2, alpha=8)
    add_lora(network, config)
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    plain = LinearSRTransformer.from_state(PRESETS["tiny"], merge_lora(network.state_dict(), config), "test")
    inputs = torch.randn(1, 8, 4, 4), torch.tensor([500.0]), torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(network(*inputs), plain(*inputs), rtol=1e-4, atol=1e-5)
