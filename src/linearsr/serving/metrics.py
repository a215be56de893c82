"""Counters and times for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_JOB_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 3600)


class Metrics:
    """Those of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "linearsr"}
        timed = {"buckets": _REQUEST_BUCKETS, **own}
        self.requests = Counter("requests", "Requests answered.", ("method", "route", "status"), **own)
        self.request_seconds = Histogram("request_seconds", "From request to answer.", ("route",), **timed)
        self.jobs = Counter("jobs", "Jobs that ended.", ("kind", "status"), **own)
        self.job_seconds = Histogram("job_seconds", "A job in a worker.", buckets=_JOB_BUCKETS, **own)
        self.refused = Counter("refused", "Requests refused as the queue was full.", **own)
        ProcessCollector(**own)
