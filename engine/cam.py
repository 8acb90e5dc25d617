"""CAM: a window's frames -> their active regions, as bit planes (paper §3.3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from f2f.engine.classify import Classifier, to_tensor
from f2f.engine.resize import resize
from f2f.engine.stage import StageClock, per_window
from f2f.engine.types import ActiveWindow, End, SoftWindow, Window
from f2f.kernels import activate_cams
from f2f.kernels.reference import PEAK_EPSILON


class MultiScaleCams:
    """CAMs at several scales, each also of the mirror image."""

    def __init__(self, classifier: Classifier, scales: tuple[float, ...]) -> None:
        self._classifier, self._scales = classifier, scales

    def __call__(self, window: Window) -> tuple[list[Tensor], list[bool]]:
        """CAMs [K, C, h, w] of the window's frames, and which of them are left mirrored."""
        images = to_tensor([frame.image for frame in window.frames])  # [K, 3, H, W]
        cams = [cam for scale in self._scales for cam in self._both_ways(images, scale, window.cams)]
        return cams, [False, True] * len(self._scales)

    def _both_ways(self, images: Tensor, scale: float, seen: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        """CAMs [K, C, h, w] of the frames at one scale, and of their mirror images (left mirrored).

        What the scan has `seen` of the frames as they are is not computed again.
        """
        height, width = (max(1, round(side * scale)) for side in images.shape[-2:])
        scaled = resize(images, (height, width))
        if scale == 1 and seen is not None:
            _, mirrored = self._classifier(scaled.flip(-1))
            return torch.stack(tuple(seen)), mirrored.contiguous()
        _, cams = self._classifier(torch.cat([scaled, scaled.flip(-1)]))  # [2K, C, h, w]
        upright, mirrored = cams.chunk(2)
        return upright.contiguous(), mirrored.contiguous()


class Activation:
    """Pixelwise maximum of the CAMs, normalised by class and frame, thresholded."""

    def __init__(self, cams: MultiScaleCams, theta_f: float) -> None:
        self._cams, self._theta_f = cams, theta_f

    def __call__(self, window: Window) -> ActiveWindow:
        """The active regions of all K frames for the window's label set."""
        cams, flips = self._cams(window)
        classes = torch.tensor(window.classes).expand(len(window.frames), -1)  # [K, P]
        bits, _ = activate_cams(cams, flips, classes, window.size_hw, self._theta_f)  # [K, N, H, W]
        return ActiveWindow(window, bits)


def soften(cams: MultiScaleCams, window: Window) -> SoftWindow:
    """Pixelwise maximum of the CAMs, normalised by class and frame."""
    channels = torch.tensor(window.classes)
    strongest = torch.zeros(len(window.frames), len(channels), *window.size_hw)  # [K, P, H, W]
    for cam, flip in zip(*cams(window), strict=True):
        listed = cam[:, channels].flip(-1) if flip else cam[:, channels]  # [K, P, h, w]
        torch.maximum(strongest, resize(listed, window.size_hw), out=strongest)
    peaks = strongest.amax(dim=(-2, -1), keepdim=True)
    return SoftWindow(window, strongest / (peaks + PEAK_EPSILON))


def activate(
    windows: Iterator[Window | End], activation: Activation, clock: StageClock
) -> Iterator[ActiveWindow | End]:
    """The active regions of every window."""
    yield from per_window("cam", activation, windows, clock)


def activate_softly(
    windows: Iterator[Window | End], cams: MultiScaleCams, clock: StageClock
) -> Iterator[SoftWindow | End]:
    """The activation of every window, before any threshold."""
    yield from per_window("cam", partial(soften, cams), windows, clock)
