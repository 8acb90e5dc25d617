"""What the per-window stages share: one piece of work per window, a video that fails ends without ending the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from f2f.engine.errors import VideoError
from f2f.engine.types import End, Failure, PartEnd, VideoEnd, Window


class OfWindow(Protocol):
    """Anything that belongs to a window."""

    @property
    def window(self) -> Window:
        """The window it belongs to."""
        ...


In = TypeVar("In", bound=OfWindow)
Out = TypeVar("Out")


@dataclass
class StageClock:
    """Seconds of every stage, for the progress display and the account of time at a run's end.

    Stages may count at the same time, each from one thread.
    """

    busy_seconds: dict[str, float] = field(default_factory=dict)
    """of work"""
    starved_seconds: dict[str, float] = field(default_factory=dict)
    """of waiting for something to do"""
    blocked_seconds: dict[str, float] = field(default_factory=dict)
    """of waiting for the next stage to take what is done"""

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Count the time of the block as work of `stage`."""
        with _counted(self.busy_seconds, stage):
            yield

    @contextmanager
    def starved(self, stage: str) -> Iterator[None]:
        """Count the time of the block as a wait of `stage` for something to do."""
        with _counted(self.starved_seconds, stage):
            yield

    @contextmanager
    def blocked(self, stage: str) -> Iterator[None]:
        """Count the time of the block as a wait of `stage` for the next one."""
        with _counted(self.blocked_seconds, stage):
            yield

    def add(self, other: StageClock) -> None:
        """Count what another clock has counted."""
        for ours, theirs in zip(self._counts(), other._counts(), strict=True):
            for stage, seconds in dict(theirs).items():
                ours[stage] = ours.get(stage, 0.0) + seconds

    def bottleneck(self) -> str:
        """The stage that worked longest so far."""
        busy = dict(self.busy_seconds)  # others may be counting
        return max(busy, key=busy.__getitem__, default="")

    def _counts(self) -> tuple[dict[str, float], ...]:
        return self.busy_seconds, self.starved_seconds, self.blocked_seconds


@contextmanager
def _counted(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def per_window(
    stage: str, work: Callable[[In], Out], items: Iterator[In | End], clock: StageClock
) -> Iterator[Out | End]:
    """Apply `work` to every window's item.

    A `VideoError` becomes the failure in its video's `VideoEnd`; the video's later windows are passed over.
    """
    yield from per_batch(stage, lambda together: [work(item) for item in together], items, 1, clock)


def per_batch(
    stage: str,
    work: Callable[[Sequence[In]], Sequence[Out]],
    items: Iterator[In | End],
    most: int,
    clock: StageClock,
) -> Iterator[Out | End]:
    """Apply `work` to up to `most` items at a time whose windows have one length and frame size; order is kept.

    What fails together is tried again one by one, so that a bad window fails its own video only, as in `per_window`.
    """
    failed: dict[int, Failure] = {}

    def settle(together: Sequence[In]) -> Iterator[Out]:
        wanted = [item for item in together if item.window.video not in failed]
        if not wanted:
            return
        try:
            with clock.busy(stage):
                results = work(wanted)
        except VideoError as error:
            if len(wanted) == 1:
                failed[wanted[0].window.video] = Failure.of(stage, error)
                return
            for item in wanted:
                yield from settle([item])
        else:
            yield from results

    for group in _grouped(items, most):
        if isinstance(group, VideoEnd):
            failure = failed.pop(group.video, None)
            yield group if group.failure or failure is None else replace(group, failure=failure)
        elif isinstance(group, PartEnd):
            if group.video not in failed:  # else something of this part is missing
                yield group
        else:
            yield from settle(group)


def _grouped(items: Iterator[In | End], most: int) -> Iterator[list[In] | End]:
    """Runs of up to `most` like windows; the ends of videos that come between them follow, those of parts at once."""
    group: list[In] = []
    ends: list[VideoEnd] = []
    for item in items:
        if isinstance(item, PartEnd):  # no window of what comes after it may be before it
            yield from _emptied(group, ends)
            yield item
        elif isinstance(item, VideoEnd):
            ends.append(item)
        else:
            if group and _shape(item) != _shape(group[0]):
                yield from _emptied(group, ends)
            group.append(item)
        if not group or len(group) == most:
            yield from _emptied(group, ends)
    yield from _emptied(group, ends)


def _emptied(group: list[In], ends: list[VideoEnd]) -> Iterator[list[In] | End]:
    if group:
        yield list(group)
    yield from tuple(ends)
    group.clear()
    ends.clear()


def _shape(item: OfWindow) -> tuple[int, tuple[int, int]]:
    return len(item.window.frames), item.window.size_hw
