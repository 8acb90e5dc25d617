"""Account: where a run's time went, what held it up, and what to try."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from f2f.engine.stage import StageClock

LANES = {
    "decode": ("decode",),
    "classify": ("classify",),
    "cam": ("cam",),
    "flow": ("flow", "pictures"),
    "aggregate": ("aggregate", "refine", "background"),
    "write": ("write",),
}
"""what works at the same time, and the stages that share such a process or thread"""
TRUST_QUERY = "--trust-query for a curated crawl"
CLASSIFIER_IN_INT8 = "a --classifier in 8 bits (f2f export classifier --int8)"
DIS = "--flow dis"
FLOW_IN_INT8 = "a --flow in 8 bits (f2f export flow --int8)"
_TRIES = {
    "fetch": ("more --fetchers", "a source that is nearer"),
    "decode": ("a smaller --max-side", "more --decoders where cores are idle"),
    "classify": ("a lower --sample-fps", "a smaller --max-side or --max-windows", TRUST_QUERY, CLASSIFIER_IN_INT8),
    "cam": ("fewer --scales", "a smaller --max-side", CLASSIFIER_IN_INT8),
    "flow": (DIS, FLOW_IN_INT8, "a smaller --max-side", "fewer --window-frames"),
    "aggregate": ("a smaller --max-side or --max-windows",),
    "write": ("a faster disk for --out", "--format webdataset"),
}
"""what may help where"""
_IDLE_SHARE = 0.5
_BUSY_CORES_SHARE = 0.9


@dataclass(frozen=True)
class Lane:
    """What one kind of process or thread did, as shares of the run's time; what is left was spent between videos."""

    name: str
    workers: int
    """processes or threads of this kind"""
    busy_seconds: float
    """of all of them together"""
    busy: float
    starved: float
    """waiting for something to do"""
    blocked: float
    """waiting for the next stage"""


@dataclass(frozen=True)
class Account:
    """Where the time of a run went."""

    seconds: float
    processes: int
    """engine processes, without those that decode"""
    cores: int
    """of this machine"""
    cores_busy: float
    """CPU time of all processes as a share of what the cores had; 0 where it is not known"""
    videos_per_hour: float
    frames_per_second: float
    """sampled frames looked at"""
    masks_per_second: float
    lanes: tuple[Lane, ...]
    stages: dict[str, float]
    """seconds of work by stage"""
    bottleneck: str
    advice: str

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Account | None:
        """The account in a summary that was written; None where it holds another."""
        with suppress(TypeError, KeyError):
            return cls(**{**entry, "lanes": tuple(Lane(**lane) for lane in entry["lanes"])})
        return None


@dataclass(frozen=True)
class Stopwatch:
    """What the clocks showed when a run began."""

    wall_seconds: float
    cpu_seconds: float

    @classmethod
    def start(cls) -> Stopwatch:
        """Now."""
        return cls(time.monotonic(), cpu_seconds())

    @property
    def seconds(self) -> float:
        """Since then."""
        return max(time.monotonic() - self.wall_seconds, 1e-6)

    @property
    def cpu(self) -> float:
        """CPU seconds since then of this process and of its children that have ended."""
        return cpu_seconds() - self.cpu_seconds


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def account(
    clock: StageClock,
    watch: Stopwatch,
    counts: tuple[int, int, int],
    decoders: int,
    processes: int = 1,
    worker_cpu_seconds: float | None = 0.0,
    in_vain: Collection[str] = (),
) -> Account:
    """The account of a run that has just ended.

    Args:
        clock: the seconds of all its stages.
        watch: when it began.
        counts: inputs settled, frames looked at and masks written since then.
        decoders: decoding processes of each engine process.
        processes: engine processes.
        worker_cpu_seconds: CPU time of engine processes that are no children of this one; None: not known.
        in_vain: what there is no need to advise: it is done already, or of no use here.
    """
    seconds, cores = watch.seconds, os.cpu_count() or 1
    lanes = tuple(_lane(name, clock, seconds, processes * (decoders if name == "decode" else 1)) for name in LANES)
    cpu = 0.0 if worker_cpu_seconds is None else watch.cpu + worker_cpu_seconds
    videos, frames, masks = counts
    bottleneck = _bottleneck({lane.name: lane for lane in lanes})
    return Account(
        seconds=round(seconds, 2),
        processes=processes,
        cores=cores,
        cores_busy=round(cpu / seconds / cores, 3),
        videos_per_hour=round(3600 * videos / seconds, 1),
        frames_per_second=round(frames / seconds, 1),
        masks_per_second=round(masks / seconds, 2),
        lanes=lanes,
        stages={stage: round(busy, 2) for stage, busy in clock.busy_seconds.items()},
        bottleneck=bottleneck,
        advice=_advice(bottleneck, cpu / seconds / cores, in_vain),
    )


def _lane(name: str, clock: StageClock, seconds: float, workers: int) -> Lane:
    def share(counted: Mapping[str, float]) -> tuple[float, float]:
        total = sum(counted.get(stage, 0.0) for stage in LANES[name])
        return total, round(total / (seconds * workers), 3)

    busy_seconds, busy = share(clock.busy_seconds)
    starved, blocked = share(clock.starved_seconds)[1], share(clock.blocked_seconds)[1]
    return Lane(name, workers, round(busy_seconds, 2), busy, starved, blocked)


def _bottleneck(lanes: Mapping[str, Lane]) -> str:
    busiest = max(lanes.values(), key=lambda lane: lane.busy)
    scan_waits = lanes["classify"].starved > _IDLE_SHARE and lanes["classify"].busy < _IDLE_SHARE
    return "fetch" if scan_waits and busiest.busy < _IDLE_SHARE else busiest.name


def _advice(bottleneck: str, cores_busy: float, in_vain: Collection[str]) -> str:
    advice = ", ".join(one for one in _TRIES[bottleneck] if one not in in_vain)
    if cores_busy >= _BUSY_CORES_SHARE:
        advice += "; all cores are busy, so otherwise only more machines help (--shard, --ray)"
    return advice
