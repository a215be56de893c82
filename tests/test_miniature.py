"""`examples/paper_in_miniature.sh`: every claim of the paper by the commands and recipes of the full size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples/paper_in_miniature.sh"
KINDS = {"none": None, "tags": "TextGuidance"}
"""The other kinds take the ways of these, and minutes more."""


@pytest.mark.timeout(1800)
def test_the_paper_in_miniature(tmp_path: Path) -> None:
    out = tmp_path / "miniature"
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    small = {"GUIDANCE": " ".join(KINDS), "IMAGES": "8", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [SCRIPT, out], capture_output=True, text=True, check=False, env={**os.environ, **paths, **small}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    table = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    names = [*KINDS, "tags, experts", "tags, experts, sft", "one step"]
    assert [row[0].strip() for row in table] == ["", "-" * 22, *names]
    assert [name.strip() for name in table[0][1:]] == ["psnr_y", "lpips", "niqe"]
    assert all(float(figure) > 0 for row in table[2:] for figure in row[1:])
    for kind, guidance in KINDS.items():
        index = json.loads((out / kind / "model/model_index.json").read_text())
        assert index.get("guidance", [None, None])[1] == guidance
    assert len(list((out / "tags/model/transformer").glob("expert_*"))) == 4
    assert not (out / "one-step/model/transformer/expert_1").exists()
