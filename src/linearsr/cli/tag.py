"""`linearsr tag`: list what is in photos."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from linearsr.cli.console import lost_output, out, say, table, told
from linearsr.cli.loading import check_degradation, check_new_file, load_tagger
from linearsr.cli.options import MAX_PIXELS, Device, Images, JsonLines, MaxPixels
from linearsr.cli.pictures import inputs_of, run_all
from linearsr.jobs.names import Job, piped
from linearsr.jobs.run import Watcher, pending
from linearsr.jobs.sources import read_lists

if TYPE_CHECKING:
    from linearsr.training.catalogue import Photo
    from linearsr.training.photo_tags import TagFile

_SCALE = 4


def tag(
    inputs: Images,
    model: Annotated[
        str | None, Option(help="Model with a tagger: folder or hub id. Default: the built-in model.")
    ] = None,
    tagger: Annotated[
        str,
        Option(
            help="Tagger: own (the model's), ram or ram++ (Recognize Anything), or the folder of another."
        ),
    ] = "own",
    weights: Annotated[
        str | None, Option(help="With ram or ram++: folder of its safetensors weights.")
    ] = None,
    threshold: Annotated[
        float | None,
        Option(min=0, max=1, help="Minimum score. Default: set by the tagger for each tag."),
    ] = None,
    max_tags: Annotated[
        int | None, Option(min=1, help="Maximum number of tags per image. Default: set by the tagger.")
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="FILE.json",
            help="Write tags for `data.tags` of training, and a vocabulary beside (.txt). Photos in it are skipped.",
        ),
    ] = None,
    degrade: Annotated[
        str | None,
        Option(
            metavar="PRESET",
            help="Tag an LR version of each photo, 4 times smaller, as the model will see it; see `degrade --preset`.",
        ),
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Tag again what -o FILE has.")] = False,
    device: Device = "auto",
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: JsonLines = False,
) -> None:
    """List what is in photos, most certain first, with scores from 0 to 1.

    `linearsr upscale` is guided by these tags if the model uses them. In tar files, or folders of them as
    made by `linearsr shard`, every image is tagged.

        linearsr tag photo.jpg
        linearsr tag photos/ -o tags.json
    """
    rows: list[tuple[str, str]] = []
    degradation = None if degrade is None else check_degradation("--degrade", degrade)
    file = None if output is None else _tag_file(output, overwrite)

    def work(job: Job, watcher: Watcher) -> dict[str, Any]:
        from linearsr.images.convert import lr_tensor
        from linearsr.images.photos import degraded_pair
        from linearsr.images.picture import Picture
        from linearsr.images.reading import read_image

        watcher.start_image(job.input)
        source = job.input if job.input not in crops else crops[job.input].open()
        if degradation is None:
            picture = read_image(source, max_pixels)
        else:
            picture = Picture(degraded_pair(job.input, degradation, 0, _SCALE, max_pixels, source)[0])
        found = used.tag(lr_tensor(picture)[0], threshold=threshold, max_tags=max_tags)
        if file is None:
            rows.append((job.label, ", ".join(f"{name} {score:.2f}" for name, score in found)))
        else:
            file.add(job.input, [name for name, _ in found])
        return {
            "size": list(picture.size),
            "tags": [{"tag": name, "score": round(score, 4)} for name, score in found],
        }

    with told(), piped(read_lists(inputs), Path()) as pipes:
        crops, jobs = _in_shards(pipes.names)
        sources = inputs_of([name for name in pipes.names if not _is_shards(name)], by_name=False)
        jobs = [pipes.called(Job(each.path, None, each.error, each.name)) for each in sources] + jobs
        if file is not None:
            done = [job for job in jobs if file.get(job.input) is not None]
            jobs = [job for job in jobs if file.get(job.input) is None]
            if done:
                say(f"skipped, as {file.path} has their tags: {len(done)} (--overwrite tags them again)")
        if pending(jobs, overwrite=False):
            used = load_tagger(tagger, model, weights, device)
        try:
            run_all(jobs, work, as_json=as_json, settings={"tags": None})
        finally:
            if file is not None and file.known:
                file.write()
                say(str(file))
            if rows and not as_json:
                _show(rows)


def _is_shards(name: str) -> bool:
    return name.endswith(".tar") or next(Path(name).glob("*.tar"), None) is not None


def _in_shards(names: Sequence[str]) -> tuple[dict[Path, "Photo"], list[Job]]:
    """Return the images in tar files by name, and a job for each; unreadable images are failed jobs."""
    shards = [name for name in names if _is_shards(name)]
    if not shards:
        return {}, []
    from linearsr.training.catalogue import Photo, look_into_shards

    with ThreadPoolExecutor() as pool:
        found = [each for name in shards for each in look_into_shards(name, pool)]
    jobs = [Job(Path(each.name), None, None if isinstance(each, Photo) else each.reason) for each in found]
    return {Path(each.name): each for each in found if isinstance(each, Photo)}, jobs


def _tag_file(path: Path, anew: bool) -> "TagFile":
    from linearsr.training.photo_tags import TagFile

    check_new_file("-o", path, (".json",), overwrite=True, what="tags are written as JSON")
    with told():
        return TagFile(path, anew)


def _show(rows: list[tuple[str, str]]) -> None:
    found = table("image", "tags", ruled=True)
    for image, tags in rows:
        found.add_row(image, tags or "-")
    try:
        out().print(found)
    except OSError as error:
        lost_output(error)
