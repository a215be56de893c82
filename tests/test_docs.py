"""What the documentation promises: commands with their options and files, links, and the source of each figure."""

import argparse
import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer.main

from linearsr.cli.app import COMMANDS, app

ROOT = Path(__file__).parents[1]
CARD = ROOT / "src/linearsr/weights/default/README.md"
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *(ROOT / "research").glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "src").rglob("*.md"),
    }
)
PICTURES = sorted(p for p in (ROOT / "docs").rglob("*") if p.suffix in (".png", ".svg", ".jpg", ".webp"))

BLOCK = re.compile(
    r"^(?P<fence>```+|~~~+).*?^(?P=fence)|(?:^(?: {4}|\t)[^\n]*\n?)+", re.DOTALL | re.MULTILINE
)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)
FILE = re.compile(r"(?<![\w/.-])(?:benchmarks|configs|docs|examples|research|src|tests)/[\w./-]*\.[a-z]\w*")
FIGURE = re.compile(r"\W*\d*\.\d+\b")
MODULE = "linearsr.cli.app"
END_OF_COMMAND = {"|", "||", "&&", "&", ";", ">", ">>", "<"}


class WrongCommandError(Exception):
    pass


def text_of(page):
    return page.read_text(encoding="utf-8")


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks_and_prose(text):
    blocks = [match[0] for match in BLOCK.finditer(text)]
    return blocks, BLOCK.sub("\n", text)


def commands(text):
    """The commands in code blocks and in backticks, without comments; one in backticks may go over a line's end."""
    blocks, prose = blocks_and_prose(text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for candidate in (*lines, *SPAN.findall(prose)):
        words = words_of(candidate)
        if words is not None:
            yield words


def words_of(line):
    """The words of one of our commands; None for anything else."""
    line = " ".join(line.split()).removeprefix("$ ")
    if not re.match(
        rf"(\w+=\S+ )*(python (benchmarks|research)/|linearsr |make |\w+ .*-m {MODULE} )", f"{line} "
    ):
        return None
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    end = next((i for i, word in enumerate(words) if word in END_OF_COMMAND), len(words))
    return words[:end]


def check(words):
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):(?!=)", text_of(ROOT / "Makefile"), re.MULTILINE)
        unknown = [word for word in words[1:] if word not in targets and "=" not in word]
        if unknown:
            raise WrongCommandError(f"make has no target {unknown[0]}")
    elif words[0] == "python":
        check_script(ROOT / words[1], words[2:])
    elif MODULE in words:
        check_linearsr(words[words.index(MODULE) + 1 :])
    else:
        check_linearsr(words[1:])


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise WrongCommandError(message)


def check_script(file, arguments):
    """Parse `arguments` with a parser made of the `add_argument` calls in the source: no script is imported or run."""
    if not file.is_file():
        raise WrongCommandError("there is no such file")
    if "--help" not in arguments:
        script_parser(file).parse_args(arguments)


def argument_calls(file):
    """All calls in a script and in the functions that it takes from the scripts beside it."""
    tree = ast.parse(text_of(file))
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    for node in tree.body:
        sibling = file.with_name(f"{node.module}.py") if isinstance(node, ast.ImportFrom) else None
        if sibling is not None and sibling.is_file():
            taken = {alias.name for alias in node.names}
            for function in ast.parse(text_of(sibling)).body:
                if isinstance(function, ast.FunctionDef) and function.name in taken:
                    yield from (node for node in ast.walk(function) if isinstance(node, ast.Call))


@cache
def script_parser(file):
    parser = Parser(add_help=False)
    types = {"int": int, "float": float}
    for call in argument_calls(file):
        if getattr(call.func, "attr", None) == "add_argument":
            settings = {}
            for keyword in call.keywords:
                if keyword.arg in ("action", "nargs", "required"):
                    settings[keyword.arg] = ast.literal_eval(keyword.value)
                elif keyword.arg == "type" and getattr(keyword.value, "id", None) in types:
                    settings["type"] = types[keyword.value.id]
                elif keyword.arg == "choices" and isinstance(keyword.value, ast.List | ast.Tuple):
                    settings["choices"] = ast.literal_eval(keyword.value)
            parser.add_argument(*map(ast.literal_eval, call.args), **settings)
    return parser


def check_linearsr(arguments):
    group = typer.main.get_command(app)
    own = {option for parameter in group.params for option in parameter.opts}
    if not arguments or arguments[0] in {*own, "--help", "-h"}:
        return
    command = group.get_command(None, arguments[0])
    if command is None:
        raise WrongCommandError(f"linearsr has no command {arguments[0]}")
    context = type(group).context_class(command, info_name=arguments[0])
    try:
        _, left_over, _ = command.make_parser(context).parse_args(list(arguments[1:]))
    except Exception as error:  # click's own or typer's copy of it, as the version has it
        raise WrongCommandError(str(error)) from error
    if left_over:
        raise WrongCommandError(f"{left_over[0]} is one argument too many")


def slug(heading):
    """The anchor of a heading, as GitHub and the site make it."""
    plain = re.sub(r"[^\w\- ]", "", SPAN.sub(r"\1", heading).lower())
    return plain.strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page):
    wrong = []
    for words in commands(text_of(page)):
        try:
            check(words)
        except WrongCommandError as error:
            wrong.append(f"{shlex.join(words)}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page):
    missing = [file for file in FILE.findall(text_of(page)) if not (ROOT / file).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    _, prose = blocks_and_prose(text_of(page))
    wrong = []
    for link in LINK.findall(SPAN.sub("", prose)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(link)
        elif anchor and target.suffix == ".md":
            headings = HEADING.findall(blocks_and_prose(text_of(target))[1])
            if anchor not in map(slug, headings):
                wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_of_figures_have_their_command_in_the_paragraph_before_or_after(page):
    paragraphs = [text for text in re.split(r"\n\s*\n", text_of(page)) if text.strip()]
    without = []
    for place, table in enumerate(paragraphs):
        cells = [cell for row in table.splitlines() if row.startswith("|") for cell in row.split("|")]
        beside = "\n\n".join(paragraphs[max(0, place - 1) : place + 2])
        named = any(words[0] != "make" and len(words) > 1 for words in commands(beside))
        if sum(FIGURE.match(cell) is not None for cell in cells) > 3 and not named:
            without.append(table.splitlines()[0])
    assert not without


@pytest.mark.parametrize("picture", PICTURES, ids=name_of)
def test_pictures_are_shown_and_have_a_command(picture):
    shown, made = False, False
    for page in PAGES:
        text = text_of(page)
        shown = shown or any((page.parent / link).resolve() == picture for link in LINK.findall(text))
        made = made or any(makes(words, picture) for words in commands(text))
    assert shown, "no page shows it"
    assert made, "no page names the command that draws it"


def makes(words, picture):
    """The command names the picture, or its folder where the script knows the name."""
    if name_of(picture) in words:
        return True
    script = ROOT / words[1] if words[0] == "python" else None
    return script is not None and name_of(picture.parent) in words and f'"{picture.name}"' in text_of(script)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_the_help_exist(name):
    command = typer.main.get_command(app).get_command(None, name)
    examples = [line.strip() for line in command.epilog.splitlines() if line.startswith("  ")]
    assert examples or name in ("info", "tag")
    for example in examples:
        words = words_of(example.partition("   ")[0])
        assert words is not None, example
        check(words)


def test_pictures_are_small():
    assert not [p for p in (ROOT / "docs/figures").iterdir() if p.stat().st_size > 150_000]


@pytest.mark.parametrize(
    "command",
    [
        "python benchmarks/missing.py",
        "python benchmarks/crops.py",  # without a photo
        "python benchmarks/quality.py --hr PHOTOS --missing",
        "python benchmarks/quality.py --hr PHOTOS --fidelity high",
        "python benchmarks/speed.py PHOTOS",
        "linearsr missing",
        "linearsr bench --missing",
        "linearsr bench --sizes",  # without its value
        "linearsr info ONE TWO",
        "accelerate launch -m linearsr.cli.app missing RECIPE",
        "make missing",
    ],
)
def test_a_wrong_command_is_found(command):
    (words,) = commands(f"text `{command}` text")
    with pytest.raises(WrongCommandError):
        check(words)


def test_commands_are_found_wherever_they_are():
    text = """A `linearsr info
MODEL` in prose, `linearsr.flow` not, nor "linearsr: warning".

    $ linearsr upscale 'a b.jpg' --seed 1    # why
    OMP_NUM_THREADS=1 python benchmarks/speed.py \\
        --runs 3 > times.txt

```bash
make test | tail
```
"""
    assert [shlex.join(words) for words in commands(text)] == [
        "linearsr upscale 'a b.jpg' --seed 1",
        "python benchmarks/speed.py --runs 3",
        "make test",
        "linearsr info MODEL",
    ]


def test_the_help_of_each_command_ends_with_examples():
    group = typer.main.get_command(app)
    for name in COMMANDS:
        text = group.get_command(None, name).epilog.partition("Examples:")[2]
        examples = [line.strip() for line in text.splitlines() if line.strip().startswith(f"linearsr {name}")]
        assert examples, name
        for example in examples:
            check(words_of(example))
