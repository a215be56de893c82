"""A resumed run is the same run: what it goes on from, what may change on the way, and what is refused."""

from errno import ENOSPC
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from linearsr.training.recipe import Run
from linearsr.training.run_folder import check_same_run
from linearsr.training.runs import check_begun
from linearsr.training.section import ConfigError
from linearsr.training.state import latest_checkpoint
from linearsr.training.trainer import Trainer
from training_tools import (
    flow_stage,
    load_config,
    losses,
    read_records,
    trainer,
    validation_on,
    weights,
    write_config,
)


class StopEarly(Exception):
    pass


def test_a_resumed_run_is_the_unbroken_run(photos: Path, stem_folder: Path, tmp_path: Path) -> None:
    """A flow by Muon; the killed runs are of a stem by AdamW."""
    optimizer = {"name": "muon", "lr": 1e-3, "warmup_images": 4}
    stage: dict[str, object] = {"optimizer": optimizer, "stage": flow_stage(stem_folder)}
    expected = trainer(photos, tmp_path / "whole", **stage).run()

    def stop(record: dict[str, float]) -> None:
        if record["images"] > 6:
            raise StopEarly

    with pytest.raises(StopEarly):
        trainer(photos, tmp_path / "broken", stop, **stage).run()
    again = trainer(photos, tmp_path / "broken", **stage)
    assert again.resume() == 6
    final = again.run()

    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 6
    for name, tensor in weights(expected / "transformer").items():
        assert torch.equal(tensor, weights(final / "transformer")[name]), name


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that is done."""
    place = tmp_path_factory.mktemp("finished")
    path = write_config(place / "a.yaml", photos, place / "run")
    Trainer(load_config(path)).run()
    return path


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [
        ("seed", "0", "1"),
        ("batch_size", "2", "3"),
        ("stage.stem", "{'channels': 8, 'num_blocks': 1}", "{'channels': 8, 'num_blocks': 2}"),
        ("data.degradations", "{'realesrgan': 1.0}", "{'bicubic': 1.0}"),
        ("optimizer.name", "adamw", "muon"),
        ("validation.metrics", "['psnr_y', 'ssim_y']", "['psnr_y', 'lpips']"),
    ],
)
def test_a_changed_config_is_not_resumed(key: str, before: str, now: str, finished: Path) -> None:
    changed = load_config(finished, [f"{key}={now}".replace("'", "")])
    with pytest.raises(ConfigError) as caught:
        check_same_run(changed)
    assert str(caught.value).startswith(
        f"{key}: was {before} when this run began and is {now} now: set it back"
    )


def test_what_the_losses_so_far_do_not_depend_on_may_change(finished: Path) -> None:
    changes = ["total_images=14", "data.workers=1", "data.cache_gib=1", "optimizer.lr=1"]
    assert Trainer(load_config(finished, changes)).resume() == 12


@pytest.mark.parametrize("change", ["optimizer.weight_decay=0.5", "knee.patience=9"])
def test_a_finished_run_is_not_taken_for_one_of_other_settings(change: str, finished: Path) -> None:
    check_begun([Run("run", load_config(finished))])
    changed = Run("run", load_config(finished, [change]))
    with pytest.raises(ConfigError, match=f"{change.split('=', maxsplit=1)[0]}: was "):
        check_begun([changed])
    # which is no change of what was trained already where there is more to come
    check_begun([Run("run", load_config(finished, [change, "total_images=14"]))])


def test_a_file_of_ones_own_that_says_something_else_is_a_change(photos: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("orders: [{blur_prob: 0.5}]")
    validation = validation_on(photos, every_images=12, degradations=[str(own)])
    trainer(photos, tmp_path / "run", validation=validation).run()
    assert any(key.startswith("own/") for record in read_records(tmp_path / "run") for key in record)
    assert trainer(photos, tmp_path / "run", validation=validation).resume() == 12
    own.write_text("orders: [{blur_prob: 0.6}]")
    with pytest.raises(ConfigError, match=r"own\.yaml: was .* when this run began and is"):
        trainer(photos, tmp_path / "run", validation=validation).resume()


def test_a_new_weight_decay_is_the_one_in_use(photos: Path, tmp_path: Path) -> None:
    rates = {"name": "muon", "lr": 1e-3, "warmup_images": 4}
    trainer(photos, tmp_path / "run", optimizer=rates).run()
    again = trainer(photos, tmp_path / "run", optimizer={**rates, "weight_decay": 0.5}, total_images=14)
    again.resume()
    groups = again.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.5}
    assert {group["step"] for group in groups} == {12 // again.config.batch_size}


def test_what_keeps_a_checkpoint_from_its_disk_is_said_as_it_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(photos, tmp_path / "run").run()
    part = next((tmp_path / "run/checkpoints").glob("*12/network/*"))
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(SafetensorError):
        trainer(photos, tmp_path / "run").resume()
    part.unlink()
    with pytest.raises(ConfigError, match=r"is not whole, network/\S+ is missing: remove it"):
        trainer(photos, tmp_path / "run").resume()

    def full(*args: object) -> None:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", full)
    with pytest.raises(OSError, match="No space left"):
        trainer(photos, tmp_path / "other").run()


def test_a_folder_in_use_is_refused(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".lock"):
        for begin in (trainer(photos, run).resume, trainer(photos, run).run):
            with pytest.raises(ConfigError, match=r"^run_dir: .*run is in use by another run"):
                begin()
    trainer(photos, run).run()
    assert trainer(photos, run).resume() == 12


def test_a_file_among_checkpoints_is_none(tmp_path: Path) -> None:
    (tmp_path / "0000001000.zip").touch()
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "0000000500").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "0000000500"
