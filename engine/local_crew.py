"""Workers as processes of this machine, one for every device."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import torch

from f2f.engine.children import end_child, exit_code, exit_text, start_child
from f2f.engine.errors import UsageError
from f2f.engine.options import LabelOptions
from f2f.engine.worker import Event, Lost, WorkerSettings

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class _Local:
    place: int
    """position of its device in the list"""
    process: subprocess.Popen[bytes]
    connection: Connection


class LocalCrew:
    """A process for every device; use as a context manager."""

    def __init__(self, options: LabelOptions, devices: Sequence[str]) -> None:
        """Refuses GPUs that this machine does not have, with a `UsageError`."""
        _refuse_missing(devices)
        self._options, self._devices = options, devices
        self._cores = spread_cores(len(devices), options.runtimes.thread_count)
        self._workers: dict[int, _Local] = {}
        self._started = 0

    def __enter__(self) -> LocalCrew:
        try:
            for place in range(len(self._devices)):
                self._start(place)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.process.kill()  # idle, or not wanted any more: what is committed stays
            end_child(worker.process)
            worker.connection.close()
        self._workers.clear()

    def give(self, worker: int, shard: int) -> None:
        """Send it; a worker that died meanwhile is noticed by `events`."""
        with suppress(OSError):
            self._workers[worker].connection.send(shard)

    def events(self) -> Iterator[tuple[int, Event]]:
        """Messages of the workers; the end of one is `Lost`, and another is started in its place."""
        while True:
            by_connection = {local.connection: number for number, local in self._workers.items()}
            for connection in wait(list(by_connection), timeout=_POLL_SECONDS):
                assert isinstance(connection, Connection)
                number = by_connection[connection]
                try:
                    yield number, connection.recv()
                except (EOFError, OSError):
                    yield number, self._replace(number)

    def _replace(self, number: int) -> Lost:
        local = self._workers.pop(number)
        detail = exit_text(exit_code(local.process))
        end_child(local.process)
        local.connection.close()
        self._start(local.place)
        return Lost(detail)

    def _start(self, place: int) -> None:
        device = self._devices[place]
        visible = {"CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
        process, connection = start_child("f2f.engine.worker", "worker_child", visible)
        self._workers[self._started] = _Local(place, process, connection)
        self._started += 1
        with suppress(OSError):  # a dead worker is noticed by `events`
            connection.send(WorkerSettings(self._options, self._cores[place]))


def _refuse_missing(devices: Sequence[str]) -> None:
    there = torch.cuda.device_count()
    for device in devices:
        if device != "cpu" and int(device) >= there:
            raise UsageError(
                f"--devices {device} is not accepted: {there} GPUs can be used here; accepted: cpu, or numbers below "
                f"{there}; correct it and run again"
            )


def spread_cores(workers: int, threads: int) -> Sequence[tuple[int, ...]]:
    """Cores of its own for each worker, where there are `threads` for all of them; else no restriction."""
    cores = sorted(os.sched_getaffinity(0))
    if workers * threads > len(cores):
        return [()] * workers
    return [tuple(cores[first : first + threads]) for first in range(0, workers * threads, threads)]
