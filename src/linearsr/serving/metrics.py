"""Metrics of the server for Prometheus: counters, times and gauges."""

from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.jobs import now

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of a server; gauges are evaluated when Prometheus asks."""

    def __init__(self, of: Dispatcher) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "linearsr"}
        timed = {"buckets": _REQUEST_BUCKETS, **own}
        self.requests = Counter("requests", "Requests answered.", ("method", "route", "status"), **own)
        self.request_seconds = Histogram("request_seconds", "From request to answer.", ("route",), **timed)
        ProcessCollector(**own)
        queue, store = of.queue, of.store
        for counted in (of.ended, of.seconds, queue.refused):
            self.registry.register(counted)
        for name, text, value in (
            ("jobs_waiting", "Jobs in the queue.", lambda: len(queue)),
            (
                "jobs_waiting_seconds",
                "Age of the next job.",
                lambda: now() - queue.jobs[0].created if queue.jobs else 0,
            ),
            ("jobs_running", "Jobs in work.", lambda: len(of.running)),
            ("uploads_bytes", "Of uploads on their way.", lambda: queue.upload_bytes),
            ("ends_unwritten", "Jobs whose end is not on disk yet.", lambda: len(of.completion.unwritten)),
            ("results_bytes", "Of results, and of those to come.", lambda: store.taken),
            ("disk_free_bytes", "Of the disk of results.", lambda: store.free),
            ("worker_restarts", "Worker processes that were replaced.", lambda: of.restarts),
            ("ready", "1 if a worker could work.", lambda: of.ready),
        ):
            Gauge(name, text, **own).set_function(value)
        for name, text, attribute in (
            ("worker_up", "1 if it could work.", "ready"),
            ("worker_starts", "Processes there have been.", "starts"),
            ("worker_jobs_ended", "Jobs that it ended.", "jobs"),
        ):
            gauge = Gauge(name, text, ("worker", "device"), **own)
            for number, worker in enumerate(of.workers):
                gauge.labels(str(number), worker.device).set_function(partial(getattr, worker, attribute))
