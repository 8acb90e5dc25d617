"""Aggregate: warp the active regions frame to frame and unite them (paper §3.3.2, eq. 1)."""

from __future__ import annotations

from collections.abc import Iterator

from f2f.engine.stage import StageClock, per_window
from f2f.engine.types import AggregatedWindow, End, MovingWindow
from f2f.kernels import warp_union


def aggregate(windows: Iterator[MovingWindow | End], clock: StageClock) -> Iterator[AggregatedWindow | End]:
    """The union on the last frame of every window, all classes of its label set at once."""
    yield from per_window("aggregate", _union, windows, clock)


def _union(moving: MovingWindow) -> AggregatedWindow:
    (bits,) = warp_union(moving.bits[None], moving.flow_xy_px[None])  # [1, N, H, W]
    return AggregatedWindow(moving.window, bits)
