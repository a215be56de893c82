"""Jobs, and where they are remembered: a table in SQLite beside a folder of inputs and one of results."""

import itertools
import math
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import sqlalchemy as sql
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column, sessionmaker

from linearsr.serving.problems import storage_full
from linearsr.serving.schemas import MEDIA_TYPES, JobView, Status
from linearsr.serving.settings import MIB

_BUSY_SECONDS = 5.0
"""How long a lock that another program holds on the table is waited for."""
_SCHEMA = 1
"""Version of the table; raise it when a column changes."""
_SPARE = MIB
"""Bytes of the disk that are left for the table."""
_EPOCH = time.time() - time.monotonic()
LIVE: tuple[Status, ...] = ("queued", "running")


def now() -> float:
    """Seconds since 1970. A clock that is set while the server runs does not change it."""
    return _EPOCH + time.monotonic()


class _Base(MappedAsDataclass, DeclarativeBase, eq=False):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: sql.JSON,
        dict[str, Any] | None: sql.JSON,
        list[str]: sql.JSON,
    }


class Job(_Base):
    """Something that a worker is to do with an image. Times are seconds since 1970."""

    __tablename__ = "jobs"
    __table_args__ = (sql.UniqueConstraint("owner", "idempotency"),)

    do: Mapped[str]
    """ "upscale" or "tags"."""
    owner: Mapped[str]
    """Whose key it was made with; empty without keys."""
    width: Mapped[int]
    height: Mapped[int]
    steps: Mapped[int]
    options: Mapped[dict[str, Any]]
    id: Mapped[str] = mapped_column(primary_key=True, default_factory=lambda: secrets.token_urlsafe(16))
    created: Mapped[float] = mapped_column(default_factory=now)
    status: Mapped[str] = mapped_column(default="queued", index=True)
    step: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    started: Mapped[float | None] = mapped_column(default=None)
    finished: Mapped[float | None] = mapped_column(default=None)
    expires: Mapped[float | None] = mapped_column(default=None, index=True)
    output: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    tags: Mapped[list[str]] = mapped_column(default_factory=list)
    unknown_tags: Mapped[list[str]] = mapped_column(default_factory=list)
    warnings: Mapped[list[str]] = mapped_column(default_factory=list)
    error: Mapped[str | None] = mapped_column(default=None)
    idempotency: Mapped[str | None] = mapped_column(default=None)
    """The client's own key of the request."""
    fingerprint: Mapped[str | None] = mapped_column(default=None)
    """Of image and options, where there is such a key."""
    webhook: Mapped[str | None] = mapped_column(default=None, index=True)
    """Address that is still to be told of the end."""
    share: float = 0.0
    """Of the work that is done while it runs, 0 to 1; not in the table."""

    @property
    def live(self) -> bool:
        """Whether it is still to be done."""
        return self.status in LIVE

    @property
    def result_bytes(self) -> int:
        """That its result may take: four for each pixel."""
        scale: float = self.options.get("scale", 0)
        return 4 * math.ceil(self.width * scale) * math.ceil(self.height * scale)

    def view(self, position: int | None) -> JobView:
        """The job as its owner sees it, `position` places from the head of the queue."""
        # there is still the decoding to be done after the last step
        progress = 1 if self.status == "done" else min(0.99, self.share)
        output = {**self.output, "format": self.options["format"]} if self.output else None
        size = {"width": self.width, "height": self.height}
        own = {"position": position, "progress": progress, "input": size, "output": output}
        stored = {name: getattr(self, name) for name in JobView.model_fields if name not in own}
        return JobView(**stored, **own)


class JobStore:
    """All jobs that have not expired, on disk. Threads may share it.

    What is written survives the process's death at any moment: a job is there with its whole input, or not at all.
    All results may take `max_bytes`. Raises ValueError for a table that is damaged or not of this version, OSError for
    a folder that cannot be written.
    """

    def __init__(self, folder: Path, max_bytes: float = math.inf) -> None:
        self._max_bytes = max_bytes
        self._folder, self._inputs, self._results = folder, folder / "inputs", folder / "results"
        for place in (folder, self._inputs, self._results):
            place.mkdir(parents=True, exist_ok=True)
            with suppress(PermissionError):  # a volume may be another user's
                place.chmod(0o700)
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}
        table = folder / "jobs.sqlite3"
        self._engine = sql.create_engine(f"sqlite:///{table}", connect_args={"timeout": _BUSY_SECONDS})
        sql.event.listen(self._engine, "connect", _set_up)
        self._sessions = sessionmaker(self._engine)
        self.close = self._engine.dispose
        try:
            self._open()
        except (DatabaseError, sqlite3.DatabaseError, ValueError) as error:
            self.close()
            raise ValueError(
                f"{table} cannot be used ({cause(error)}): move it away, which loses the jobs in it, or choose another "
                "folder with --data"
            ) from None

    def _open(self) -> None:
        with self._engine.begin() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version != _SCHEMA and sql.inspect(connection).get_table_names():
                raise ValueError(f"it has version {version} where this program has {_SCHEMA}")
            damage = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if damage != "ok":
                raise ValueError(f"it is damaged: {damage}")
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            _Base.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {_SCHEMA}")

    def input_path(self, job: Job) -> Path:
        """Where the image of a job lies as it was sent."""
        return self._inputs / job.id

    def preview_path(self, job: Job) -> Path:
        """Where a small picture of a large result lies, or will."""
        return self._results / f"{job.id}.preview.jpg"

    def result_path(self, job: Job, format: str | None = None, stripped: bool = False) -> Path:
        """Where the result of a job lies, or will; in another format, or without metadata, if asked for."""
        return self._results / f"{job.id}{'.stripped' * stripped}.{format or job.options['format']}"

    def task(self, job: Job, max_pixels: int) -> dict[str, Any]:
        """What a worker is told of a job."""
        options = dict(job.options)
        task = {"do": job.do, "id": job.id, "input": str(self.input_path(job)), "max_pixels": max_pixels}
        if job.do == "upscale":
            task |= {"output": str(self.result_path(job)), "quality": options.pop("quality")}
            del options["format"]
            options["num_inference_steps"] = options.pop("steps")
        return {**task, "options": options}

    def add(self, job: Job, image: BinaryIO) -> None:
        """Take in a new job with its image."""
        image.seek(0)
        try:
            with open(self.input_path(job), "xb") as file:
                shutil.copyfileobj(image, file)
            self.save(job)
        except BaseException:
            self.input_path(job).unlink(missing_ok=True)
            raise

    def save(self, job: Job) -> None:
        """Write down how a job stands."""
        # else an older state of a job, read before a newer one, might be written after it
        with self._lock, self._sessions.begin() as session:
            session.merge(job)
        if not job.live:
            self.input_path(job).unlink(missing_ok=True)
            self.measure(job)

    def get(self, job_id: str) -> Job | None:
        """The job of that name."""
        with self._sessions() as session:
            return session.get(Job, job_id)

    def find(self, *where: sql.ColumnElement[bool]) -> Sequence[Job]:
        """The jobs of which all that holds, oldest first."""
        with self._sessions() as session:
            return session.scalars(sql.select(Job).where(*where).order_by(Job.created, Job.id)).all()

    def of_owner(self, owner: str, limit: int, before: Job | None) -> Sequence[Job]:
        """An owner's newest jobs, or those older than `before`, newest first."""
        order = sql.tuple_(Job.created, Job.id)
        where = [Job.owner == owner, Job.do == "upscale"]
        if before is not None:
            where.append(order < (before.created, before.id))
        with self._sessions() as session:
            query = sql.select(Job).where(*where).order_by(Job.created.desc(), Job.id.desc())
            return session.scalars(query.limit(limit)).all()

    def forget_webhook(self, job: Job) -> None:
        """Nobody is to be told of a job's end any more."""
        with self._lock, self._sessions.begin() as session:
            session.execute(sql.update(Job).where(Job.id == job.id).values(webhook=None))

    # what it takes

    def require_room(self, size: int = 0) -> None:
        """Raises Problem, with the time to come back, if there is none for so many bytes more."""
        if self.taken + size > self._max_bytes:
            raise storage_full(
                f"results take {self.taken / MIB:.4g} of the {self._max_bytes / MIB:.4g} MiB allowed: come back later"
            )
        if self.free < size + _SPARE:
            raise storage_full()

    def reserve(self, job: Job) -> None:
        """Count what the result of a job may take."""
        self._taken[job.id] = job.result_bytes

    def measure(self, job: Job) -> None:
        """Count what its results take."""
        self._taken[job.id] = sum(path.stat().st_size for path in self._results_of(job) if path.exists())

    @property
    def taken(self) -> int:
        """Bytes of all results, and of those that are to come."""
        return sum(self._taken.values())

    @property
    def free(self) -> int:
        """Bytes that the disk has left."""
        return shutil.disk_usage(self._folder).free

    def remove(self, job: Job) -> None:
        """Forget a job, and remove its files."""
        with self._sessions.begin() as session:
            session.execute(sql.delete(Job).where(Job.id == job.id))
        self._taken.pop(job.id, None)
        self.remove_work(job)
        for path in (self.input_path(job), *self._results_of(job)):
            path.unlink(missing_ok=True)

    def remove_work(self, job: Job) -> None:
        """Remove what a worker that was killed has left of its work: `linearsr.jobs.large` names the folder."""
        for folder in self._results.glob(f".{job.id}.*.linearsr-work"):
            shutil.rmtree(folder, ignore_errors=True)

    def remove_expired(self) -> None:
        """Forget every job whose time is over."""
        for job in self.find(Job.expires < now()):
            self.remove(job)

    def clean(self) -> None:
        """Measure results, and remove files of no job, which a killed server leaves. Only while nothing is added."""
        jobs = {job.id: job for job in self.find()}
        for path in (*self._inputs.iterdir(), *self._results.iterdir()):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.split(".")[0] not in jobs:
                path.unlink(missing_ok=True)
        for job in jobs.values():
            self.measure(job)

    def _results_of(self, job: Job) -> list[Path]:
        kinds = itertools.product(MEDIA_TYPES, (False, True))
        return [*(self.result_path(job, *kind) for kind in kinds), self.preview_path(job)]


def cause(error: Exception) -> str:
    """What the system or the database says is wrong, on one line, without the statement."""
    return " ".join(str(getattr(error, "orig", error)).split())


def _set_up(connection: Any, record: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
