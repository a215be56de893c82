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
        self.request_seconds = Histogram(
            "request_seconds", "Seconds from request to answer.", ("route",), **timed
        )
        ProcessCollector(**own)
        queue, store = of.queue, of.store
        for counted in (of.ended, of.seconds, queue.refused):
            self.registry.register(counted)
        for name, text, value in (
            ("jobs_waiting", "Jobs in the queue.", lambda: len(queue)),
            (
                "jobs_waiting_seconds",
                "Age of the next job in the queue, in seconds.",
                lambda: now() - queue.jobs[0].created if queue.jobs else 0,
            ),
            ("jobs_running", "Jobs that a worker is processing.", lambda: len(of.running)),
            ("uploads_bytes", "Bytes of uploads in progress.", lambda: queue.upload_bytes),
            (
                "ends_unwritten",
                "Finished jobs that are not on disk yet.",
                lambda: len(of.completion.unwritten),
            ),
            ("results_bytes", "Bytes of stored results and of results in progress.", lambda: store.taken),
            ("disk_free_bytes", "Free bytes on the disk of the results.", lambda: store.free),
            ("worker_restarts", "Worker processes that had to be replaced.", lambda: of.restarts),
            ("ready", "1 if at least one worker is ready.", lambda: of.ready),
        ):
            Gauge(name, text, **own).set_function(value)
        for name, text, attribute in (
            ("worker_up", "1 if the worker is ready.", "ready"),
            ("worker_starts", "Processes started for this worker.", "starts"),
            ("worker_jobs_ended", "Jobs that the worker has finished.", "jobs"),
        ):
            gauge = Gauge(name, text, ("worker", "device"), **own)
            for number, worker in enumerate(of.workers):
                gauge.labels(str(number), worker.device).set_function(partial(getattr, worker, attribute))
