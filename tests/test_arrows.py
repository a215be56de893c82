"""The table of CONTRIBUTING names every room, each uses only those after it, no circles; what one photo loads."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
ROOMS = [
    name.strip("/").removesuffix(".py")
    for row in re.findall(
        r"^\| (`.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    for name in re.findall(r"`([^`]+)`", row)
]
FILES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "src/linearsr").rglob("*.py")
}


def room(module: str) -> str:
    return module.split(".")[1]


def imports(module: str) -> set[str]:
    """Modules of ours that a module imports anywhere."""
    nodes = [
        n
        for n in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8")))
        if isinstance(n, ast.ImportFrom)
    ]
    names = {f"{n.module}.{alias.name}" for n in nodes for alias in n.names} | {str(n.module) for n in nodes}
    return {name for name in names if name in FILES and name not in ("linearsr", module)}


ARROWS = {(user, used) for user in FILES for used in imports(user) if user != "linearsr"}


def test_the_table_names_every_room() -> None:
    assert sorted(ROOMS) == sorted({room(module) for module in FILES if module != "linearsr"})


def test_no_room_uses_one_before_it() -> None:
    assert not [arrow for arrow in ARROWS if ROOMS.index(room(arrow[1])) < ROOMS.index(room(arrow[0]))]


def test_no_circle() -> None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for user, used in ARROWS:
        sorter.add(user, used)
    sorter.prepare()


HELP = "from linearsr.cli.app import app; app(['--help'], standalone_mode=False)"


@pytest.mark.parametrize(
    ("code", "left_out"),
    [
        (HELP, {"torch", "numpy", "PIL", "pydantic", "huggingface_hub"}),
        ("import linearsr.serving.server", {"torch", "scipy"}),
        ("import linearsr.cli.shard, linearsr.training.shards", {"torch"}),
    ],
)
def test_what_is_not_needed_is_not_imported(code: str, left_out: set[str]) -> None:
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    assert not left_out & set(subprocess.check_output(command, text=True).splitlines()[-1].split())


def test_a_photo_loads_few_files(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code = "import sys; from linearsr.cli.app import app; app(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    command = [sys.executable, "-c", code, "upscale", str(tmp_path / "a.png")]
    loaded = set(subprocess.check_output(command, text=True).split())
    assert sum(name.startswith("linearsr") for name in loaded) <= 59
    assert not loaded & {f"linearsr.{name}" for name in ("flow.experts", "images.tiff", "jobs.large")}
