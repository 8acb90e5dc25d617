"""Status: how far a run is, also while processes are at work in it, and what failed how often."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from f2f.engine.claims import Claim, live_claims
from f2f.engine.layout import layout_of
from f2f.engine.parts import read_parts
from f2f.engine.records import ShardRecord, Summary, each_shard, summarize
from f2f.engine.run import read_run


@dataclass(frozen=True)
class LiveProcess:
    """A process at work."""

    host: str
    pid: int
    seconds: float
    """since it started"""
    shards: int
    inputs: int
    """inputs it took"""
    settled: int
    """of them with a committed record now"""

    @property
    def inputs_per_hour(self) -> float:
        """Rate since it started."""
        return 3600 * self.settled / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Failed:
    """Inputs that failed in one way."""

    stage: str
    reason: str
    failure: str
    """transient or permanent"""
    attempts: int
    quarantined: bool
    inputs: int


@dataclass(frozen=True)
class RunStatus:
    """A run as it is now."""

    summary: Summary
    shards: int
    committed_shards: int
    live: tuple[LiveProcess, ...]
    failed: tuple[Failed, ...]
    parts: tuple[float, ...] = ()
    """of every input that is pending and done in part: how much of it, in seconds of the video"""

    def print_table(self, console: Console) -> None:
        """Write all but the summary."""
        console.print(f"shards: {self.committed_shards} of {self.shards} committed")
        for one in self.live:
            rate = f"{one.inputs_per_hour:.0f} inputs/hour since its start"
            did = f"{one.settled} of its {one.inputs} inputs committed in {one.seconds:.0f} s, {rate}"
            console.print(f"live: process {one.pid} on {one.host}, {one.shards} shards, {did}")
        if self.parts:
            console.print(
                f"done in part: {len(self.parts)} pending inputs, {sum(self.parts) / 60:.1f} minutes of video"
            )
        if not self.live and self.summary.pending:
            console.print("no process is at work; run the same `f2f label` command again to go on")
        if self.failed:
            console.print(_failure_table(self.failed))


def read_status(out: Path) -> RunStatus:
    """How the run in `out` is now.

    Raises:
        UsageError: there is no run, or a record cannot be read.
    """
    run = read_run(out)
    claims = live_claims(out)  # before the records: what is committed meanwhile then counts as done
    watch = _Watch()
    summary = summarize(len(run["inputs"]), watch.see(each_shard(out)))
    sizes = [last - first for first, last in run["shards"]]
    live = tuple(_live(claim, sizes, watch.pending, time.time()) for claim in claims)
    shards = sum(size > 0 for size in sizes)
    return RunStatus(summary, shards, len(watch.pending), live, watch.failed(), _parts(out, run, watch.pending))


class _Watch:
    """Notes of the records that pass by."""

    def __init__(self) -> None:
        self.pending: dict[int, int] = {}
        """of each committed shard, how many inputs are to be done again"""
        self._failures: Counter[tuple[str, str, str, int, bool]] = Counter()

    def see(self, shards: Iterable[ShardRecord]) -> Iterator[ShardRecord]:
        for shard in shards:
            self.pending[shard.shard] = sum(video.status == "pending" for video in shard.videos)
            for one in shard.videos:
                if one.status == "failed":
                    self._failures[one.stage, one.reason, one.failure, one.attempts, one.quarantined] += 1
            yield shard

    def failed(self) -> tuple[Failed, ...]:
        return tuple(Failed(*way, inputs) for way, inputs in sorted(self._failures.items()))


def _live(claim: Claim, sizes: list[int], pending: dict[int, int], now_seconds: float) -> LiveProcess:
    left = sum(pending.get(shard, sizes[shard]) for shard in claim.shards)
    seconds = max(0.0, now_seconds - claim.started_seconds)
    return LiveProcess(claim.host, claim.pid, seconds, len(claim.shards), claim.inputs, max(0, claim.inputs - left))


def _parts(out: Path, run: dict[str, Any], pending: dict[int, int]) -> tuple[float, ...]:
    """How much is done of each input that is done in part."""
    layout = layout_of(out, run["options"])
    shards = [shard for shard in layout.staged_shards() if pending.get(shard, 1)]
    return tuple(
        parts[-1].seconds for shard in shards for parts in read_parts(layout, run, shard, check_files=False).values()
    )


def _failure_table(failed: Iterable[Failed]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("failed in", "reason", "class", "attempts", "inputs", ""):
        table.add_column(name, justify="right" if name in {"attempts", "inputs"} else "left")
    for one in failed:
        words = "quarantined" if one.quarantined else ""
        table.add_row(one.stage, one.reason, one.failure, str(one.attempts), str(one.inputs), words)
    return table
