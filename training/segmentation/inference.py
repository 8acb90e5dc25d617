"""A segmenter in memory, by the engine's contract: `f2f.engine.segmenter` predicts with it as with an exported file."""

from __future__ import annotations

import torch
from torch import Tensor

from f2f.engine.errors import UsageError
from f2f.engine.runtimes.network import NetworkInfo
from f2f.training.options import Accelerator
from f2f.training.segmentation.deeplab import FullSize, Segmenter


class SegmenterInMemory:
    """[B,3,H,W] RGB 0..1 -> logits [B,1+C,H,W], both on the CPU; computed on `device`."""

    def __init__(self, network: Segmenter, device: torch.device) -> None:
        self.info = NetworkInfo("segmenter", network.classes, runtime=f"torch {torch.__version__} {device}")
        self._network, self._device = FullSize(network).eval().to(device), device

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the network on a float32 batch."""
        return (self._network(batch.to(self._device)).cpu(),)


def device_of(accelerator: Accelerator) -> torch.device:
    """Where to predict.

    Raises:
        UsageError: `gpu` without one.
    """
    there = torch.cuda.is_available()
    if accelerator == "gpu" and not there:
        raise UsageError("accelerator is gpu, and torch finds none; accepted here: auto, cpu; give one of them")
    return torch.device("cuda" if there and accelerator != "cpu" else "cpu")
