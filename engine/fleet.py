"""Fleet: one process hands shards to workers and watches over them; they may be here (`--devices`) or Ray's actors.

A worker that dies costs its shard another attempt by another worker: what it had written aside is cleared, and what
it had committed stays. Which worker labels a shard does not change a byte of it.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from f2f.engine.errors import F2FError, MachineError
from f2f.engine.local_crew import LocalCrew
from f2f.engine.options import LabelOptions
from f2f.engine.pipeline import Progress
from f2f.engine.ray_crew import RayCrew
from f2f.engine.run import Run
from f2f.engine.stage import StageClock
from f2f.engine.worker import Done, Event, Lost, Tally

_ATTEMPTS = 3
_RAY_THREADS = 2


class Crew(Protocol):
    """Workers that label shards, wherever they run."""

    def events(self) -> Iterator[tuple[int, Event]]:
        """What happens to which worker, without end; a new number is a new worker. Waits for it."""
        ...

    def give(self, worker: int, shard: int) -> None:
        """Have a worker that is ready, or done, label a shard."""
        ...


def for_workers(options: LabelOptions) -> LabelOptions:
    """The options with which each worker runs: shares of this machine's cores; on a cluster, a modest default."""
    spread, cores = options.spread, os.cpu_count() or 1
    if spread.is_alone:
        return options
    share = max(1, cores // len(spread.device_list)) if spread.devices else _RAY_THREADS
    runtimes = replace(options.runtimes, threads=options.runtimes.threads or share)
    decode = replace(options.decode, decoders=options.decode.decoders or min(share, 4))
    return replace(options, runtimes=runtimes, decode=decode)


def run_by_workers(
    shards: Sequence[int], run: Run, options: LabelOptions, on_progress: Callable[[Progress], None] = lambda _: None
) -> Progress:
    """Label `shards` of a run that is begun and claimed, by workers; how far they came.

    Raises:
        UsageError: a worker cannot do what the run pins.
        MachineError: the machine stopped a worker, or workers died over a shard again and again.
    """
    left = sum(len(run.pending_rows(shard)) for shard in shards)
    board = _Board(deque(shards), Progress(len(run.rows), settled=len(run.rows) - left))
    if not shards:
        return board.progress
    with _crew(options, len(shards)) as crew:
        for worker, event in crew.events():
            board.note(worker, event)
            for idle, shard in board.assign():
                crew.give(idle, shard)
            on_progress(board.progress)
            if board.is_over:
                break
    board.raise_given_up()
    return board.progress


def _crew(options: LabelOptions, shards: int) -> AbstractContextManager[Crew]:
    if options.spread.devices:
        return LocalCrew(options, options.spread.device_list[:shards])
    return RayCrew(options, shards)


@dataclass
class _Board:
    """Which shards are to be done, at whom, and what has been done."""

    waiting: deque[int]
    progress: Progress
    at: dict[int, int] = field(default_factory=dict)
    """worker -> its shard"""
    idle: list[int] = field(default_factory=list)
    done: Tally = field(default_factory=Tally)
    live: dict[int, Tally] = field(default_factory=dict)
    losses: Counter[int | None] = field(default_factory=Counter)
    """how often a worker was lost over each shard; None: before it had one"""
    given_up: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._settled_before = self.progress.settled

    @property
    def is_over(self) -> bool:
        return not self.waiting and not self.at

    def note(self, worker: int, event: Event) -> None:
        if isinstance(event, F2FError):
            raise event
        if isinstance(event, Tally):
            self.live[worker] = event
        elif isinstance(event, Lost):
            self._lose(worker, event)
        else:
            if isinstance(event, Done):
                del self.at[worker]
                self.live.pop(worker, None)
                self.done = _sum([self.done, event.tally])
                self.progress.committed_shards += 1
            self.idle.append(worker)
        self._show()

    def assign(self) -> list[tuple[int, int]]:
        given = []
        while self.waiting and self.idle:
            worker, shard = self.idle.pop(0), self.waiting.popleft()
            self.at[worker] = shard
            given.append((worker, shard))
        return given

    def raise_given_up(self) -> None:
        if self.given_up:
            told = "; ".join(f"shard {shard}: {detail}" for shard, detail in sorted(self.given_up.items()))
            raise MachineError(
                f"workers died {_ATTEMPTS} times over the same shard ({told}); all others are committed; give them "
                "more memory or less to do (--threads, --decoders, fewer --devices) and run again to go on"
            )

    def _lose(self, worker: int, lost: Lost) -> None:
        shard = self.at.pop(worker, None)
        self.live.pop(worker, None)
        with suppress(ValueError):
            self.idle.remove(worker)
        self.losses[shard] += 1
        too_often = self.losses[shard] >= _ATTEMPTS
        if shard is None and too_often:
            raise MachineError(f"a worker {lost.detail} before it could start; see its words above")
        if shard is not None and too_often:
            self.given_up[shard] = lost.detail
        elif shard is not None:
            self.waiting.appendleft(shard)

    def _show(self) -> None:
        all_ = _sum([self.done, *self.live.values()])
        self.progress.settled = self._settled_before + all_.settled
        self.progress.frames, self.progress.masks, self.progress.failed = all_.frames, all_.masks, all_.failed
        self.progress.workers = max(self.progress.workers, len(self.at) + len(self.idle))
        self.progress.clock, self.progress.worker_cpu_seconds = all_.clock, all_.cpu_seconds


def _sum(tallies: Iterable[Tally]) -> Tally:
    tallies = list(tallies)
    clock = StageClock()
    for tally in tallies:
        clock.add(tally.clock)
    return Tally(
        sum(tally.settled for tally in tallies),
        sum(tally.frames for tally in tallies),
        sum(tally.masks for tally in tallies),
        sum(tally.failed for tally in tallies),
        clock,
        sum(tally.cpu_seconds for tally in tallies),
    )
