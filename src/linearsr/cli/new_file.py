"""Checks of a file that a command is to write, before the work begins."""

from importlib.util import find_spec
from pathlib import Path

from linearsr.cli.console import stop
from linearsr.jobs.messages import shown


def check_new_file(
    option: str, file: Path, suffixes: tuple[str, ...], overwrite: bool, what: str = "the picture is a PNG"
) -> None:
    """Stop with one line if `file` cannot be one of such a suffix, or exists and may not be replaced."""
    if file.suffix.lower() not in suffixes:
        stop(f"{option} {shown(file)}: {what}, give a name that ends in {suffixes[0]}")
    if file.is_dir() or not file.parent.is_dir():
        stop(f"{option} {shown(file)}: give a file in a folder that exists")
    if file.exists() and not overwrite:
        stop(f"{shown(file)} exists: --overwrite replaces it")


def check_figure(option: str, file: Path, overwrite: bool) -> None:
    """As `check_new_file`, for a PNG that matplotlib draws."""
    check_new_file(option, file, (".png",), overwrite)
    if find_spec("matplotlib") is None:
        stop(f"{option} needs matplotlib: pip install 'linearsr[train]'")
