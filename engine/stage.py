"""What the per-window stages share: one piece of work per window, a video that fails ends without ending the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
    failed: dict[int, Failure] = {}
    for item in items:
        if isinstance(item, VideoEnd):
            failure = failed.pop(item.video, None)
            yield item if item.failure or failure is None else replace(item, failure=failure)
            continue
        video = item.window.video
        if video in failed:
            continue
        try:
            with clock.busy(stage):
                result = work(item)
        except VideoError as error:
            failed[video] = Failure.of(stage, error)
        else:
            yield result
