"""A job as its owner sees it."""

from datetime import datetime, timezone

from linearsr.serving.jobs import Job
from linearsr.serving.schemas import JobView, ResultInfo, Size


def job_view(job: Job, position: int | None) -> JobView:
    """What is told of a job, `position` places from the head of the queue."""
    done = job.status == "done"
    return JobView(
        id=job.id,
        status=job.status,
        position=position,
        step=job.step,
        steps=job.steps,
        # there is still the decoding to be done after the last step
        progress=1 if done else min(0.99, job.step / job.steps),
        created=_time(job.created),
        started=_time(job.started) if job.started else None,
        finished=_time(job.finished) if job.finished else None,
        expires=_time(job.expires) if job.expires else None,
        input=Size(width=job.width, height=job.height),
        output=ResultInfo(**job.output, format=job.options["format"]) if job.output else None,
        options=job.options,
        tags=job.tags,
        unknown_tags=job.unknown_tags,
        warnings=job.warnings,
        error=job.error,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), timezone.utc)
