"""A segmenter in memory, by the engine's contract: `f2f.engine.segmenter` predicts with it as with an exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from f2f.engine.errors import UsageError
from f2f.engine.options import InferenceOptions
from f2f.engine.picture import open_image
from f2f.engine.runtimes.network import NetworkInfo
from f2f.engine.segmenter import trained_side_px
from f2f.engine.tars import ImageFile
from f2f.engine.types import ImageArray
from f2f.training.options import Accelerator
from f2f.training.segmentation.deeplab import FullSize

_CPU = torch.device("cpu")


class SegmenterInMemory:
    """[B,3,H,W] RGB 0..1 -> logits [B,1+C,H,W], both on the CPU; computed on `device`."""

    def __init__(self, network: FullSize, device: torch.device = _CPU) -> None:
        self.info = NetworkInfo("segmenter", network.classes, runtime=f"torch {torch.__version__} {device}")
        self._network, self._device = network.eval().to(device), device

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the network on a float32 batch."""
        return (self._network(batch.to(self._device)).cpu(),)


def as_trained(training: Mapping[str, Any], scales: Sequence[float] = (1.0,)) -> InferenceOptions:
    """How to look at an image as the network did when it was trained, and at these factors of that size.

    Args:
        training: what network.pt or an exported file says of it: warped to squares, or as large as it came.
        scales: the factors.
    """
    side = trained_side_px(training)
    if side is None:
        return InferenceOptions(scales=tuple(scales))
    return InferenceOptions(squares=tuple(max(1, round(scale * side)) for scale in scales))


def device_of(accelerator: Accelerator) -> torch.device:
    """Where to predict.

    Raises:
        UsageError: `gpu` without one.
    """
    there = torch.cuda.is_available()
    if accelerator == "gpu" and not there:
        raise UsageError("accelerator is gpu, and torch finds none; accepted here: auto, cpu; give one of them")
    return torch.device("cuda" if there and accelerator != "cpu" else "cpu")


def read_pixels(path: ImageFile) -> ImageArray:
    """The image [H,W,3] in a file, as training reads it: RGB, not turned.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    return np.array(open_image(path).convert("RGB"))
