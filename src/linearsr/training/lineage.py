"""From which knees a run started: when one of them has changed since, its weights fit the others no more."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linearsr.runtime.checkpoints import write_json
from linearsr.training.trainer import KNEE_FILE

_STARTED_FROM_FILE = "started_from.json"
_IDENTITY = ("images", "trained_images", "written")


def knee_record(run_dir: Path) -> dict[str, Any] | None:
    """What a run has written down about its knee, or None where there is none."""
    path = run_dir / KNEE_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def note_start(run_dir: Path, inputs: Mapping[str, Path]) -> None:
    """Write down, before a run begins, which knees it starts from: those of the runs of these names and folders."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / _STARTED_FROM_FILE, {name: _identity(folder) for name, folder in inputs.items()})


def changed_since(run_dir: Path, inputs: Mapping[str, Path]) -> list[str]:
    """Names of the inputs whose knee is not the one that the run started from, as far as that was written down."""
    path = run_dir / _STARTED_FROM_FILE
    noted = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [name for name, folder in inputs.items() if name in noted and noted[name] != _identity(folder)]


def _identity(run_dir: Path) -> dict[str, Any]:
    record = knee_record(run_dir) or {}
    return {key: record.get(key) for key in _IDENTITY}
