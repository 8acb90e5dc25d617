"""CAM: a window's frames -> their active regions, as bit planes (paper §3.3.1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from f2f.engine.classify import Classifier, to_tensor
from f2f.engine.resize import resize
from f2f.engine.stage import StageClock, per_window
from f2f.engine.types import ActiveWindow, VideoEnd, Window
from f2f.kernels import activate_cams


class Activation:
    """Multi-scale, mirrored CAMs; pixelwise maximum, normalised by class and frame, thresholded."""

    def __init__(self, classifier: Classifier, scales: tuple[float, ...], theta_f: float) -> None:
        self._classifier, self._scales, self._theta_f = classifier, scales, theta_f

    def __call__(self, window: Window) -> ActiveWindow:
        """The active regions of all K frames for the window's label set."""
        images = to_tensor([frame.image for frame in window.frames])  # [K, 3, H, W]
        cams: list[Tensor] = []
        flips: list[bool] = []
        for scale in self._scales:
            upright, mirrored = self._both_ways(images, scale)
            cams += [upright, mirrored]
            flips += [False, True]
        classes = torch.tensor(window.classes).expand(len(window.frames), -1)  # [K, P]
        bits, _ = activate_cams(cams, flips, classes, window.size_hw, self._theta_f)  # [K, N, H, W]
        return ActiveWindow(window, bits)

    def _both_ways(self, images: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """CAMs [K, C, h, w] of the frames at one scale, and of their mirror images (left mirrored)."""
        height, width = (max(1, round(side * scale)) for side in images.shape[-2:])
        scaled = resize(images, (height, width))
        _, cams = self._classifier(torch.cat([scaled, scaled.flip(-1)]))  # [2K, C, h, w]
        upright, mirrored = cams.chunk(2)
        return upright.contiguous(), mirrored.contiguous()


def activate(
    windows: Iterator[Window | VideoEnd], activation: Activation, clock: StageClock
) -> Iterator[ActiveWindow | VideoEnd]:
    """The active regions of every window."""
    yield from per_window("cam", activation, windows, clock)
