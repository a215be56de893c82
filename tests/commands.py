"""Run a command of `linearsr` in this process, and look at the outcome."""

import json
import os
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner, Result

from linearsr.cli.app import app

COMMAND = (sys.executable, "-m", "linearsr.cli.app")


def linearsr(*words: object, **how: Any) -> Result:
    """`how`: as for `CliRunner.invoke`."""
    return CliRunner().invoke(app, list(map(str, words)), **how)


def process(*words: object, **how: Any) -> "subprocess.CompletedProcess[str]":
    """The same in a process of its own, with one thread; `how`: as for `subprocess.run`, and variables as `env`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **how.pop("env", {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    return subprocess.run([*COMMAND, *map(str, words)], env=environment, check=False, **streams)


def done(result: Result) -> Result:
    """Status 0."""
    assert result.exit_code == 0, result.stderr
    return result


def document(result: Result, status: int = 0) -> dict[str, Any]:
    """The JSON document on stdout."""
    assert result.exit_code == status, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def records(result: Result, status: int = 0) -> list[dict[str, Any]]:
    """The JSON lines on stdout."""
    assert result.exit_code == status, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def refused(result: Result, status: int = 2) -> str:
    """The one line on stderr; nothing is on stdout."""
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (status, "", 1), result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr
