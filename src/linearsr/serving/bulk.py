"""Bulk jobs: any number of images on Ray Data, each done exactly once whatever is killed.

`bulk_plan` finds the images and what is done, `bulk_ray` hands them to the workers, `bulk_worker` does them,
`bulk_report` keeps what became of each, and `bulk_store` is where all of it lies.
"""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, cast

from linearsr.serving.bulk_plan import Item, Plan, make_plan, rows
from linearsr.serving.bulk_ray import Cluster, SharedAttempts, ray_pool, run
from linearsr.serving.bulk_report import Report, Result, result
from linearsr.serving.bulk_store import BulkError
from linearsr.serving.bulk_worker import BulkWorker, Work

if TYPE_CHECKING:
    from linearsr.pipeline import LinearSRPipeline

__all__ = ["BulkError", "Cluster", "Report", "Result", "Work", "make_plan", "results"]

_MOST_AT_ONCE = 8
_PIECES = 64
"""Each worker's part of the images comes in so many pieces or more, so that all end at about the same time."""


def results(
    plan: Plan,
    work: Work,
    load: "Callable[[], LinearSRPipeline]",
    cluster: Cluster,
    on_killed: Callable[[], None] = lambda: None,
) -> Generator[Result]:
    """Do what is to be done, and yield what became of each image, those first for which there is nothing to do.

    An image whose worker is killed is done again; one that was so three times has failed. The job ends when every image
    has a result or has failed.

    Args:
        plan: of `make_plan`.
        work: what to do to each image.
        load: makes the pipeline, once in each worker.
        cluster: where.
        on_killed: called when a worker has taken the place of one that was killed.

    Raises:
        BulkError: Ray cannot be had, or the model cannot be loaded or do what is asked.
    """
    for item in plan.done:
        yield result(item.name, "skipped", output=item.output)
    for name, problem in plan.problems.items():
        yield result(name, "failed", error=problem)
    missing = {item.name: item for item in plan.todo}
    if not missing:
        return
    given = rows(missing.values(), shards=plan.places.shards)
    with ray_pool(cluster) as pool:
        piece = min(_MOST_AT_ONCE, max(1, len(given) // (pool.workers * _PIECES)))
        arguments = {"load": load, "work": work, "threads": pool.threads, "attempts": SharedAttempts()}
        arguments["workers"] = pool.workers
        for row in run(given, piece, BulkWorker, arguments, pool):
            if row["status"] == "stopped":
                raise BulkError(str(row["error"]))
            if row["status"] == "replaced":
                on_killed()
            for name in _images(row["input"], missing):
                del missing[name]
                yield cast(Result, {**row, "input": name})
    for name in missing:
        yield result(name, "failed", error="was lost on the way: run the command again")


def _images(name: str, missing: dict[str, Item]) -> list[str]:
    """The image of that name, or those of the tar file of that name, if they have no result yet."""
    return [name] if name in missing else [image for image, item in missing.items() if item.file == name]
