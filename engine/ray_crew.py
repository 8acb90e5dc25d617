"""Workers as actors on a Ray cluster; source, output folder and network files lie where all of its nodes see them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from f2f.engine.errors import F2FError, UsageError
from f2f.engine.options import LabelOptions
from f2f.engine.worker import Done, Event, Lost, ShardWorker, Tally

_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 5.0


class RayWorker:
    """What an actor is: a worker that is opened after it has come to be, so that refusals arrive as they are."""

    def open(self, options: LabelOptions) -> None:
        """Open networks, source and run."""
        self._worker = ShardWorker(options)

    def work(self, shard: int) -> Tally:
        """Label a shard and commit it."""
        return self._worker.work(shard)


class RayCrew:
    """Actors on as much of the cluster as there is room for; use as a context manager."""

    def __init__(self, options: LabelOptions, shards: int) -> None:
        """Connect. Raises UsageError where Ray is not installed or no cluster answers."""
        self._ray = _import_ray()
        self._options, self._shards = options, shards
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}
        """what is awaited -> worker"""
        self._ready: set[int] = set()
        self._started = 0

    def __enter__(self) -> RayCrew:
        address = self._options.spread.ray
        _refuse_silence(address)
        self._was_connected = self._ray.is_initialized()
        try:
            self._ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _no_cluster(address, error) from error
        for _ in range(min(self._shards, self._options.spread.ray_actors or self._room())):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        if not self._was_connected:
            self._ray.shutdown()

    def give(self, worker: int, shard: int) -> None:
        """Have an actor label it."""
        self._pending[self._actors[worker].work.remote(shard)] = worker

    def events(self) -> Iterator[tuple[int, Event]]:
        """Answers of the actors; the end of one is `Lost`, and another is asked for in its place."""
        while True:
            answered, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=_POLL_SECONDS)
            for answer in answered:
                worker = self._pending.pop(answer)
                yield worker, self._event(worker, answer)

    def _event(self, worker: int, answer: Any) -> Event:
        try:
            tally = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, F2FError):
                return error.cause
            raise
        except self._ray.exceptions.RayError as error:  # actor, process or node are gone
            del self._actors[worker]
            self._start()
            return Lost(f"was lost ({next(iter(str(error).splitlines()), type(error).__name__)})")
        return "ready" if tally is None else Done(tally)

    def _start(self) -> None:
        """Ask for an actor; it begins when the cluster has room."""
        needs = {"num_gpus": 1} if self._has_gpus() else {}
        remote = self._ray.remote(num_cpus=self._options.runtimes.thread_count, **needs)(RayWorker)
        actor = remote.remote()
        self._actors[self._started] = actor
        self._pending[actor.open.remote(self._options)] = self._started
        self._started += 1

    def _has_gpus(self) -> bool:
        return bool(self._ray.cluster_resources().get("GPU", 0) >= 1)

    def _room(self) -> int:
        """Actors that the cluster has room for, when nothing else runs there."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        by_cores = sum(int(node.get("CPU", 0) // self._options.runtimes.thread_count) for node in nodes)
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        return max(1, min(by_cores, gpus) if gpus else by_cores)


def _refuse_silence(address: str) -> None:
    """Refuse an address where nobody listens; Ray would try for minutes."""
    host, _, port = address.partition("://")[2 if "://" in address else 0].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UsageError:
    why = next(iter(str(error).splitlines()), type(error).__name__)
    return UsageError(
        f"--ray {address}: no cluster answers ({why}); start one with `ray start --head`, or give its address"
    )


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UsageError("--ray needs Ray, which is not installed; install f2f[ray]") from error
    return ray
