"""Buckets of sizes: what an engine is tuned for, and which of them takes an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from f2f.engine.errors import NetworkError
from f2f.engine.options import EngineOptions

LEAST_SIDE_PX = 32
_TYPICAL_WINDOW = 5
_WINDOWS = 2
"""windows, or the two ways of one, whose flow is computed in one call"""


@dataclass(frozen=True)
class Profile:
    """Shapes of an input, axis by axis: the least, those it is tuned for, the most."""

    least: tuple[int, ...]
    typical: tuple[int, ...]
    most: tuple[int, ...]

    def with_fixed(self, axes: Sequence[int | None]) -> Profile:
        """The same where some axes have one size."""
        sizes = (self.least, self.typical, self.most)
        return Profile(*(tuple(axis or size for axis, size in zip(axes, one, strict=True)) for one in sizes))

    def admits(self, shape: Sequence[int]) -> bool:
        """Whether a shape lies within."""
        return len(shape) == len(self.least) and all(
            low <= size <= high for low, size, high in zip(self.least, shape, self.most, strict=True)
        )


def profiles_of(
    kind: str, size_multiple: int, options: EngineOptions, fixed: Sequence[int | None] = ()
) -> tuple[Profile, ...]:
    """A profile per bucket, the smallest first; frames that stand fit as those that lie.

    Args:
        kind: of the network.
        size_multiple: what heights and widths are multiples of, px.
        options: sides of the buckets, and how much fits into one call.
        fixed: sizes of the input's axes that are not free; none: all are.
    """
    found = [_profile(kind, _up(side, size_multiple), size_multiple, options) for side in options.engine_sides]
    return tuple(dict.fromkeys(profile.with_fixed(fixed) if fixed else profile for profile in found))


def _profile(kind: str, side: int, multiple: int, options: EngineOptions) -> Profile:
    least, height = _up(LEAST_SIDE_PX, multiple), _up(side * 3 // 4, multiple)
    if kind == "flow":
        window = options.engine_window
        return Profile(
            (1, 2, 3, least, least),
            (_WINDOWS, min(_TYPICAL_WINDOW, window), 3, height, side),
            (_WINDOWS, window, 3, side, side),
        )
    batch = options.engine_batch
    return Profile((1, 3, least, least), (batch, 3, height, side), (batch, 3, side, side))


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def bucket_of(shape: Sequence[int], profiles: Sequence[Profile]) -> int | None:
    """The number of the first profile that admits a shape; None: it is too small for all.

    Raises:
        NetworkError: it is too large, so the engine is the wrong one for this run.
    """
    for number, profile in enumerate(profiles):
        if profile.admits(shape):
            return number
    largest = profiles[-1]
    if all(size <= most for size, most in zip(shape, largest.most, strict=True)):
        return None
    *_, most_side = largest.most
    window = f", in windows of up to {largest.most[1]}" if len(largest.most) == 5 else ""
    raise NetworkError(
        f"frames of {shape[-1]} x {shape[-2]} px{_frames_of(shape)} are beyond the TensorRT engine; accepted: sides of "
        f"{largest.least[-1]} to {most_side} px{window}; give --engine-sides or --engine-window that cover them, or a "
        "smaller --max-side"
    )


def _frames_of(shape: Sequence[int]) -> str:
    return f" in windows of {shape[1]}" if len(shape) == 5 else ""
