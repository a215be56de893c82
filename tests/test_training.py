"""Training: the steps of a run, and what a sample of each depends on."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from linearsr.training.flow import FlowStage
from linearsr.training.optimizer import OptimizerConfig, learning_rate
from training_tools import flow_stage, losses, read_records, trainer, untagged, weights


def test_a_velocity_network_is_trained_as_one(photos: Path, stem_folder: Path, tmp_path: Path) -> None:
    """The loss is of the clean latent that the prediction stands for, whatever the network predicts."""
    stage = flow_stage(stem_folder)
    found = {}
    for kind in ("sample", "flow_prediction"):
        stage["network"]["prediction_type"] = kind
        objective = trainer(photos, tmp_path / kind, stage=stage).objective
        lr, hr = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 32, 32)

        def silent(z: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            return torch.zeros_like(z)

        found[kind] = float(objective.loss(silent, untagged(lr, hr, [0]))["flow"])
    assert found["sample"] < 1e-6 < found["flow_prediction"]


WANDB = """
calls = []

class Run:
    def log(self, values, step=None, **more):
        calls.append((step, set(values)))

    def finish(self):
        calls.append("finished")

def init(**settings):
    calls.append(settings)
    return Run()
"""


def test_every_figure_goes_to_the_trackers(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through accelerate; a resumed run goes on in the one of its folder."""
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    trainer(photos, tmp_path / "run", trackers=["wandb"]).run()
    calls = sys.modules["wandb"].calls  # type: ignore[attr-defined]
    assert (calls[0]["project"], calls[0]["resume"], calls[-1]) == ("linearsr", "allow", "finished")
    seen = [
        (r["images"], {k for k, v in r.items() if isinstance(v, float)})
        for r in read_records(tmp_path / "run")
    ]
    assert calls[1:-1] == seen
    assert not (tmp_path / "run/tensorboard").exists()
    monkeypatch.setattr("linearsr.training.section.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="trackers: needs wandb: pip install wandb"):
        trainer(photos, tmp_path / "other", trackers=["wandb"])


def test_a_compiled_network_has_the_losses_of_one_that_is_not(
    photos: Path, stem_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured by the compiler; only the code that it writes then, which takes minutes, is left out."""
    graphs: list[torch.fx.GraphModule] = []

    def capture(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=capture))
    for wanted in (False, True):
        assert not graphs
        changes = {"stage": flow_stage(stem_folder), "compile": wanted, "total_images": 4}
        trainer(photos, tmp_path / str(wanted), **changes).run()
    assert graphs
    assert np.allclose(losses(tmp_path / "True"), losses(tmp_path / "False"), rtol=1e-5)
    plain, compiled = (weights(tmp_path / run / "knee/transformer") for run in ("False", "True"))
    assert plain.keys() == compiled.keys()


def drawn_times(**stage: object) -> torch.Tensor:
    """The times of 2000 samples."""
    seen: list[torch.Tensor] = []
    objective = FlowStage(**stage).objective()

    def silent(z: torch.Tensor, times: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append(times)
        return torch.zeros_like(z)

    for start in range(0, 2000, 500):
        images = torch.zeros(500, 3, 2, 2), torch.zeros(500, 3, 8, 8)
        objective.loss(silent, untagged(*images, list(range(start, start + 500))))
    return torch.cat(seen)


def test_an_expert_sees_its_span_only(stem_folder: Path) -> None:
    times = drawn_times(**flow_stage(stem_folder, boundaries=[0.223, 0.875, 0.939], expert=2))
    assert 0.223 < times.min() < 0.24
    assert 0.86 < times.max() <= 0.875


def test_pure_noise_has_its_share(stem_folder: Path) -> None:
    times = drawn_times(**flow_stage(stem_folder, pure_noise_prob=0.25))
    assert float((times == 1).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_a_batch_in_parts_gives_the_losses_of_the_whole(
    photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    stage = flow_stage(stem_folder)
    for parts in (1, 2):
        run_dir = tmp_path / str(parts)
        trainer(photos, run_dir, stage=stage, batch_size=4, total_images=8, accumulation=parts).run()
    whole, split = (read_records(tmp_path / name) for name in ("1", "2"))
    for name in ("loss", "grad_norm"):
        found, expected = ([record[name] for record in run if name in record] for run in (split, whole))
        assert len(expected) == 2
        assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="batch_size 4 is not a multiple of accumulation 3"):
        trainer(photos, tmp_path / "3", batch_size=4, accumulation=3)


def test_noise_and_time_of_a_sample_do_not_depend_on_its_batch(stem_folder: Path) -> None:
    objective = FlowStage(**flow_stage(stem_folder)).objective()
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(4, 3, 8, 8, generator=generator) * 2 - 1
    hr = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
    seeds = [7, 8, 9, 10]
    together = objective.loss(objective.network, untagged(lr, hr, seeds))["flow"]
    alone = [
        objective.loss(objective.network, untagged(lr[i : i + 1], hr[i : i + 1], seeds[i : i + 1]))["flow"]
        for i in range(4)
    ]
    assert float(together) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5)


def test_learning_rate_warms_up_and_falls() -> None:
    config = OptimizerConfig(lr=1.0, final_lr=0.1, warmup_images=10)
    rates = [learning_rate(config, i, 110) for i in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)


def test_a_run_may_have_another_precision_than_the_one_before(photos: Path, tmp_path: Path) -> None:
    """`accelerate` keeps the precision of a process's first run."""
    for precision in ("no", "bf16", "no"):
        run = trainer(photos, tmp_path / f"run-{precision}", mixed_precision=precision)
        assert run.accelerator.mixed_precision == precision
