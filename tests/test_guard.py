"""The divergence guard: what it calls bad, and that a run survives what can be survived."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from linearsr.models.lr_stem import LRCondition
from linearsr.training.guard import Diverged, DivergenceGuard, GuardConfig
from linearsr.training.run_folder import RunLog
from linearsr.training.stem import StemObjective
from linearsr.training.trainer import Trainer
from training_tools import load_config, losses, read_records, trainer, untagged, write_config


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_bad_from_the_first_step(loss: float) -> None:
    assert DivergenceGuard(GuardConfig()).judge(loss, 1.0) == ("skip", f"loss is {loss}")
    assert DivergenceGuard(GuardConfig()).judge(1.0, abs(loss))[0] == "skip"


@given(st.lists(st.floats(0.5, 2), min_size=30, max_size=200))
def test_ordinary_losses_are_good(values: list[float]) -> None:
    guard = DivergenceGuard(GuardConfig())
    assert all(guard.judge(value, 3 * value) == ("good", "") for value in values)


def test_spikes_are_skipped_and_crowding_ones_send_back() -> None:
    guard = DivergenceGuard(GuardConfig(max_bad_steps=3))
    for _ in range(20):
        assert guard.judge(0.1, 1.0)[0] == "good"
    assert guard.judge(0.9, 1.0)[0] == "skip"
    assert guard.judge(0.1, 40.0)[0] == "skip"
    assert guard.judge(0.1, 1.0)[0] == "good"
    assert guard.judge(1.0, 1.0)[0] == "skip"
    verdict, why = guard.judge(1.0, 1.0)
    assert verdict == "roll back"
    assert why == "loss 1 is 10 times the usual 0.1"


def test_bad_steps_that_never_suffice_are_refused() -> None:
    with pytest.raises(ValueError, match="can never be passed among 10 steps"):
        GuardConfig(window=10)


@pytest.mark.parametrize("max_bad_steps", [1, 10])
def test_no_bad_spell_is_calm(max_bad_steps: int) -> None:
    """Bad steps at even distances either leave calm between them or send the run back."""
    for distance in range(1, 101):
        guard = DivergenceGuard(GuardConfig(max_bad_steps=max_bad_steps))
        assert guard.calm
        verdicts, calm = set(), set()
        for step in range(200):
            verdicts.add(guard.judge(math.nan if step % distance == 0 else 0.1, 1.0)[0])
            calm.add(guard.calm)
        assert (True in calm) or ("roll back" in verdicts)


def test_a_slow_climb_is_seen() -> None:
    """Each step is near the one before, so a moving median alone would follow."""
    guard = DivergenceGuard(GuardConfig())
    verdicts = [guard.judge(0.1 * 1.02**step, 1.0)[0] for step in range(200)]
    assert "roll back" in verdicts


def test_a_resumed_guard_judges_as_the_first_did() -> None:
    first, second = DivergenceGuard(GuardConfig()), DivergenceGuard(GuardConfig())
    figures = [(0.1 + 0.01 * (i % 7), 1.0 + i % 3) for i in range(50)] + [(9.0, 1.0)]
    seen = [(*pair, first.judge(*pair)[0] != "good") for pair in figures]
    second.remember(seen)
    assert first.judge(0.85, 1.0) == second.judge(0.85, 1.0)
    assert first.judge(0.2, 29.0) == second.judge(0.2, 29.0)


def test_next_to_nothing_has_no_multiples() -> None:
    """Photos of one colour are soon right: then any noise is many times the usual."""
    guard = DivergenceGuard(GuardConfig())
    for _ in range(20):
        assert guard.judge(0.0, 0.0)[0] == "good"
    assert guard.judge(1e-3, 1e-3) == ("good", "")
    assert guard.judge(0.1, 0.1)[0] == "skip"


def test_the_loss_of_a_perfect_stem_is_not_negative(photos: Path, tmp_path: Path) -> None:
    objective = trainer(photos, tmp_path / "run").objective
    lr, hr = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 32, 32)
    least = objective.network.config.min_deviation

    def perfect(_: torch.Tensor) -> LRCondition:
        return LRCondition(torch.empty(0), hr, torch.full_like(hr, least))

    terms = objective.loss(perfect, untagged(lr, hr, [0]))
    assert {name: float(term) for name, term in terms.items()} == {"l1": 0.0, "likelihood": 0.0}


def test_a_stem_finishes_with_the_squared_error(photos: Path, tmp_path: Path) -> None:
    objective = trainer(photos, tmp_path / "run", stage={"kind": "stem", "loss": "mse"}).objective
    hr = torch.zeros(1, 3, 32, 32)
    off = LRCondition(torch.empty(0), hr + 0.5 * (torch.arange(32) % 2), torch.ones_like(hr))
    terms = objective.loss(lambda _: off, untagged(torch.zeros(1, 3, 8, 8), hr, [0]))
    assert float(terms["mse"]) == 0.125


def spoil(monkeypatch: pytest.MonkeyPatch, calls: set[int], value: float) -> None:
    """The loss of these calls becomes `value`."""
    plain, count = StemObjective.loss, iter(range(10**6))

    def loss(self: StemObjective, *arguments: object) -> dict[str, torch.Tensor]:
        terms = plain(self, *arguments)  # type: ignore[arg-type]
        return {**terms, "l1": terms["l1"] * value} if next(count) in calls else terms

    monkeypatch.setattr(StemObjective, "loss", loss)


def test_a_bad_step_changes_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {2}, math.inf)
    run = trainer(photos, tmp_path / "run")
    states = []
    run._report = lambda record: states.append({k: v.clone() for k, v in run.bare.state_dict().items()})
    run.run()
    steps = [record for record in read_records(tmp_path / "run") if "grad_norm" in record]
    assert ["skipped" in record for record in steps] == [False, False, True, False, False, False]
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])
    assert all(torch.isfinite(tensor).all() for tensor in states[-1].values())


FEW = {"window": 10, "max_bad_steps": 2}
"""A guard that is calm after three good steps."""


def test_no_checkpoint_in_a_bad_spell(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is due after 12 images: to return to it would be to return to what went wrong."""
    spoil(monkeypatch, {5, 6, 7}, math.nan)
    trainer(photos, tmp_path / "run", total_images=20, guard=FEW).run()
    (event,) = [record for record in read_records(tmp_path / "run") if "event" in record]
    assert "at 14 images: back to 6 with 0.5 times the learning rate" in str(event["event"])


def test_a_checkpoint_that_was_not_calm_is_made_later(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {8}, math.nan)
    changes = {"total_images": 26, "save_every_images": 9, "guard": FEW}
    trainer(photos, tmp_path / "run", **changes).run()
    saved = sorted(folder.name for folder in (tmp_path / "run/checkpoints").iterdir())
    assert [int(name) for name in saved] == [10, 24]


def board(run_dir: Path) -> list[int]:
    """The images of the losses that TensorBoard shows."""
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    return [event.step for event in events.Scalars("loss")]


def test_a_lower_learning_rate_is_a_new_chance(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run that was given up is told to take; also when it is stopped again before its next checkpoint.

    TensorBoard shows what the metrics say, after a return to a checkpoint and up to the last step.
    """
    # TensorBoard reads files of one second in the order of their names, and file 10 before file 9
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    spoil(monkeypatch, {5, 6, 7, 12, 13, 14}, math.nan)
    guard = {**FEW, "max_rollbacks": 1, "lr_factor": 0.25}
    path = write_config(tmp_path / "a.yaml", photos, tmp_path / "run", total_images=40, guard=guard)
    close, closed = RunLog.close, []
    monkeypatch.setattr(RunLog, "close", lambda log: closed.append(close(log)))
    with pytest.raises(Diverged, match=r"lower optimizer\.lr"):
        Trainer(load_config(path)).run()
    assert len(closed) == 2
    shown = [images for images, loss in losses(tmp_path / "run") if loss is not None]
    assert board(tmp_path / "run") == shown == [2, 4, 6, 8, 10, 12, 14]

    def stop(record: dict[str, object]) -> None:
        raise KeyboardInterrupt

    for report, found in ((None, (0.25, 1)), (stop, (1.0, 0)), (None, (1.0, 0))):
        lower = [] if found[1] else ["optimizer.lr=5e-4"]
        run = Trainer(load_config(path, lower), report)
        run.resume()
        assert (run.progress.lr_scale, run.progress.rollbacks) == found
        if report is not None:
            with pytest.raises(KeyboardInterrupt):
                run.run()
