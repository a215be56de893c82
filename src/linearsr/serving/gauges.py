"""Gauges of the server for Prometheus."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.jobs import now


class Gauges:
    """Of queue, workers and disk, read when Prometheus asks: a collector of `prometheus_client`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def collect(self) -> Iterator[Metric]:
        """All gauges as they stand."""
        of, queue, store = self._dispatcher, self._dispatcher.queue, self._dispatcher.store
        oldest = queue.jobs[0].created if queue.jobs else now()
        for name, text, value in (
            ("jobs_waiting", "Jobs in the queue.", len(queue)),
            ("jobs_waiting_seconds", "Age of the next job.", now() - oldest),
            ("jobs_running", "Jobs in work.", len(of.running)),
            ("uploads_bytes", "Of uploads on their way.", queue.upload_bytes),
            ("ends_unwritten", "Jobs whose end is not on disk yet.", len(of.completion.unwritten)),
            ("results_bytes", "Of results, and of those to come.", store.taken),
            ("disk_free_bytes", "Of the disk of results.", store.free),
            ("worker_restarts", "Worker processes that were replaced.", of.restarts),
            ("ready", "1 if a worker could work.", of.ready),
        ):
            yield GaugeMetricFamily(f"linearsr_{name}", text, value)
        busy = [worker for _, worker in of.running.values()]
        for name, text, values in (
            ("worker_up", "1 if it could work.", [worker.ready for worker in of.workers]),
            ("worker_starts", "Processes there have been.", [worker.starts for worker in of.workers]),
            ("worker_jobs_running", "Jobs in work.", [busy.count(worker) for worker in of.workers]),
            ("worker_jobs_ended", "Jobs that it ended.", [worker.jobs for worker in of.workers]),
        ):
            family = GaugeMetricFamily(f"linearsr_{name}", text, labels=("worker", "device"))
            for number, (worker, value) in enumerate(zip(of.workers, values, strict=True)):
                family.add_metric((str(number), worker.device), value)
            yield family
