"""SNRExperts: routing, the folder on disk, and experts that are swapped in and out."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linearsr.flow.experts import SNRExperts, SwappedExperts
from linearsr.flow.partition import PUBLISHED, Partition
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.runtime.checkpoints import CheckpointError, PretrainedModule

RESIDENCIES = ("all", "active", "lazy")
TIMES = (1.0, 0.939, 0.9, 0.875, 0.5, 0.223, 0.1, 0.0)


@dataclass(frozen=True)
class ScaleConfig:
    in_channels: int = 3
    prediction_type: str = "sample"


class Scale(PretrainedModule):
    """The smallest expert: its answer tells which one it is, and at what time it was asked."""

    config_class: ClassVar = ScaleConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, hidden_states, timestep, shift=0.0):
        assert timestep.shape == hidden_states.shape[:1]
        assert timestep.dtype == torch.float32
        return self.weight * hidden_states + shift


def scales(count=4, config=None):
    experts = [Scale(config or ScaleConfig()) for _ in range(count)]
    for number, expert in enumerate(experts):
        nn.init.constant_(expert.weight, 10.0 + number)
    return experts


def chosen(experts, t):
    with torch.inference_mode():
        return int(experts(torch.ones(2, 3, 1, 1), 1000 * t)[0, 0, 0, 0]) - 10


@pytest.fixture
def folder(tmp_path):
    SNRExperts(PUBLISHED, scales()).save_pretrained(tmp_path / "experts")
    return tmp_path / "experts"


@pytest.fixture(params=RESIDENCIES)
def loaded(request, folder):
    return SNRExperts.from_pretrained(folder, expert_class=Scale, residency=request.param)


def test_every_time_goes_to_the_expert_of_its_span(loaded):
    assert [chosen(loaded, t) for t in TIMES] == [0, 1, 1, 2, 2, 3, 3, 3]
    assert [chosen(loaded, t) for t in reversed(TIMES)] == [3, 3, 3, 2, 2, 1, 1, 0]


def test_conditions_pass_through(loaded):
    z = torch.ones(2, 3, 1, 1)
    assert torch.equal(loaded(z, 875.0, shift=0.5), torch.full_like(z, 12.5))


@given(st.lists(st.floats(1e-3, 0.999), max_size=5, unique=True), st.data())
def test_times_on_boundaries_keep_their_side_in_float32(boundaries, data):
    partition = Partition(tuple(sorted(boundaries)))
    experts = SNRExperts(partition, scales(partition.num_experts))
    t = data.draw(st.sampled_from((*partition.boundaries, 0.0, 1.0)))
    neighbours = [b for b in boundaries if b != t and abs(b - t) < 1e-6]
    if not neighbours:
        assert experts.route(1000 * t) == partition.expert(t)
        assert experts.route(float(torch.tensor(1000 * t))) == partition.expert(t)


@pytest.mark.parametrize("outside", [-1.0, 1000.5, float("nan")])
def test_timesteps_outside_are_refused(outside):
    with pytest.raises(ValueError, match="outside"):
        SNRExperts(PUBLISHED, scales())(torch.ones(2, 3, 1, 1), outside)


def test_experts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 experts for a partition of 4"):
        SNRExperts(PUBLISHED, scales(3))
    with pytest.raises(ValueError, match="differ in prediction_type"):
        SNRExperts(
            Partition((0.5,)), [*scales(1), *scales(1, ScaleConfig(prediction_type="flow_prediction"))]
        )


def test_gradients_reach_the_expert_in_use_only():
    experts = SNRExperts(PUBLISHED, scales())
    experts(torch.ones(1, 3, 1, 1), 500.0).sum().backward()
    assert [expert.weight.grad is not None for expert in experts.experts] == [False, False, True, False]


def test_folder_round_trip(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "_class_name": "SNRExperts",
        "boundaries": [0.223, 0.875, 0.939],
        "expert_class": "Scale",
    }
    for residency in RESIDENCIES:
        experts = SNRExperts.from_pretrained(folder, expert_class=Scale, residency=residency)
        assert experts.partition == PUBLISHED
        assert not experts.training
        assert experts.config == ScaleConfig()
        chosen(experts, 0.1)
        experts.save_pretrained(tmp_path / residency, dtype=torch.bfloat16)
        again = SNRExperts.from_pretrained(tmp_path / residency, expert_class=Scale)
        assert [e.weight.item() for e in again.experts] == [10, 11, 12, 13]
        assert {p.dtype for p in again.parameters()} == {torch.bfloat16}


def test_a_single_network_is_one_expert_for_all_times(tmp_path):
    scales(1)[0].save_pretrained(tmp_path)
    for residency in RESIDENCIES:
        experts = SNRExperts.from_pretrained(tmp_path, expert_class=Scale, residency=residency)
        assert experts.partition == Partition()
        assert {chosen(experts, t) for t in TIMES} == {0}


def test_only_the_expert_in_use_is_placed(folder):
    experts = SNRExperts.from_pretrained(folder, expert_class=Scale, residency="active", device="cpu")
    experts.to(torch.float64)
    for t, value in ((1.0, 10), (0.1, 13)):
        chosen(experts, t)
        parameters = list(experts.parameters())
        assert [(p.item(), p.dtype) for p in parameters] == [(value, torch.float64)]


def test_lazy_experts_are_read_when_first_needed(folder):
    experts = SNRExperts.from_pretrained(folder, expert_class=Scale, residency="lazy")
    weights = folder / "expert_3" / "diffusion_pytorch_model.safetensors"
    weights.rename(folder / "hidden")
    assert chosen(experts, 0.5) == 2
    with pytest.raises(CheckpointError, match="expert_3"):
        chosen(experts, 0.1)
    (folder / "hidden").rename(weights)
    assert chosen(experts, 0.1) == 3
    assert chosen(experts, 1.0) == 0


def test_changes_reach_experts_that_come_in_later_and_each_once(loaded):
    calls = []
    loaded.for_each(lambda expert: calls.append(int(expert.weight)))
    for t in (1.0, 0.9, 0.5, 0.1):
        chosen(loaded, t)
    assert calls == [10, 11, 12, 13]


def test_swapped_experts_stay_usable_for_training_after_inference(folder):
    experts = SNRExperts.from_pretrained(folder, expert_class=Scale, residency="lazy").to(torch.float64)
    assert chosen(experts, 0.1) == 3
    experts(torch.ones(1, 3, 1, 1, requires_grad=True), 100.0).sum().backward()
    assert next(experts.parameters()).grad == 3


def test_threads_take_turns_and_get_the_experts_they_asked_for():
    class Slow(nn.Module):
        def __init__(self, index):
            super().__init__()
            self.index = index

        def forward(self):
            time.sleep(0.002)
            assert swapped.active is self, "swapped out while it ran"
            return self.index

    swapped = SwappedExperts(Slow, 4)
    asked = [3, 0, 2, 1] * 10

    def run(index):
        with swapped.use(index) as expert:
            return expert()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, asked)) == asked


def test_the_one_before_is_dropped_before_the_next_is_made():
    experts = []

    def load(index):
        assert not experts or experts[0].active is None
        return scales()[index]

    swapped = SwappedExperts(load, 4)
    experts.append(swapped)
    with swapped.use(2) as expert:
        assert expert(torch.ones(1), torch.ones(1)).item() == 12


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "expert_2").rename(f / "elsewhere"), "expert_2: this expert is missing"),
        (lambda f: (f / "config.json").write_text('{"boundaries": [0.9, 0.1]}'), "must rise"),
        (lambda f: (f / "config.json").write_text('{"boundaries": "none"}'), "config.json"),
        (lambda f: (f / "config.json").write_text('{"boundaries": 3}'), "config.json"),
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (
            lambda f: (f / "expert_1" / "config.json").write_text('{"in_channels": 4}'),
            "differ in in_channels",
        ),
        (
            lambda f: (f / "expert_1" / "config.json").write_text('{"_class_name": "Other"}'),
            "written for Other",
        ),
    ],
)
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_damaged_folders_give_one_line(folder, damage, message, residency):
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        SNRExperts.from_pretrained(folder, expert_class=Scale, residency=residency)
    assert "\n" not in str(caught.value)


def test_unknown_residency_is_refused(folder):
    with pytest.raises(ValueError, match="residency 'disk'"):
        SNRExperts.from_pretrained(folder, expert_class=Scale, residency="disk")


def test_the_transformer_is_an_expert(tmp_path):
    torch.manual_seed(0)
    config = PRESETS["tiny"]
    networks = [LinearSRTransformer(config).eval() for _ in range(2)]
    SNRExperts(Partition((0.5,)), networks).save_pretrained(tmp_path)
    z = torch.randn(1, config.in_channels, 4, 4)
    lr = torch.randn(1, config.lr_channels, 4, 4) if config.lr_channels else None
    tokens = None if config.num_null_tokens else torch.randn(1, 3, config.caption_channels)
    conditions = {"lr_features": lr, "encoder_hidden_states": tokens}
    for residency in RESIDENCIES:
        experts = SNRExperts.from_pretrained(tmp_path, expert_class=LinearSRTransformer, residency=residency)
        experts.for_each(LinearSRTransformer.fuse_projections_)
        with torch.inference_mode():
            for network, timestep in zip(networks, (600.0, 400.0), strict=True):
                expected = network(z, torch.tensor([timestep]), **conditions)
                assert torch.allclose(experts(z, timestep, **conditions), expected, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("residency", ["active", "lazy"])
def test_swapped_experts_hold_one_expert_of_device_memory(tmp_path, residency):
    class Wide(Scale):
        def __init__(self, config):
            super().__init__(config)
            self.ballast = nn.Parameter(torch.zeros(1024, 1024))

    SNRExperts(PUBLISHED, [Wide(ScaleConfig()) for _ in range(4)]).save_pretrained(tmp_path)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    experts = SNRExperts.from_pretrained(tmp_path, expert_class=Wide, device="cuda", residency=residency)
    for t in TIMES:
        experts(torch.ones(1, 3, 1, 1, device="cuda"), 1000 * t)
    assert torch.cuda.max_memory_allocated() - before < 1.5 * 4 * 1024**2
