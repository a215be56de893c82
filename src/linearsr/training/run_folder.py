"""The folder of a run: its logs, pictures and knee, and whether what was trained still fits the config."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor

from linearsr.images.degradation import PRESETS
from linearsr.images.degradation_choice import identity
from linearsr.runtime.checkpoints import write_json
from linearsr.runtime.files import whole_file
from linearsr.training.config import TrainConfig
from linearsr.training.curves import CONFIG_FILE, METRICS_FILE, records
from linearsr.training.section import ConfigError

KNEE_FILE = "knee.json"
KNEE_FOLDER = "knee"
_VALIDATED_FOLDER = "validated"
_FIXED = (
    *("seed", "batch_size", "mixed_precision", "ema_decay", "stage.*", "data.*", "degradation_files.*"),
    # with other pictures or metrics the curves would change, and with them the knee
    *(f"validation.{name}" for name in ("folder", "degradations", "metrics", "max_pictures")),
    "optimizer.name",
)
"""Patterns of settings that must not change during a run."""
_FIXED_WHEN_FINISHED = ("optimizer.*", "guard.*", "knee.*")
_FREE = ("data.workers", "data.cache_gib")

Record = dict[str, Any]
Report = Callable[[Record], None]
"""A function called with every record that is logged, e.g. to show progress."""


class RunLog:
    """The log of a run folder, written by one process only; a resumed run continues after `images`.

    Every record has the key "images". Records of steps also have "grad_norm", records of validations have
    metrics named "degradation/setting/metric", and records of the divergence guard have "event".
    """

    def __init__(
        self, folder: Path, images: int, report: Report | None = None, trackers: Sequence[str] = ()
    ) -> None:
        self.folder, self._names, self._report = folder, trackers, report
        folder.mkdir(parents=True, exist_ok=True)
        self._open(images)

    def _open(self, images: int) -> None:
        metrics = self.folder / METRICS_FILE
        # drop what an interrupted run wrote after its checkpoint: it will be written again
        kept = [f"{json.dumps(record)}\n" for record in records(metrics) if record["images"] <= images]
        with whole_file(metrics, "kept") as draft:
            draft.write_text("".join(kept), encoding="utf-8")
        self._trackers = [_tracker(name, self.folder, images) for name in self._names]

    def write(self, record: Record) -> None:
        """Log a record and report it; figures that are not finite become null in the log."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")
        for tracker in self._trackers:
            figures = {name: value for name, value in finite.items() if isinstance(value, float)}
            tracker.log(figures, step=record["images"])
        if self._report is not None:
            self._report(record)

    def rewind(self, images: int) -> None:
        """Drop the records after `images`, when the run returns to that point."""
        self.close()
        self._open(images)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()


def _tracker(name: str, folder: Path, images: int) -> Any:
    """Start a tracker of `accelerate` for a run that has reached `images`."""
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    if name == "tensorboard":
        tracker = TensorBoardTracker("tensorboard", str(folder), purge_step=images + 1)
    else:
        # one W&B run per folder, however often it is resumed
        number = blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
        tracker = WandBTracker("linearsr", name=str(folder), id=number, resume="allow", dir=str(folder))
    tracker.start()
    return tracker


def write_picture(folder: Path, images: int, name: str, columns: Mapping[str, Tensor]) -> None:
    """Write images (3, H, W) in [-1, 1], side by side in the order of `columns`, to a run's `samples/`."""
    place = folder / "samples" / f"{images:010d}"
    place.mkdir(parents=True, exist_ok=True)
    row = (torch.cat([image.float().cpu() for image in columns.values()], dim=2) + 1) / 2
    pixels = (row.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(place / f"{name}.png")


def claim(run_dir: Path, lock: FileLock) -> None:
    """Create and lock a run folder. Raises ConfigError: when another process trains in it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"run_dir: {run_dir} is in use by another run: wait until it ends, or set another folder"
        ) from None


def begun_with(run_dir: Path) -> dict[str, Any]:
    """Return the settings with which a run was last started; empty if it never was."""
    return read_note(run_dir / CONFIG_FILE) or {}


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return the config of a run, with the contents of the degradation files that it names."""
    names = sorted({*config.data.degradations, *config.validation.degradations} - set(PRESETS))
    files = {name: identity(name) for name in names}
    return {**config.model_dump(mode="json"), "degradation_files": files}


def check_same_run(config: TrainConfig, finished: bool = False) -> None:
    """Compare a config with the one that the run in its folder began with.

    The length of a run and its learning rates may change; after a divergence they must. In a finished run,
    only settings that its weights do not depend on may change.

    Raises:
        ConfigError: when another setting has changed; one line that names the key.
    """
    before = dict(_fixed(begun_with(config.run_dir), finished))
    for key, value in _fixed(settings_of(config), finished):
        # a key that an older version did not know does not count as a change
        if key in before and before[key] != value:
            raise ConfigError(
                f"{key}: was {before[key]} when this run began and is {value} now: "
                "set it back, or start another run_dir"
            )


def _fixed(settings: Mapping[str, Any], finished: bool) -> Iterator[tuple[str, Any]]:
    patterns = _FIXED + (_FIXED_WHEN_FINISHED if finished else ())
    for section, values in settings.items():
        for name, value in values.items() if isinstance(values, dict) else [("", values)]:
            key = f"{section}.{name}" if name else section
            if any(fnmatchcase(key, pattern) for pattern in patterns) and key not in _FREE:
                yield name if section == "degradation_files" else key, value


def knee_record(run_dir: Path) -> dict[str, Any] | None:
    """Return the content of `knee.json`; None if the run is not finished."""
    return read_note(run_dir / KNEE_FILE)


def validated(run_dir: Path, images: int) -> Path:
    """Return the folder that keeps the weights of a validation until the run ends."""
    return run_dir / _VALIDATED_FOLDER / f"{images:010d}"


def keep_knee(run_dir: Path, trained: int, wanted: int, figures: Mapping[str, Any]) -> None:
    """Copy the validated weights nearest to `wanted` images to `knee/`, and finish the run (`note_knee`).

    The last weights, after `trained` images, are in `final/`. A run that went on after it was finished has of
    its earlier weights only those at the old knee.
    """
    kept = {int(folder.name): folder for folder in (run_dir / _VALIDATED_FOLDER).glob("[0-9]*")}
    kept[trained] = run_dir / "final"
    images = min(kept, key=lambda at: abs(at - wanted))
    shutil.rmtree(run_dir / KNEE_FOLDER, ignore_errors=True)
    shutil.copytree(kept[images], run_dir / KNEE_FOLDER)
    note_knee(run_dir, images, trained, figures)


def note_knee(run_dir: Path, images: int, trained: int, figures: Mapping[str, Any]) -> None:
    """Write `knee.json`, which makes the run finished, and remove the validated weights."""
    record = {"images": images, "trained_images": trained, "written": time.time(), **figures}
    write_json(run_dir / KNEE_FILE, record)
    shutil.rmtree(run_dir / _VALIDATED_FOLDER, ignore_errors=True)


def reopen(run_dir: Path) -> None:
    """Reopen a finished run, so that it can go on; its knee becomes one of the validated weights again."""
    record = knee_record(run_dir)
    if record is not None:
        knee = validated(run_dir, record["images"])
        shutil.rmtree(knee, ignore_errors=True)
        shutil.copytree(run_dir / KNEE_FOLDER, knee)
        (run_dir / KNEE_FILE).unlink()


def read_note(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file of a run; None if the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
