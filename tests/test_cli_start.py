"""Ctrl-C and SIGTERM while the command is still being imported, in the way of a script and in that of a module."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
WAYS = {
    "module": ["-m", "linearsr.cli.app"],
    "script": [
        "-c",
        "import sys; from linearsr.cli.start import main; sys.argv[0] = 'linearsr'; sys.exit(main())",
    ],
}
MOMENTS = 20


def started(way: str, photo: Path, model: Path) -> "subprocess.Popen[str]":
    """Which says on stderr what it has imported, a line for each module."""
    command = [sys.executable, "-X", "importtime", *WAYS[way], "upscale", str(photo), "--model", str(model)]
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_is_heard_at_every_moment_of_the_start(tiny_model, tmp_path):
    photo = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(photo)
    with started("module", photo, tiny_model) as process:
        imports = [line for line in process.stderr if line.startswith("import time:")]
    assert process.returncode == 0
    (tmp_path / "a_x4.png").unlink()
    first = next(place for place, line in enumerate(imports) if line.endswith("linearsr.cli.start\n")) + 2
    assert not [line for line in imports[:first] if line.endswith((" typing\n", " re\n"))], "slow to import"
    last = next(place for place, line in enumerate(imports) if line.endswith(" linearsr.pipeline\n")) - 1
    for index in range(MOMENTS):
        moment = first + (last - first) * index // (MOMENTS - 1)
        with started("script" if index % 2 else "module", photo, tiny_model) as process:
            for _ in range(moment):
                process.stderr.readline()
            number = signal.SIGTERM if index % 4 > 1 else signal.SIGINT
            process.send_signal(number)
            said = [line for line in process.stderr if not line.startswith("import time:")]
        assert process.returncode == 128 + number, moment
        assert said in (["linearsr: interrupted\n"], []), moment
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
