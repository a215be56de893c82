"""Runs that follow each other in one process."""

from pathlib import Path

from linearsr.training.config import load_config
from linearsr.training.trainer import Trainer
from training_tools import make_photos, write_config


def test_a_run_may_have_another_precision_than_the_one_before(tmp_path: Path) -> None:
    """`accelerate` keeps the precision of a process's first run."""
    photos = make_photos(tmp_path / "photos")
    for precision in ("no", "bf16", "no"):
        path = write_config(
            tmp_path / "a.yaml", photos, tmp_path / f"run-{precision}", mixed_precision=precision
        )
        trainer = Trainer(load_config(path))
        assert trainer.accelerator.mixed_precision == precision
