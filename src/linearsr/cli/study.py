"""`linearsr study`: make a page that asks people which result they prefer, and evaluate their answers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from linearsr.cli.console import FAILED, BatchProgress, out, say, stop, table, told, write_json
from linearsr.cli.loading import check_new_file
from linearsr.cli.options import JsonDocument, Overwrite
from linearsr.jobs.messages import debugging, one_line, shown

if TYPE_CHECKING:
    from linearsr.evaluation.study.page import Scene

_LARGE_PAGE = 40_000_000
_QUESTIONS = ["Which one do you prefer?"]


def study(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="NAME=FOLDER",
            help="Methods to compare, each with its folder of results. With --score: files or folders of answers.",
        ),
    ],
    lr: Annotated[Path | None, Option(metavar="LR_DIR", help="Folder of the LR images.")] = None,
    hr: Annotated[
        Path | None, Option(metavar="HR_DIR", help="Folder of the HR images, shown on the key O.")
    ] = None,
    output: Annotated[
        Path,
        Option(
            "--output", "-o", metavar="HTML", help="Page to write. Its key is written beside it (.key.json)."
        ),
    ] = Path("study.html"),
    title: Annotated[str, Option(help="Heading of the page.")] = "Which image looks better?",
    question: Annotated[list[str], Option(help="Question about each pair; repeat for several.")] = _QUESTIONS,
    trials: Annotated[int, Option(min=1, help="Maximum number of comparisons per participant.")] = 40,
    images: Annotated[int, Option(min=1, help="Images to show; drawn at random if there are more.")] = 24,
    crop: Annotated[int, Option(min=64, max=1024, help="Side of the parts shown, in pixels.")] = 384,
    contact: Annotated[
        str, Option(help="Where participants send their answers.")
    ] = "the person who gave you this page",
    overwrite: Overwrite = False,
    score: Annotated[bool, Option("--score", help="Evaluate answers.")] = False,
    key: Annotated[
        Path | None, Option(metavar="FILE", help="With --score: the .key.json of the page.")
    ] = None,
    as_json: JsonDocument = False,
) -> None:
    """Ask people which result they prefer, with one web page that needs no server.

    Writes two files: a page that hides the names of the methods, to send to participants, and its key, to keep. With
    --score, evaluates the answers that participants send back: the share of each method with its 95% interval.

        linearsr study ours=a/ bicubic=b/ --lr lr/ -o study.html
        linearsr study --score answers/ --key study.key.json
    """
    if score:
        if key is None:
            stop("--score needs the study's key: --key study.key.json")
        if lr or hr:
            stop("--score takes answers and --key alone: leave out --lr and --hr")
        _score(inputs, key, as_json)
        return
    if key is not None:
        stop("--key is used only with --score: add that to evaluate answers, or leave out --key")
    if lr is None:
        stop("a study needs the LR images: --lr LR_DIR")
    from linearsr.evaluation.study.page import find_scenes, make_page
    from linearsr.runtime.files import whole_file

    folders, key_file = _methods(inputs), output.with_suffix(".key.json")
    check_new_file("-o", output, (".html", ".htm"), overwrite, "studies are written as web pages")
    if key_file.exists() and not overwrite:
        stop(f"{shown(key_file)} exists: --overwrite replaces it, and answers to the old page lose their key")
    failed: list[str] = []
    with told(ValueError):
        scenes = find_scenes(folders, lr, hr)
        if len(scenes) > images:
            say(f"{images} of {len(scenes)} images are drawn: --images {len(scenes)} takes all")
            scenes = sorted(Random(0).sample(scenes, images), key=scenes.index)
        html, known = make_page(
            list(folders),
            _cut(scenes, crop, failed),
            title=title,
            questions=question,
            contact=contact,
            trials=trials,
            crop=crop,
        )
    if len(failed) == len(scenes):
        stop("no image is left to show", FAILED)
    with told(OSError, status=FAILED):
        # write the key first: a page without its key is useless
        for file, text in ((key_file, known.model_dump_json(indent=1)), (output, html)):
            with whole_file(file) as draft:
                draft.write_text(text, encoding="utf-8")
    report = {"page": str(output), "key": str(key_file), "bytes": len(html.encode())}
    report |= {"images": len(scenes) - len(failed), "failed": failed}
    report |= known.model_dump(include={"study", "methods", "questions", "trials", "repeats"})
    write_json(report) if as_json else _show_page(report)
    if failed:
        raise typer.Exit(FAILED)


def _methods(inputs: Sequence[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for text in inputs:
        name, equals, folder = text.partition("=")
        name = name.strip()
        if not (name and equals and folder):
            stop(f"{shown(text)} is not NAME=FOLDER: give each method a name, as in ours=results/")
        if name in folders:
            stop(f"the name {shown(name)} is used twice: give each method its own")
        folders[name] = Path(folder)
    return folders


def _cut(scenes: "Sequence[Scene[Path]]", crop: int, failed: list[str]) -> "Iterator[Scene[Any]]":
    """Yield the scenes as participants see them; say which cannot be shown, and add them to `failed`."""
    from linearsr.evaluation.study.page import cut_scene

    with BatchProgress(len(scenes)) as progress:
        for scene in scenes:
            progress.start_image(scene.lr)
            try:
                yield cut_scene(scene, crop)
            except ValueError as error:
                if debugging():
                    raise
                say(f"linearsr: {one_line(error)}")
                failed.append(scene.name)
            progress.finish_image()


def _show_page(report: dict[str, Any]) -> None:
    size = f"{report['bytes'] / 1e6:.1f} MB"
    out().print(
        f"{shown(report['page'])}  {size}: send it to the participants\n"
        f"  {report['images']} images, {len(report['methods'])} methods; {report['trials']} comparisons and "
        f"{report['repeats']} repeats per participant\n"
        f"{shown(report['key'])}  the key to the answers: keep it",
        soft_wrap=True,
    )
    if report["bytes"] > _LARGE_PAGE:
        say(f"linearsr: {size} is large for a page: use --crop 256 or --images 12")


def _score(inputs: Sequence[str], key_file: Path, as_json: bool) -> None:
    from linearsr.evaluation.study.score import Answers, Key, read_record, score

    with told(ValueError, begin=f"{key_file}: "):
        key = read_record(Key, key_file)
    files, broken = dict[str, Answers](), list[str]()
    for place in map(Path, inputs):
        inside = sorted(place.glob("*.json")) if place.is_dir() else [place]
        if not inside:
            stop(f"{shown(place)}: no .json files in this folder")
        for path in inside:
            try:
                files[str(path)] = read_record(Answers, path).checked(key)
            except ValueError as error:
                say(f"linearsr: {shown(path)}: {one_line(error)}")
                broken.append(str(path))
    if not files:
        stop("no answers are left to evaluate", FAILED)
    found = score(files, key)
    write_json({"study": key.study, **found, "broken": broken}) if as_json else _show(found)
    if broken:
        raise typer.Exit(FAILED)


def _show(found: dict[str, Any]) -> None:
    screen = out()
    screen.print(f"participants {found['participants']}, left out {len(found['left_out'])}")
    for file, reason in found["left_out"].items():
        screen.print(f"  {shown(file)}: {reason}", soft_wrap=True)
    if found["repeats"]:
        share = f"{found['consistent']} of {found['repeats']} ({found['consistent'] / found['repeats']:.0%})"
        screen.print(f"repeats answered as the first time: {share}")
    if found["seconds"] is not None:
        screen.print(f"median time of an answer: {found['seconds']:.1f} s")
    for question in found["questions"]:
        screen.print(f"\n{shown(question['question'])}")
        for head, entries in (("method", question["methods"]), ("pair", question["pairs"])):
            shares = table(head, "preferred", "95% interval", "answers", "ties", numbers=1)
            for entry in entries:
                interval = "{:.1%} to {:.1%}".format(*entry["interval"]) if entry["interval"] else "-"
                names = f"{entry['method']} over {entry['over']}" if "over" in entry else entry["method"]
                numbers = (f"{entry['share']:.1%}", interval, str(entry["answers"]), str(entry["ties"]))
                shares.add_row(shown(names), *numbers)
            screen.print(shares)
    if any(entry["interval"] is None for question in found["questions"] for entry in question["methods"]):
        screen.print("an interval needs at least four participants")
