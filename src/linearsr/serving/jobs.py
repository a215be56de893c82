"""Jobs and their storage: a table in SQLite, a folder of inputs, and a folder of results."""

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
"""How long to wait for a lock that another program holds on the table."""
_SCHEMA = 1
"""Version of the table; raise it when a column changes."""
_SPARE = MIB
"""Bytes of disk that are kept free for the table."""
_EPOCH = time.time() - time.monotonic()
LIVE: tuple[Status, ...] = ("queued", "running")


def now() -> float:
    """Return seconds since 1970, unaffected if the system clock is set while the server runs."""
    return _EPOCH + time.monotonic()


class _Base(MappedAsDataclass, DeclarativeBase, eq=False):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: sql.JSON,
        dict[str, Any] | None: sql.JSON,
        list[str]: sql.JSON,
    }


class Job(_Base):
    """A task for a worker: upscale or tag one image. Times are seconds since 1970."""

    __tablename__ = "jobs"
    __table_args__ = (sql.UniqueConstraint("owner", "idempotency"),)

    do: Mapped[str]
    """ "upscale" or "tags"."""
    owner: Mapped[str]
    """Hash of the key that it was made with; "" on a server without keys."""
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
    """The client's idempotency key; None without one."""
    fingerprint: Mapped[str | None] = mapped_column(default=None)
    """Fingerprint of image and options, if there is an idempotency key."""
    webhook: Mapped[str | None] = mapped_column(default=None, index=True)
    """Address to call when the job ends; None without one, or when no more calls are due."""
    share: float = 0.0
    """Share of the work that is done while it runs, 0 to 1; not in the table."""

    @property
    def live(self) -> bool:
        """Whether it is queued or running."""
        return self.status in LIVE

    @property
    def result_bytes(self) -> int:
        """Bytes that its result may take: four per pixel."""
        scale: float = self.options.get("scale", 0)
        return 4 * math.ceil(self.width * scale) * math.ceil(self.height * scale)

    def view(self, position: int | None) -> JobView:
        """Return the job as its owner sees it; `position` is the number of jobs before it in the queue."""
        # decoding is left to do after the last step, so only a finished job reaches 1
        progress = 1 if self.status == "done" else min(0.99, self.share)
        output = {**self.output, "format": self.options["format"]} if self.output else None
        size = {"width": self.width, "height": self.height}
        own = {"position": position, "progress": progress, "input": size, "output": output}
        stored = {name: getattr(self, name) for name in JobView.model_fields if name not in own}
        return JobView(**stored, **own)


class JobStore:
    """The storage on disk of all jobs that have not expired. Threads may share it.

    The process may be killed at any moment: a job is stored with its whole input, or not at all. All results
    together may take `max_bytes`. Raises ValueError: the table is damaged or has another version.
    Raises OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, max_bytes: float = math.inf) -> None:
        self._max_bytes = max_bytes
        self._folder, self._inputs, self._results = folder, folder / "inputs", folder / "results"
        for place in (folder, self._inputs, self._results):
            place.mkdir(parents=True, exist_ok=True)
            with suppress(PermissionError):  # a mounted volume may belong to another user
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
        """Return the path of a job's image as it was sent."""
        return self._inputs / job.id

    def preview_path(self, job: Job) -> Path:
        """Return the path of the preview of a job's result."""
        return self._results / f"{job.id}.preview.jpg"

    def result_path(self, job: Job, format: str | None = None, stripped: bool = False) -> Path:
        """Return the path of a job's result, or of its version in another format or without metadata."""
        return self._results / f"{job.id}{'.stripped' * stripped}.{format or job.options['format']}"

    def task(self, job: Job, max_pixels: int) -> dict[str, Any]:
        """Return the message that gives a job to a worker."""
        options = dict(job.options)
        task = {"do": job.do, "id": job.id, "input": str(self.input_path(job)), "max_pixels": max_pixels}
        if job.do == "upscale":
            task |= {"output": str(self.result_path(job)), "quality": options.pop("quality")}
            del options["format"]
            options["num_inference_steps"] = options.pop("steps")
        return {**task, "options": options}

    def add(self, job: Job, image: BinaryIO) -> None:
        """Store a new job with its image."""
        image.seek(0)
        try:
            with open(self.input_path(job), "xb") as file:
                shutil.copyfileobj(image, file)
            self.save(job)
        except BaseException:
            self.input_path(job).unlink(missing_ok=True)
            raise

    def save(self, job: Job) -> None:
        """Store the current state of a job."""
        # locked, so that an older state of a job is never written after a newer one
        with self._lock, self._sessions.begin() as session:
            session.merge(job)
        if not job.live:
            self.input_path(job).unlink(missing_ok=True)
            self.measure(job)

    def get(self, job_id: str) -> Job | None:
        """Return a job by its id, or None."""
        with self._sessions() as session:
            return session.get(Job, job_id)

    def find(self, *where: sql.ColumnElement[bool]) -> Sequence[Job]:
        """Return the jobs that meet all conditions, oldest first."""
        with self._sessions() as session:
            return session.scalars(sql.select(Job).where(*where).order_by(Job.created, Job.id)).all()

    def of_owner(self, owner: str, limit: int, before: Job | None) -> Sequence[Job]:
        """Return an owner's newest upscale jobs, or those older than `before`, newest first."""
        order = sql.tuple_(Job.created, Job.id)
        where = [Job.owner == owner, Job.do == "upscale"]
        if before is not None:
            where.append(order < (before.created, before.id))
        with self._sessions() as session:
            query = sql.select(Job).where(*where).order_by(Job.created.desc(), Job.id.desc())
            return session.scalars(query.limit(limit)).all()

    def forget_webhook(self, job: Job) -> None:
        """Remove the webhook of a job, because no more calls are due."""
        with self._lock, self._sessions.begin() as session:
            session.execute(sql.update(Job).where(Job.id == job.id).values(webhook=None))

    # room on the disk

    def require_room(self, size: int = 0) -> None:
        """Check the room for `size` more bytes. Raises Problem, with the time to come back: there is none."""
        if self.taken + size > self._max_bytes:
            raise storage_full(
                f"results take {self.taken / MIB:.4g} of the {self._max_bytes / MIB:.4g} MiB allowed: try again later"
            )
        if self.free < size + _SPARE:
            raise storage_full()

    def reserve(self, job: Job) -> None:
        """Count the bytes that the result of a job may take."""
        self._taken[job.id] = job.result_bytes

    def measure(self, job: Job) -> None:
        """Count the bytes that the results of a job take now."""
        self._taken[job.id] = sum(path.stat().st_size for path in self._results_of(job) if path.exists())

    @property
    def taken(self) -> int:
        """Bytes of all results, existing and expected."""
        return sum(self._taken.values())

    @property
    def free(self) -> int:
        """Free bytes on the disk."""
        return shutil.disk_usage(self._folder).free

    def remove(self, job: Job) -> None:
        """Remove a job and its files."""
        with self._sessions.begin() as session:
            session.execute(sql.delete(Job).where(Job.id == job.id))
        self._taken.pop(job.id, None)
        self.remove_work(job)
        for path in (self.input_path(job), *self._results_of(job)):
            path.unlink(missing_ok=True)

    def remove_work(self, job: Job) -> None:
        """Remove the work folder that a killed worker has left; `linearsr.jobs.large` names it."""
        for folder in self._results.glob(f".{job.id}.*.linearsr-work"):
            shutil.rmtree(folder, ignore_errors=True)

    def remove_expired(self) -> None:
        """Remove every job that has expired."""
        for job in self.find(Job.expires < now()):
            self.remove(job)

    def clean(self) -> None:
        """Measure results, and remove files without a job, left by a killed server. Call it before `add`."""
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
    """Return the message of an error of the system or the database on one line, without the SQL statement."""
    return " ".join(str(getattr(error, "orig", error)).split())


def _set_up(connection: Any, record: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
