"""Trial inputs, how far two outputs are apart, and which comes sooner: for checks of one runtime by another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_TURNS = 5


def trial_input(shape: Sequence[int]) -> Tensor:
    """Random smooth frames in 0..1 of a shape, the same on every call."""
    generator = torch.Generator().manual_seed(sum(shape))
    height, width = shape[-2:]
    coarse = torch.rand(1, *shape[-3:-2], height // 8 + 1, width // 8 + 1, generator=generator)
    frames = torch.stack([coarse.roll(place, -1)[0] for place in range(_count(shape))])
    smooth = functional.interpolate(frames, size=(height, width), mode="bilinear", align_corners=False)
    return (smooth * 0.9 + 0.1 * torch.rand(smooth.shape, generator=generator)).view(*shape)


def _count(shape: Sequence[int]) -> int:
    return int(torch.tensor(shape[:-3]).prod())


def relative_difference(expected: Tensor, given: Tensor) -> float:
    """Largest absolute difference over the largest absolute value; inf where shapes differ."""
    return _difference(expected, given, torch.amax)


def mean_difference(expected: Tensor, given: Tensor) -> float:
    """Mean absolute difference over the mean absolute value; inf where shapes differ."""
    return _difference(expected, given, torch.mean)


def _difference(expected: Tensor, given: Tensor, size: Callable[[Tensor], Tensor]) -> float:
    if expected.shape != given.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    return float(size((expected - given).abs()) / size(expected.abs()).clamp_min(1e-12))


def times_as_fast(plain: Callable[[Tensor], object], other: Callable[[Tensor], object], batch: Tensor) -> float:
    """How many times as fast as `plain` the other one runs a batch: medians, by turns, after a call that prepares."""
    seconds: tuple[list[float], list[float]] = [], []
    for turn in range(_TURNS + 1):
        for run, times in zip((plain, other), seconds, strict=True):
            start = time.perf_counter()
            run(batch)
            if turn:
                times.append(time.perf_counter() - start)
    return float(np.median(seconds[0]) / np.median(seconds[1]))
