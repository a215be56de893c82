"""How often work was begun: what kills every process that takes it is given up."""

from collections import Counter


class Attempts:
    """How often each piece of work was begun and not ended: as often, it killed the process that did it."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """Count one time more; returns how many there were."""
        self._begun[name] += 1
        return self._begun[name]

    def end(self, name: str) -> None:
        """It is done, or has failed as it should."""
        del self._begun[name]


class SharedAttempts:
    """`Attempts` in a process of their own, for all workers."""

    def __init__(self) -> None:
        import ray

        self._actor = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()

    def begin(self, name: str) -> int:
        """As of `Attempts`."""
        import ray

        return int(ray.get(self._actor.begin.remote(name)))

    def end(self, name: str) -> None:
        """As of `Attempts`."""
        self._actor.end.remote(name)
