"""Jobs, and where they are remembered: a table in SQLite beside a folder of inputs and one of results."""

import secrets
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from sqlalchemy import JSON, create_engine, delete, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from linearsr.serving.schemas import Status

_BUSY_SECONDS = 5.0
"""How long a lock that another program holds on the table is waited for."""
LIVE: tuple[Status, ...] = ("queued", "running")


class _Base(MappedAsDataclass, DeclarativeBase, eq=False):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSON,
        dict[str, Any] | None: JSON,
        list[str]: JSON,
    }


class Job(_Base):
    """Something that a worker is to do with an image. Times are seconds since 1970."""

    __tablename__ = "jobs"

    do: Mapped[str]
    """ "upscale" or "tags"."""
    owner: Mapped[str]
    """Whose key it was made with; empty without keys."""
    width: Mapped[int]
    height: Mapped[int]
    steps: Mapped[int]
    options: Mapped[dict[str, Any]]
    id: Mapped[str] = mapped_column(primary_key=True, default_factory=lambda: secrets.token_urlsafe(16))
    created: Mapped[float] = mapped_column(default_factory=time.time)
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

    @property
    def live(self) -> bool:
        """Whether it is still to be done."""
        return self.status in LIVE


class JobStore:
    """All jobs that have not expired, on disk. Threads may share it.

    What is written survives the process's death at any moment: a job is there with its whole input, or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self._inputs, self._results = folder / "inputs", folder / "results"
        for place in (self._inputs, self._results):
            place.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._engine = create_engine(
            f"sqlite:///{folder / 'jobs.sqlite3'}", connect_args={"timeout": _BUSY_SECONDS}
        )
        event.listen(self._engine, "connect", _set_journal)
        _Base.metadata.create_all(self._engine)

    def close(self) -> None:
        """Close the table."""
        self._engine.dispose()

    def input_path(self, job: Job) -> Path:
        """Where its image lies as it was sent."""
        return self._inputs / job.id

    def result_path(self, job: Job, format: str | None = None) -> Path:
        """Where its result lies, or will; in another format than asked for at first, if any."""
        return self._results / f"{job.id}.{format or job.options['format']}"

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
        with self._lock, Session(self._engine) as session:
            session.merge(job)
            session.commit()
        if not job.live:
            self.input_path(job).unlink(missing_ok=True)

    def get(self, job_id: str) -> Job | None:
        """The job of that name."""
        with Session(self._engine) as session:
            return session.get(Job, job_id)

    def live(self) -> Sequence[Job]:
        """The jobs that are still to be done, oldest first."""
        with Session(self._engine) as session:
            return session.scalars(select(Job).where(Job.status.in_(LIVE)).order_by(Job.created)).all()

    def remove(self, job: Job) -> None:
        """Forget a job, and remove its files."""
        with Session(self._engine) as session:
            session.execute(delete(Job).where(Job.id == job.id))
            session.commit()
        self._remove_files(job)

    def remove_expired(self) -> int:
        """Forget every job whose time is over; says how many there were."""
        with Session(self._engine) as session:
            expired = session.scalars(select(Job).where(Job.expires < time.time())).all()
        for job in expired:
            self.remove(job)
        return len(expired)

    def remove_strays(self) -> None:
        """Remove files that belong to no job, which a killed server leaves behind. Only while nothing is added."""
        with Session(self._engine) as session:
            known = set(session.scalars(select(Job.id)))
        for path in (*self._inputs.iterdir(), *self._results.iterdir()):
            if path.name.split(".")[0] not in known:
                path.unlink(missing_ok=True)

    def _remove_files(self, job: Job) -> None:
        self.input_path(job).unlink(missing_ok=True)
        for result in self._results.glob(f"{job.id}.*"):
            result.unlink(missing_ok=True)


def cause(error: Exception) -> str:
    """What the system or the database says is wrong, on one line, without the statement."""
    return " ".join(str(getattr(error, "orig", error)).split())


def _set_journal(connection: Any, record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
