"""Images, tar files and pipelines for the tests of bulk jobs; workers of Ray import it too."""

import io
import os
import signal
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from linearsr.bulk.plan import Plan, make_plan, rows
from linearsr.images.reading import read_image

DEADLY = 77
"""The first pixel of an image that kills the process which upscales it."""


def png(seed, width=6, height=5, first=None):
    pixels = np.random.default_rng(seed).integers(0, 70, (height, width, 3), dtype=np.uint8)
    if first is not None:
        pixels[0, 0] = first
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tar_of(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def members_of(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def fill(folder, files):
    for name, data in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder)


def planned(source, target, suffix=".png", shards=False, overwrite=False) -> Plan:
    return make_plan(str(source), str(target), suffix, shards=shards, overwrite=overwrite)


class Enlarger:
    """A pipeline that repeats pixels, and dies of one image.

    Each call leaves an empty file `PID-NUMBER` in the folder of calls.
    """

    def __init__(self, calls):
        self.calls, self.count = Path(calls), 0

    def options(self, **options):
        return options

    def upscale(self, picture, **options):
        self.count += 1
        (self.calls / f"{os.getpid()}-{self.count}").touch()
        if round(picture.colour[0, 0, 0] * 255) == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return enlarged(picture)


def enlarged(picture):
    colour = np.kron(picture.colour, np.ones((4, 4, 1), dtype=np.float32))
    return type(picture)(colour, tags=("a", "b"))


def expected(data):
    return enlarged(read_image(data)).quantised()


def worker_of(plan, calls, attempts=None, workers=1):
    from linearsr.bulk.worker import Attempts, BulkWorker

    upscaler = {"model": lambda: Enlarger(calls), "scale": 4.0}
    return BulkWorker(plan.places, upscaler, 1, attempts or Attempts(), workers)


def batch_of(plan):
    """What a worker is given at once."""
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(row) for row in rows(plan.todo, shards=plan.places.shards)])


def do(plan, calls):
    """All results of a plan by one worker in this process, by input."""
    tables = worker_of(plan, calls)(batch_of(plan))
    return {row["input"]: row for table in tables for row in table.to_pylist()}
