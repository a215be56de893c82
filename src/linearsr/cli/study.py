"""`linearsr study`: a page that asks people which result they prefer, and the figures from their answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from linearsr.cli.console import FAILED, BatchProgress, out, say, stop, table, told, write_json
from linearsr.cli.loading import check_new_file
from linearsr.cli.options import JsonDocument, Overwrite
from linearsr.jobs.messages import debugging, one_line, shown

if TYPE_CHECKING:
    from linearsr.evaluation.study.answers import Answers, Key
    from linearsr.evaluation.study.page import Page, PageMaker
    from linearsr.evaluation.study.scenes import Scene
    from linearsr.evaluation.study.score import Score, Share

LARGE_PAGE = 40_000_000
CropAt = Literal["different", "centre"]


def study(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=FOLDER...",
            help="Methods and their results; with --score: files or folders of answers.",
        ),
    ],
    lr: Annotated[Path | None, typer.Option("--lr", metavar="LR_DIR", help="The LR images.")] = None,
    hr: Annotated[
        Path | None,
        typer.Option("--hr", metavar="HR_DIR", help="Originals, shown in the LR's place on a key."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="HTML", help="The page; the key goes beside it.")
    ] = Path("study.html"),
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    questions: Annotated[
        list[str] | None,
        typer.Option(
            "--question", metavar="TEXT", help="In place of 'Which one do you prefer?'; repeatable."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="At most so many comparisons a participant.")] = 40,
    repeats: Annotated[
        int | None,
        typer.Option(min=0, help="Comparisons shown twice, mirrored. Default: a tenth, at least 2."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Of more images, draw so many.")] = 24,
    crop: Annotated[int, typer.Option(min=64, max=1024, help="Side of what is shown, in pixels.")] = 384,
    crop_at: Annotated[
        CropAt, typer.Option(help="Where the results differ most, or the centre.")
    ] = "different",
    quality: Annotated[
        int | None,
        typer.Option(min=80, max=100, help="Of lossy WebP, for a smaller page. Default: lossless."),
    ] = None,
    forced: Annotated[bool, typer.Option("--forced", help="Without 'can't decide'.")] = False,
    contact: Annotated[
        str | None, typer.Option(help="To whom answers are sent, as the last page says it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing of images and of the opaque ids.")] = 0,
    overwrite: Overwrite = False,
    score: Annotated[bool, typer.Option("--score", help="Evaluate answers.")] = False,
    key: Annotated[
        Path | None, typer.Option(metavar="KEY", help="With --score: the .key.json of the page.")
    ] = None,
    min_consistency: Annotated[
        float,
        typer.Option(min=0, max=1, help="With --score: leave out who repeats fewer answers than this share."),
    ] = 0.0,
    as_json: JsonDocument = False,
) -> None:
    """Ask people which result they prefer: a blinded study in one offline page.

    linearsr study ours=a/ bicubic=b/ --lr lr/ writes study.html, which goes to the participants, and study.key.json,
    which does not; linearsr study --score answers/ --key study.key.json gives the shares with 95% intervals.
    """
    if score:
        if key is None:
            stop("--score needs the study's key: --key study.key.json")
        if lr or hr:
            stop("--score takes answers and --key alone: leave out --lr and --hr")
        _score(inputs, key, min_consistency, as_json)
        return
    if key is not None:
        stop("--key belongs to --score: add it to evaluate answers")
    if lr is None:
        stop("a study needs the LR images: --lr LR_DIR")
    from linearsr.evaluation.study.page import PageMaker, StudyPlan, write_page

    folders, key_file = _methods(inputs), output.with_suffix(".key.json")
    check_new_file("-o", output, (".html", ".htm"), overwrite, "the study is a web page")
    if key_file.exists() and not overwrite:
        stop(f"{shown(key_file)} exists: --overwrite replaces it, and answers to the old page lose their key")
    given: dict[str, Any] = {"title": title, "questions": questions, "contact": contact, "repeats": repeats}
    given |= {"trials": trials, "ties": not forced, "seed": seed, "quality": quality, "crop": crop}
    with told(ValueError):
        scenes = _drawn(folders, lr, hr, images, seed)
        maker = PageMaker(
            list(folders), StudyPlan(**{k: v for k, v in given.items() if v not in (None, "", [])})
        )
    failed = _add(maker, scenes, crop, crop_at)
    if len(failed) == len(scenes):
        stop("no image is left to show", FAILED)
    page = maker.finish()
    try:
        write_page(page, output, key_file)
    except OSError as error:
        stop(f"{shown(output)}: cannot be written: {error.strerror}", FAILED)
    _report(page, output, key_file, len(scenes) - len(failed), failed, as_json)
    if failed:
        raise typer.Exit(FAILED)


def _methods(inputs: Sequence[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for text in inputs:
        name, equals, folder = text.partition("=")
        name = name.strip()
        if not (name and equals and folder):
            stop(f"{shown(text)} is no NAME=FOLDER: give each method a name, as ours=results/")
        if name in folders:
            stop(f"{shown(name)} is there twice: give each method a name of its own")
        folders[name] = Path(folder)
    return folders


def _drawn(folders: dict[str, Path], lr: Path, hr: Path | None, images: int, seed: int) -> "list[Scene]":
    import numpy as np

    from linearsr.evaluation.study.scenes import find_scenes

    scenes = find_scenes(folders, lr, hr)
    if len(scenes) <= images:
        return scenes
    say(f"{images} of {len(scenes)} images are drawn: --images {len(scenes)} takes all")
    chosen = np.random.default_rng(seed).choice(len(scenes), images, replace=False)
    return [scenes[index] for index in sorted(chosen)]


def _add(maker: "PageMaker", scenes: "Sequence[Scene]", crop: int, at: CropAt) -> list[str]:
    """The names of scenes that could not be shown, each said in one line."""
    from linearsr.evaluation.study.scenes import cut_scene

    failed = []
    with BatchProgress(len(scenes)) as progress:
        for scene in scenes:
            progress.start_image(scene.lr)
            try:
                maker.add(scene.name, cut_scene(scene, crop, at))
            except ValueError as error:
                if debugging():
                    raise
                say(f"linearsr: {one_line(error)}")
                failed.append(scene.name)
            progress.finish_image()
    return failed


def _report(
    page: "Page", output: Path, key_file: Path, images: int, failed: list[str], as_json: bool
) -> None:
    size, key = len(page.html.encode()), page.key
    if as_json:
        report = {
            "page": str(output),
            "key": str(key_file),
            "bytes": size,
            "images": images,
            "failed": failed,
        }
        write_json(report | key.model_dump(include={"study", "methods", "questions", "trials", "repeats"}))
        return
    typer.echo(f"{shown(output)}  {size / 1e6:.1f} MB: {images} images, {len(key.methods)} methods,")
    typer.echo(
        f"  {key.trials} comparisons and {key.repeats} repeats for each participant: send this to the participants"
    )
    typer.echo(f"{shown(key_file)}  what the page does not tell: keep it to yourself")
    if size > LARGE_PAGE:
        say(f"linearsr: {size / 1e6:.0f} MB is much for a page: --crop 256, --images 12 or --quality 95 help")


def _score(inputs: Sequence[str], key_file: Path, min_consistency: float, as_json: bool) -> None:
    from linearsr.evaluation.study.answers import Key, read_record
    from linearsr.evaluation.study.score import score

    with told(ValueError, begin=f"{key_file}: "):
        key = read_record(Key, key_file)
    files, broken = _read_answers(inputs, key)
    if not files:
        stop("no answers are left to evaluate", FAILED)
    found = score(files, key, min_consistency)
    if as_json:
        write_json({"study": key.study, **_document(found), "broken": broken})
    else:
        _show(found)
    if broken:
        raise typer.Exit(FAILED)


def _read_answers(inputs: Sequence[str], key: "Key") -> "tuple[dict[str, Answers], list[str]]":
    """(answers by file, files that could not be used, each said in one line)"""
    from linearsr.evaluation.study.answers import Answers, read_record

    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            stop(f"{shown(path)}: no .json files in this folder")
        found.update(dict.fromkeys(inside))
    files: dict[str, Answers] = {}
    broken: list[str] = []
    for path in found:
        try:
            answers = read_record(Answers, path)
            answers.check(key)
        except ValueError as error:
            say(f"linearsr: {shown(path)}: {one_line(error)}")
            broken.append(str(path))
        else:
            files[str(path)] = answers
    return files, broken


def _document(found: "Score") -> dict[str, Any]:
    def listed(shares: "list[Share]") -> list[dict[str, Any]]:
        return [
            {
                **dict(zip(("method", "over"), entry.names, strict=False)),
                "share": round(entry.share, 4),
                "interval": entry.interval and [round(end, 4) for end in entry.interval],
                "answers": entry.answers,
                "ties": entry.ties,
            }
            for entry in shares
        ]

    questions = [
        {"question": question.question, "methods": listed(question.methods), "pairs": listed(question.pairs)}
        for question in found.questions
    ]
    return {**found._asdict(), "questions": questions}


def _show(found: "Score") -> None:
    screen = out()
    screen.print(f"participants {found.participants}, left out {len(found.left_out)}")
    for file, reason in found.left_out.items():
        screen.print(f"  {shown(file)}: {reason}", soft_wrap=True)
    if found.repeats:
        share = found.consistent / found.repeats
        screen.print(
            f"repeats answered as the first time: {found.consistent} of {found.repeats} ({share:.0%})"
        )
    if found.seconds is not None:
        screen.print(f"median time of an answer: {found.seconds:.1f} s")
    for question in found.questions:
        if question.methods:
            screen.print(f"\n{shown(question.question)}")
        for head, entries in (("method", question.methods), ("pair", question.pairs)):
            shares = table(head, "preferred", "95% interval", "answers", "ties", numbers=1)
            for entry in entries:
                interval = "-" if entry.interval is None else "{:.1%} to {:.1%}".format(*entry.interval)
                names = shown(" over ".join(entry.names))
                shares.add_row(names, f"{entry.share:.1%}", interval, str(entry.answers), str(entry.ties))
            if entries:
                screen.print(shares)
    if any(entry.interval is None for question in found.questions for entry in question.methods):
        screen.print("an interval needs at least four participants")
