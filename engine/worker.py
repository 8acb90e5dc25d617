"""Worker: an engine process that labels the shards it is given; what `--devices` starts and Ray's actors hold.

    parent -> worker   WorkerSettings, then the number of a shard | "exit"
    worker -> parent   "ready" | Tally, now and then and when a shard is committed | Done | the error that ended it

Whoever starts workers has begun the run and claimed its shards; see fleet.py. A worker is a program of its own, in a
process group of its own, and ends when its parent is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Literal

from f2f.engine.account import Stopwatch
from f2f.engine.errors import F2FError
from f2f.engine.job import Job
from f2f.engine.options import LabelOptions
from f2f.engine.pipeline import Progress, run_shards
from f2f.engine.run import join_run
from f2f.engine.stage import StageClock

_REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to know before its first shard."""

    options: LabelOptions
    cores: tuple[int, ...] = ()
    """that it and its decoders run on (none: any)"""


@dataclass(frozen=True)
class Tally:
    """What a worker has done of the shard it is at."""

    settled: int = 0
    frames: int = 0
    masks: int = 0
    failed: int = 0
    clock: StageClock = field(default_factory=StageClock)
    cpu_seconds: float = 0.0
    """of the worker and of its decoding processes that have ended"""


@dataclass(frozen=True)
class Done:
    """A shard is committed."""

    tally: Tally


@dataclass(frozen=True)
class Lost:
    """A worker is gone; its crew has a new one begin."""

    detail: str


Event = Literal["ready"] | Tally | Done | Lost | F2FError
"""what may happen to a worker"""


class ShardWorker:
    """Labels shards of a run that another process has begun."""

    def __init__(self, options: LabelOptions) -> None:
        """Open networks, source and run.

        Raises:
            UsageError: they cannot be used here, or would not give what the run pins.
        """
        self._options, self._job = options, Job.open(options)

    def work(self, shard: int, on_progress: Callable[[Tally], None] = lambda _: None) -> Tally:
        """Label what is to be done of a shard and commit it.

        Raises:
            MachineError: the machine stopped it (disk full, …).
        """
        run = join_run(self._options.out, self._job.decisive, self._job.rows, shard)
        before = len(run.rows) - len(run.pending_rows(shard))
        tally, watch = Tally(), Stopwatch.start()

        def note(progress: Progress) -> None:
            nonlocal tally
            tally = Tally(
                progress.settled - before,
                progress.frames,
                progress.masks,
                progress.failed,
                deepcopy(progress.clock),
                watch.cpu,
            )
            on_progress(tally)

        run_shards([shard], run, self._job, note)
        return replace(tally, cpu_seconds=watch.cpu)


def worker_child(descriptor: int) -> None:
    """Label shards until told to exit or the parent is gone; `descriptor` is the child's end of the pipe."""
    connection = Connection(descriptor)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        settings: WorkerSettings = connection.recv()
        if settings.cores:
            os.sched_setaffinity(0, settings.cores)
        try:
            worker = ShardWorker(settings.options)
            connection.send("ready")
            while (message := connection.recv()) != "exit":
                connection.send(Done(worker.work(message, _Reporter(connection))))
        except F2FError as error:
            connection.send(error)


class _Reporter:
    """Sends tallies, not too many; fails when the parent is gone, which ends the worker."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._next = connection, 0.0

    def __call__(self, tally: Tally) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _REPORT_SECONDS
            self._connection.send(tally)
