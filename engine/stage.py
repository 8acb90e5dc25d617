"""What the per-window stages share: one piece of work per window, a video that fails ends without ending the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from f2f.engine.errors import VideoError
from f2f.engine.types import Failure, VideoEnd, Window


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
    """Seconds of work per stage, for the progress display and the summary."""

    busy_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Count the time of the block for `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.busy_seconds[stage] = self.busy_seconds.get(stage, 0.0) + time.perf_counter() - start

    def bottleneck(self) -> str:
        """The stage that worked longest so far."""
        return max(self.busy_seconds, key=self.busy_seconds.__getitem__, default="")


def per_window(
    stage: str, work: Callable[[In], Out], items: Iterator[In | VideoEnd], clock: StageClock
) -> Iterator[Out | VideoEnd]:
    """Apply `work` to every window's item.

    A `VideoError` becomes the failure in its video's `VideoEnd`; the video's later windows are passed over.
    """
    yield from per_batch(stage, lambda together: [work(item) for item in together], items, 1, clock)


def per_batch(
    stage: str,
    work: Callable[[Sequence[In]], Sequence[Out]],
    items: Iterator[In | VideoEnd],
    most: int,
    clock: StageClock,
) -> Iterator[Out | VideoEnd]:
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
        else:
            yield from settle(group)


def _grouped(items: Iterator[In | VideoEnd], most: int) -> Iterator[list[In] | VideoEnd]:
    """Runs of up to `most` like windows; the ends of videos that come between them follow."""
    group: list[In] = []
    ends: list[VideoEnd] = []
    for item in items:
        if isinstance(item, VideoEnd):
            ends.append(item)
        else:
            if group and _shape(item) != _shape(group[0]):
                yield from _emptied(group, ends)
            group.append(item)
        if not group or len(group) == most:
            yield from _emptied(group, ends)
    yield from _emptied(group, ends)


def _emptied(group: list[In], ends: list[VideoEnd]) -> Iterator[list[In] | VideoEnd]:
    if group:
        yield list(group)
    yield from tuple(ends)
    group.clear()
    ends.clear()


def _shape(item: OfWindow) -> tuple[int, tuple[int, int]]:
    return len(item.window.frames), item.window.size_hw
