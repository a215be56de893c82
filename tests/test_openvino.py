"""OpenVINO's tests, in a process of their own.

In one process with all that the other tests load, a later test of torch's crashed the interpreter.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")
def test_in_a_process_of_their_own() -> None:
    cases = Path(__file__).with_name("openvino_cases.py")
    command = [sys.executable, "-m", "pytest", cases]
    done = subprocess.run(command, check=False, cwd=cases.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
