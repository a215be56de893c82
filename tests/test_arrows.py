"""The table of CONTRIBUTING names every room, each uses only those after it, and no imports go in a circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

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
