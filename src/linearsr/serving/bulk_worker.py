"""The process that computes in a bulk job: it loads the model once, then takes images from Ray Data as they come."""

import io
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import pyarrow as pa

from linearsr.cluster import LinearSRUpscaler, outcome
from linearsr.images.files import is_image_name
from linearsr.images.io import encode_image
from linearsr.jobs.messages import by_option, reason
from linearsr.serving.bulk_plan import Item, Places
from linearsr.serving.bulk_report import SCHEMA, Result, result

if TYPE_CHECKING:
    from linearsr.images.io import Picture
    from linearsr.pipeline import LinearSRPipeline
    from linearsr.serving.bulk_attempts import SharedAttempts

_READERS = 4
_MOST_ATTEMPTS = 3
_KILLED = f"{_MOST_ATTEMPTS} processes that worked on it were killed: there may be too little memory for it"


@dataclass(frozen=True)
class Work:
    """What is done to each image."""

    places: Places
    options: dict[str, Any]
    """For `LinearSRPipeline.upscale`."""
    quality: int
    max_pixels: int


class BulkWorker:
    """Ray Data keeps one in each process of the pool.

    Args:
        load: makes the pipeline.
        work: what to do.
        threads: for the arithmetic on a CPU.
        attempts: of all workers, which outlive a worker that is killed.
        workers: how many there are at once.
    """

    def __init__(
        self,
        load: "Callable[[], LinearSRPipeline]",
        work: Work,
        threads: int,
        attempts: "SharedAttempts",
        workers: int = 1,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._work, self._places, self._attempts = work, work.places, attempts
        self._replaces_one = attempts.begin("") > workers
        self._unusable: str | None = None
        try:
            self._upscaler = LinearSRUpscaler(load, max_pixels=work.max_pixels, **work.options)
        # told as a row, since Ray would try again and again
        except Exception as error:
            self._unusable = reason(error)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Rows of `Item`s -> rows of results."""
        items = [Item(**row) for row in batch.to_pylist()]
        if self._replaces_one:
            self._replaces_one = False
            yield pa.Table.from_pylist([result("", "replaced")], SCHEMA)
        for row in self._results(items):
            yield pa.Table.from_pylist([row], SCHEMA)

    def _results(self, items: list[Item]) -> Iterator[Result]:
        if self._unusable is not None:
            yield result(items[0].name, "stopped", error=self._unusable)
        elif self._places.shards:
            for item in items:
                yield from self._guarded(item.name, partial(self._shard, item))
        else:
            with ThreadPoolExecutor(_READERS) as readers:
                # a store answers slowly, so that all are asked for before the first is computed
                reads = [readers.submit(self._read, item) for item in items]
                for item, read in zip(items, reads, strict=True):
                    yield from self._guarded(item.name, partial(self._file, item, read))

    def _guarded(self, name: str, work: Callable[[], list[Result]]) -> list[Result]:
        """Do it, unless the processes that began it before were all killed."""
        killed = self._attempts.begin(name) > _MOST_ATTEMPTS
        results = [result(name, "failed", error=_KILLED)] if killed else work()
        self._attempts.end(name)
        return results

    def _read(self, item: Item) -> bytes | None:
        """The image, None if its result is there: made before this process took the place of a lost one."""
        if not self._places.overwrite and self._places.target.exists(item.output):
            return None
        if item.offset is None or item.size is None:
            return self._places.source.read(item.file)
        return self._places.source.read(item.file, item.offset, item.offset + item.size)

    def _file(self, item: Item, read: "Future[bytes | None]") -> list[Result]:
        def make() -> "Picture | None":
            data = read.result()
            if data is None:
                return None
            picture, encoded = self._upscale(data, item.output)
            self._places.target.write(item.output, encoded)
            return picture

        return [_told(item.name, item.output, make)]

    def _shard(self, item: Item) -> list[Result]:
        """The images of a tar file, written as one when all are done; what stands beside an image goes along.

        A sample, that is the members of one key, is left out if an image of it fails.
        """
        results: list[Result] = []
        try:
            with (
                self._places.source.open(item.file) as given,
                self._places.target.writing(item.output) as made,
                tarfile.open(fileobj=made, mode="w") as target,
            ):
                for members in _samples(given):
                    ours, theirs = self._sample(item, members)
                    results += ours
                    for info, content in theirs:
                        target.addfile(info, io.BytesIO(content))
        # a store has errors of its own
        except Exception as error:
            return [result(item.name, "failed", error=reason(error))]
        return results

    def _sample(
        self, item: Item, members: Iterable[tuple[tarfile.TarInfo, bytes]]
    ) -> tuple[list[Result], list[tuple[tarfile.TarInfo, bytes]]]:
        results: list[Result] = []
        outcome: list[tuple[tarfile.TarInfo, bytes]] = []
        for info, content in members:
            if not is_image_name(Path(info.name)):
                outcome.append((info, content))
                continue
            output = str(PurePosixPath(info.name).with_suffix(self._places.suffix))

            def make(
                info: tarfile.TarInfo = info, content: bytes = content, output: str = output
            ) -> "Picture":
                picture, encoded = self._upscale(content, output)
                made = tarfile.TarInfo(output)
                made.size, made.mtime, made.mode = len(encoded), info.mtime, info.mode
                outcome.append((made, encoded))
                return picture

            results.append(_told(f"{item.file}/{info.name}", f"{item.output}/{output}", make))
        failed = any(row["status"] == "failed" for row in results)
        return results, [] if failed else outcome

    def _upscale(self, data: bytes, output: str) -> "tuple[Picture, bytes]":
        made = self._upscaler.upscale(data)
        return made, encode_image(made, output, self._work.quality)


def _samples(file: BinaryIO) -> Iterator[list[tuple[tarfile.TarInfo, bytes]]]:
    """The files in a tar file by key: the name up to the first dot of its last part."""

    def key(member: tarfile.TarInfo) -> str:
        path = PurePosixPath(member.name)
        return str(path.parent / path.name.partition(".")[0])

    with tarfile.open(fileobj=file, mode="r:") as tar:
        for _, members in groupby((member for member in tar if member.isreg()), key):
            yield [(member, cast(IO[bytes], tar.extractfile(member)).read()) for member in members]


def _told(name: str, output: str, make: "Callable[[], Picture | None]") -> Result:
    """Run `make`, and say what became of it; None is a result that was there."""
    started = time.perf_counter()
    made = outcome(make)
    if made.error is not None:
        return result(name, "failed", error=by_option(made.error))
    if made.value is None:
        return result(name, "done", output=output)
    seconds, tags = round(time.perf_counter() - started, 3), list(made.value.tags)
    return result(
        name, "done", made.value.size, output=output, seconds=seconds, tags=tags, warning=made.warning
    )
