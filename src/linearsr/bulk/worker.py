"""The process that computes in a bulk job: it loads the model once, then takes images from Ray Data as they come."""

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
    """How often each piece of work was begun and not ended: as often, it killed the process that did it."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """Count one attempt more; returns how many there were."""
        self._begun[name] += 1
        return self._begun[name]

    def end(self, name: str) -> None:
        """The work is done, or has failed as it should."""
        del self._begun[name]


class SharedAttempts(Attempts):
    """Those of all workers, counted in a process of their own."""

    def __init__(self) -> None:
        import ray

        self._actor = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()

    def begin(self, name: str) -> int:
        import ray

        return int(ray.get(self._actor.begin.remote(name)))

    def end(self, name: str) -> None:
        self._actor.end.remote(name)


class BulkWorker:
    """A `LinearSRUpscaler` that reads images and writes results by itself; Ray Data keeps one in each process.

    Args:
        upscaler: arguments of `LinearSRUpscaler`.
        threads: for the arithmetic on a CPU.
        attempts: of all workers, `workers` at once; they outlive a worker that is killed.
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
        # told as a row, since Ray would try again and again
        except Exception as error:
            self._unusable = reason(error)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Rows of `Item`s -> rows of results."""
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
                # a store answers slowly, so all are asked for before the first is computed
                reads = [readers.submit(self._read, item) for item in items]
                for item, read in zip(items, reads, strict=True):
                    write = partial(self._places.target.write, item.output)
                    work = partial(self._image, item.name, item.output, read.result, write)
                    yield from self._guarded(item.name, work)

    def _guarded(self, name: str, work: Callable[[], list[Result]]) -> list[Result]:
        """Do it, unless the processes that began it before were all killed."""
        killed = self._attempts.begin(name) > _MAX_ATTEMPTS
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

    def _image(
        self, name: str, output: str, read: Callable[[], bytes | None], write: Callable[[bytes], None]
    ) -> list[Result]:
        """Upscale what is read, write it, and say in one row what became of it."""

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
                    rows, upscaled = self._sample(item, members)
                    results += rows
                    for info, content in upscaled:
                        target.addfile(info, io.BytesIO(content))
        # a store has errors of its own
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
    """Add the result of a member, with its time and mode."""
    made = tarfile.TarInfo(name)
    made.size, made.mtime, made.mode = len(data), source.mtime, source.mode
    members.append((made, data))


def _samples(file: BinaryIO) -> Iterator[list[Member]]:
    """The files in a tar file by key: the name up to the first dot of its last part."""

    def key(member: tarfile.TarInfo) -> str:
        path = PurePosixPath(member.name)
        return str(path.parent / path.name.partition(".")[0])

    with tarfile.open(fileobj=file, mode="r:") as tar:
        for _, members in groupby((member for member in tar if member.isreg()), key):
            yield [(member, cast(IO[bytes], tar.extractfile(member)).read()) for member in members]
