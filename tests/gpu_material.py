"""What the tests of the kernels share. Tensors are on the GPU; without one, on the CPU for the interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds garbage, so that an element nobody wrote is noticed: in every module that imports this."""

    def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def poisoned(*size: object, **options: object) -> Tensor:
            tensor = make(*size, **options)
            return tensor.fill_(math.nan if tensor.is_floating_point() else 0x5A)

        return poisoned

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))


def random_clips(clips: int, frames: int, words: int, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Random masks int32 [B, K, N, H, W] and flow float32 [B, K-1, 2, H, W]."""
    bits = torch.randint(-(2**31), 2**31, (clips, frames, words, *size_hw), dtype=torch.int32, device=DEVICE)
    return bits, torch.randn(clips, frames - 1, 2, *size_hw, device=DEVICE) * 3


def random_features(channels: int, size_hw: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Two images' f1 and f2 [2, C, H, W], and flow [2, 2, H, W] that mostly stays inside the frame."""
    f1, f2 = (torch.randn(2, channels, *size_hw, device=DEVICE).to(dtype) for _ in range(2))
    return f1, f2, torch.randn(2, 2, *size_hw, device=DEVICE) * 2
