"""A job as its owner sees it."""

from datetime import datetime, timezone

from linearsr.serving.jobs import Job
from linearsr.serving.schemas import JobView, ResultInfo, Size

_SAME = ("id", "status", "step", "steps", "options", "tags", "unknown_tags", "warnings", "error")
_TIMES = ("created", "started", "finished", "expires")


def job_view(job: Job, position: int | None) -> JobView:
    """What is told of a job, `position` places from the head of the queue."""
    return JobView(
        **{name: getattr(job, name) for name in _SAME},
        **{name: _time(getattr(job, name)) for name in _TIMES},
        position=position,
        # there is still the decoding to be done after the last step
        progress=1 if job.status == "done" else min(0.99, job.step / job.steps),
        input=Size(width=job.width, height=job.height),
        output=ResultInfo(**job.output, format=job.options["format"]) if job.output else None,
    )


def _time(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(round(seconds, 3), timezone.utc) if seconds else None
