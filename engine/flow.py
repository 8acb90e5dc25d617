"""Flow: the motion between the frames of a window (paper §3.3.2), from a network or from OpenCV's DIS."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from f2f.engine.classify import to_tensor
from f2f.engine.errors import NetworkError, UsageError, VideoError
from f2f.engine.options import RuntimeOptions
from f2f.engine.resize import fit_multiple, resize_flow
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.open import open_network
from f2f.engine.stage import StageClock, per_window
from f2f.engine.types import ActiveWindow, ImageArray, MovingWindow, VideoEnd


class Flow(Protocol):
    """Anything that gives the flow between the frames of a window."""

    description: str
    """what it is, for records"""
    fingerprint: str
    """what `run.json` pins"""

    def __call__(self, images: list[ImageArray]) -> Tensor:
        """K uint8 [H, W, 3] frames -> float32 [K-1, 2, H, W] px: flow[k] lives on frame k+1, points to frame k."""
        ...


def open_flow(name: str, options: RuntimeOptions) -> Flow:
    """`dis`, `demo`, a network file, or `auto`: dis where OpenCV is installed, else demo."""
    if name == "dis" or (name == "auto" and find_spec("cv2") is not None):
        return DisFlow()
    return NetworkFlow(open_network("demo" if name == "auto" else name, "flow", options))


class NetworkFlow:
    """A flow network by contract."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.fingerprint = network.info.fingerprint
        self.description = f"network, {network.info.runtime}"

    def __call__(self, images: list[ImageArray]) -> Tensor:
        """K uint8 [H, W, 3] frames -> float32 [K-1, 2, H, W] px."""
        frames = fit_multiple(to_tensor(images), self._network.info.size_multiple)  # [K, 3, H', W']
        (flow,) = self._network(frames[None])  # [1, K-1, 2, H', W']
        wanted = [1, len(images) - 1, 2, *frames.shape[-2:]]
        if list(flow.shape) != wanted:
            raise NetworkError(
                f"the flow network gives {list(flow.shape)} for frames {[1, *frames.shape]}; accepted: {wanted}; "
                "export it again"
            )
        height, width = images[0].shape[:2]
        return resize_flow(flow[0], (height, width))


class DisFlow:
    """OpenCV's dense inverse search, medium preset: no weights, good on real video."""

    def __init__(self) -> None:
        cv2 = _opencv()
        self._dis: Any = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._cv2: Any = cv2
        self.description = f"OpenCV {cv2.__version__} DIS, medium"
        self.fingerprint = hashlib.sha256(self.description.encode()).hexdigest()

    def __call__(self, images: list[ImageArray]) -> Tensor:
        """K uint8 [H, W, 3] frames -> float32 [K-1, 2, H, W] px."""
        if min(images[0].shape[:2]) < 12:
            raise VideoError("network_failed", f"DIS needs frames of 12 px or more, got {images[0].shape[:2]}")
        greys = [self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY) for image in images]  # [H, W] each
        flows = [self._dis.calc(current, previous, None) for previous, current in pairwise(greys)]  # [H, W, 2] each
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            "--flow dis needs OpenCV, which is not installed; install f2f[dis], or give --flow demo"
        ) from error
    cv2.setNumThreads(1)  # its results must not depend on the machine
    return cv2


def follow(
    windows: Iterator[ActiveWindow | VideoEnd], flow: Flow, clock: StageClock
) -> Iterator[MovingWindow | VideoEnd]:
    """The K-1 flows of every window; none for K = 1."""

    def work(active: ActiveWindow) -> MovingWindow:
        images = [frame.image for frame in active.window.frames]
        height, width = active.window.size_hw
        flow_xy_px = flow(images) if len(images) > 1 else torch.zeros(0, 2, height, width)  # [K-1, 2, H, W]
        return MovingWindow(active.window, active.bits, flow_xy_px)

    yield from per_window("flow", work, windows, clock)
