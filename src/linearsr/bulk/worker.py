"""The worker process of a bulk job: it loads the model once, then upscales images that Ray Data sends it."""

import io
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import pyarrow as pa

from linearsr.bulk.plan import Item, Places
from linearsr.bulk.report import SCHEMA, Result, result
from linearsr.cluster import LinearSRUpscaler, outcome
from linearsr.images.files import is_image_name
from linearsr.jobs.messages import by_option, reason

if TYPE_CHECKING:
    from linearsr.images.picture import Picture

_READERS = 4
_MAX_ATTEMPTS = 3
_KILLED = f"{_MAX_ATTEMPTS} processes that worked on it were killed: there may be too little memory for it"
Member = tuple[tarfile.TarInfo, bytes]


class Attempts:
    """A count of the attempts at each unit of work that did not end, because their process was killed."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """Count one more attempt, and return their number."""
        self._begun[name] += 1
        return self._begun[name]

    def end(self, name: str) -> None:
        """Reset the count, because the work is done or has failed with an error."""
        del self._begun[name]


class SharedAttempts(Attempts):
    """Attempts of all workers, counted in a process of their own."""

    def __init__(self) -> None:
        import ray

        self._actor = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()

    def begin(self, name: str) -> int:
        import ray

        return int(ray.get(self._actor.begin.remote(name)))

    def end(self, name: str) -> None:
        self._actor.end.remote(name)


class BulkWorker:
    """A worker that reads images, upscales and writes them; Ray Data keeps one in each process.

    Args:
        places: where to read and write.
        upscaler: arguments of `LinearSRUpscaler`.
        threads: CPU threads of torch.
        attempts: the attempts of all workers, kept outside, so that they survive a worker that is killed.
        workers: number of workers that run at the same time; any further start replaces a killed one.
    """

    def __init__(
        self,
        places: Places,
        upscaler: Mapping[str, Any],
        threads: int,
        attempts: Attempts,
        workers: int = 1,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._places, self._attempts = places, attempts
        self._replaces_one = attempts.begin("") > workers
        self._unusable: str | None = None
        try:
            self._upscaler = LinearSRUpscaler(**upscaler)
        # returned as a row later, because Ray would restart a worker that raises again and again
        except Exception as error:
            self._unusable = reason(error)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Turn rows of `Item`s into rows of the report."""
        items = [Item(**row) for row in batch.to_pylist()]
        for row in self._results(items):
            yield pa.Table.from_pylist([row], SCHEMA)

    def _results(self, items: list[Item]) -> Iterator[Result]:
        if self._replaces_one:
            self._replaces_one = False
            yield result("", "replaced")
        if self._unusable is not None:
            yield result(items[0].name, "stopped", error=self._unusable)
        elif self._places.shards:
            for item in items:
                yield from self._guarded(item.name, partial(self._shard, item))
        else:
            with ThreadPoolExecutor(_READERS) as readers:
                # read ahead: all images are requested before the first is upscaled, since a store may be slow
                reads = [readers.submit(self._read, item) for item in items]
                for item, read in zip(items, reads, strict=True):
                    write = partial(self._places.target.write, item.output)
                    work = partial(self._image, item.name, item.output, read.result, write)
                    yield from self._guarded(item.name, work)

    def _guarded(self, name: str, work: Callable[[], list[Result]]) -> list[Result]:
        """Do the work, unless `_MAX_ATTEMPTS` processes that began it were killed."""
        killed = self._attempts.begin(name) > _MAX_ATTEMPTS
        results = [result(name, "failed", error=_KILLED)] if killed else work()
        self._attempts.end(name)
        return results

    def _read(self, item: Item) -> bytes | None:
        """Read the image; None if its result exists, made by a process that this one replaces."""
        if not self._places.overwrite and self._places.target.exists(item.output):
            return None
        if item.offset is None or item.size is None:
            return self._places.source.read(item.file)
        return self._places.source.read(item.file, item.offset, item.offset + item.size)

    def _image(
        self, name: str, output: str, read: Callable[[], bytes | None], write: Callable[[bytes], None]
    ) -> list[Result]:
        """Read, upscale and write an image, and return one row with the outcome."""

        def make() -> "Picture | None":
            data = read()
            if data is None:
                return None
            picture = self._upscaler.upscale(data)
            write(self._upscaler.encode(picture, output))
            return picture

        started = time.perf_counter()
        made = outcome(make)
        if made.error is not None:
            return [result(name, "failed", error=by_option(made.error))]
        if made.value is None:
            return [result(name, "done", output=output)]
        told = {"seconds": round(time.perf_counter() - started, 3), "tags": list(made.value.tags)}
        return [result(name, "done", made.value.size, output=output, warning=made.warning, **told)]

    def _shard(self, item: Item) -> list[Result]:
        """Upscale the images of a tar file into a new one, written when all are done. Copy other members.

        A sample (the members with the same key) is left out if one of its images fails.
        """
        results: list[Result] = []
        try:
            with (
                self._places.source.open(item.file) as given,
                self._places.target.writing(item.output) as made,
                tarfile.open(fileobj=made, mode="w") as target,
            ):
                for members in _samples(given):
                    rows, upscaled = self._sample(item, members)
                    results += rows
                    for info, content in upscaled:
                        target.addfile(info, io.BytesIO(content))
        # stores raise errors of many kinds
        except Exception as error:
            return [result(item.name, "failed", error=reason(error))]
        return results

    def _sample(self, item: Item, members: Iterable[Member]) -> tuple[list[Result], list[Member]]:
        results: list[Result] = []
        upscaled: list[Member] = []
        for info, content in members:
            if not is_image_name(Path(info.name)):
                upscaled.append((info, content))
                continue
            output = str(PurePosixPath(info.name).with_suffix(self._places.suffix))
            write = partial(_add, upscaled, output, info)
            names = f"{item.file}/{info.name}", f"{item.output}/{output}"
            results += self._image(*names, partial(bytes, content), write)
        failed = any(row["status"] == "failed" for row in results)
        return results, [] if failed else upscaled


def _add(members: list[Member], name: str, source: tarfile.TarInfo, data: bytes) -> None:
    """Add the result for a tar member, with the time and mode of that member."""
    made = tarfile.TarInfo(name)
    made.size, made.mtime, made.mode = len(data), source.mtime, source.mode
    members.append((made, data))


def _samples(file: BinaryIO) -> Iterator[list[Member]]:
    """Yield the files of a tar file grouped by key: the path up to the first dot of its last part."""

    def key(member: tarfile.TarInfo) -> str:
        path = PurePosixPath(member.name)
        return str(path.parent / path.name.partition(".")[0])

    with tarfile.open(fileobj=file, mode="r:") as tar:
        for _, members in groupby((member for member in tar if member.isreg()), key):
            yield [(member, cast(IO[bytes], tar.extractfile(member)).read()) for member in members]
