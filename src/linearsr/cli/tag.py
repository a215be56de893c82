"""`linearsr tag`: what is in photos."""

from pathlib import Path
from typing import Annotated, Any

import typer

from linearsr.cli.console import out, table, told
from linearsr.cli.loading import load_tagger
from linearsr.cli.options import MAX_PIXELS, Device, Images, JsonLines, MaxPixels
from linearsr.cli.pictures import inputs_of, run_all
from linearsr.jobs.names import Job
from linearsr.jobs.pipes import piped
from linearsr.jobs.run import Rules, Watcher, pending
from linearsr.jobs.sources import read_lists


def tag(
    inputs: Images,
    model: Annotated[
        str | None, typer.Option(help="Model (folder or hub id) with a tagger. Default: the built-in model.")
    ] = None,
    tagger: Annotated[
        str,
        typer.Option(
            help="own (the model's), ram or ram++ (Recognize Anything), or folder or hub id of a CLIP or SigLIP."
        ),
    ] = "own",
    vocabulary: Annotated[
        Path | None, typer.Option(help="File with one tag per line, for CLIP and SigLIP.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Folder with the safetensors weights of ram or ram++.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Minimum score. Default: set by the tagger for each tag."),
    ] = None,
    max_tags: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of tags per image. Default: set by the tagger.")
    ] = None,
    device: Device = "auto",
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: JsonLines = False,
) -> None:
    """List what is in photos, most certain first, with scores from 0 to 1.

    `linearsr upscale` is guided by these tags if the model uses them.
    """
    rows: list[tuple[str, str]] = []

    def work(job: Job, watcher: Watcher) -> dict[str, Any]:
        from linearsr.images.convert import lr_tensor
        from linearsr.images.io import read_image

        picture = read_image(job.input, max_pixels)
        watcher.start_image(job.input)
        found = used.tag(lr_tensor(picture)[0], threshold=threshold, max_tags=max_tags)
        rows.append((job.label, ", ".join(f"{name} {score:.2f}" for name, score in found)))
        return {
            "size": list(picture.size),
            "tags": [{"tag": name, "score": round(score, 4)} for name, score in found],
        }

    with told(), piped(read_lists(inputs), Path()) as pipes:
        sources = inputs_of(pipes.names, by_name=False)
        jobs = [pipes.called(Job(each.path, None, each.error, each.name)) for each in sources]
        if pending(jobs, overwrite=False):
            used = load_tagger(tagger, model, vocabulary, weights, device)
        try:
            run_all(jobs, work, Rules(), as_json=as_json, settings={"tags": None})
        finally:
            if rows and not as_json:
                _show(rows)


def _show(rows: list[tuple[str, str]]) -> None:
    found = table("image", "tags", ruled=True)
    for image, tags in rows:
        found.add_row(image, tags or "-")
    out().print(found)
