"""Run a command of `linearsr` in this process, and look at the outcome."""

import json
from typing import Any

from typer.testing import CliRunner, Result

from linearsr.cli.app import app


def linearsr(*words: object, **how: Any) -> Result:
    """`how`: as for `CliRunner.invoke`."""
    return CliRunner().invoke(app, list(map(str, words)), **how)


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
