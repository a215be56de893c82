"""What Prometheus is told."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_JOB_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters, times and gauges of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "linearsr"}
        self.requests = Counter("requests", "Requests answered.", ("method", "route", "status"), **own)  # type: ignore[arg-type]
        self.request_seconds = Histogram(
            "request_seconds",
            "From request to answer.",
            ("route",),
            buckets=_REQUEST_BUCKETS,
            **own,  # type: ignore[arg-type]
        )
        self.jobs = Counter("jobs", "Jobs that ended.", ("kind", "status"), **own)  # type: ignore[arg-type]
        self.job_seconds = Histogram("job_seconds", "A job in a worker.", buckets=_JOB_BUCKETS, **own)  # type: ignore[arg-type]
        ProcessCollector(**own)  # type: ignore[arg-type]
        self.refused = Counter("refused", "Requests refused as the queue was full.", **own)  # type: ignore[arg-type]

    def text(self) -> bytes:
        """In the exposition format."""
        return generate_latest(self.registry)


def gauge(name: str, text: str, value: float | Mapping[tuple[str, str], float]) -> GaugeMetricFamily:
    """A number, or one for each worker by its number and device."""
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(f"linearsr_{name}", text, value)
    family = GaugeMetricFamily(f"linearsr_{name}", text, labels=("worker", "device"))
    for names, number in value.items():
        family.add_metric(names, number)
    return family
