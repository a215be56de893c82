"""How far a bulk job is: a bar on a terminal, else a line now and then; with `--json` as JSON lines."""

import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from linearsr.cli.console import Bars, say, summary, write_json
from linearsr.jobs.messages import shown

if TYPE_CHECKING:
    from linearsr.serving.bulk_report import Result, Status

_FAILURES_SHOWN = 20
_SECONDS_BETWEEN_LINES = 10


class BulkProgress(Bars):
    """Counts results, and shows the counts, the rate and the time left.

    Args:
        total: number of images.
        as_json: write lines to stdout; the last one has `finished`.
    """

    def __init__(self, total: int, as_json: bool) -> None:
        self.counts: Counter[Status] = Counter()
        self._total, self._as_json = total, as_json
        self._started = self._shown = time.monotonic()
        self._first: float | None = None
        self._killed = 0
        super().__init__(timed=False)
        self._task = self.bars.add_task("", total=total)

    def add(self, row: "Result") -> None:
        """One image more is done, skipped or failed."""
        self.counts[row["status"]] += 1
        now = time.monotonic()
        if row["status"] != "skipped" and self._first is None:
            self._first = now
        if row["status"] == "failed" and self.counts["failed"] <= _FAILURES_SHOWN:
            say(f"{shown(row['input'])}: {shown(row['error'] or '')}")
        self.bars.update(self._task, completed=self.counts.total(), description=self._pace())
        if now - self._shown >= _SECONDS_BETWEEN_LINES:
            self._shown = now
            if self._as_json:
                write_json(self._record(finished=False))
            elif self.bars.disable:
                say(", ".join(filter(None, (f"{self.counts.total()} of {self._total} images", self._pace()))))

    def killed(self) -> None:
        """A worker process was killed."""
        self._killed += 1
        say("a worker process was killed, possibly out of memory: its images are retried")

    def finish(self, report: str) -> None:
        """Say what became of all."""
        if self.counts["failed"] > _FAILURES_SHOWN:
            say(f"and {self.counts['failed'] - _FAILURES_SHOWN} more failures: see the report")
        say(f"{self.summary()}; report: {shown(report)}")
        if self._as_json:
            write_json({**self._record(finished=True), "report": report})

    def summary(self) -> str:
        """In words, without the report."""
        parts = summary(self.counts, self._total, "not started")
        parts += f", {self._killed} worker{'s' * (self._killed != 1)} killed" if self._killed else ""
        rate, _ = self._rate_and_left()
        pace = [f"{rate:.3g} images/s"] if rate else []
        pace += [f"{_clock(self._first - self._started)} to the first"] if self._first else []
        whole = f"{parts} in {_clock(time.monotonic() - self._started)}"
        return f"{whole} ({', '.join(pace)})" if pace else whole

    def _rate_and_left(self) -> tuple[float, float] | tuple[None, None]:
        """Images a second since the first one, as the workers take a while to start, and seconds left."""
        worked = self.counts["done"] + self.counts["failed"] - 1
        if self._first is None or worked < 1:
            return None, None
        rate = worked / max(time.monotonic() - self._first, 1e-3)
        return rate, (self._total - self.counts.total()) / rate

    def _pace(self) -> str:
        rate, left = self._rate_and_left()
        words = [] if left is None else [f"{rate:.3g} images/s", f"{_clock(left)} left"]
        return ", ".join(words + ([f"{self.counts['failed']} failed"] if self.counts["failed"] else []))

    def _record(self, *, finished: bool) -> dict[str, object]:
        rate, left = self._rate_and_left()
        return {
            "finished": finished,
            "total": self._total,
            **{status: self.counts[status] for status in ("done", "skipped", "failed")},
            "workers_killed": self._killed,
            "seconds": round(time.monotonic() - self._started, 3),
            "seconds_to_first": None if self._first is None else round(self._first - self._started, 3),
            "images_per_second": None if rate is None else round(rate, 4),
            "seconds_left": None if left is None else round(left, 1),
        }


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
