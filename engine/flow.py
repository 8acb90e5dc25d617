"""Flow: the motion between the frames of a window (paper §3.3.2), from a network or from OpenCV's DIS."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from f2f.engine.classify import to_tensor
from f2f.engine.errors import NetworkError, UsageError, VideoError
from f2f.engine.options import FlowOptions, RuntimeOptions
from f2f.engine.resize import pad_multiple
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.open import open_network
from f2f.engine.stage import StageClock, per_batch
from f2f.engine.types import ActiveWindow, End, ImageArray, MovingSoftWindow, MovingWindow, SoftWindow

_OPENCV_MIN_SIDE_PX = 12
Clip = Sequence[ImageArray]
"""K uint8 [H, W, 3] RGB frames in order of time"""
GreyFlow = Callable[[ImageArray, ImageArray], Any]
"""(frame, its predecessor), grey [H, W] each -> flow [H, W, 2] px on the frame, pointing to the predecessor"""


class Flow(Protocol):
    """Anything that gives the flow between the frames of clips."""

    description: str
    """what it is, for records"""
    fingerprint: str
    """what `run.json` pins"""

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """B clips of K frames of one size -> float32 [B, K-1, 2, H, W] px: flow k lives on frame k+1, points to k."""
        ...


def open_flow(name: str, options: RuntimeOptions) -> Flow:
    """`dis`, `demo`, a network file, or `auto`: dis where OpenCV is installed, else demo."""
    if name == "dis" or (name == "auto" and find_spec("cv2") is not None):
        return DisFlow()
    return NetworkFlow(open_network("demo" if name == "auto" else name, "flow", options))


class NetworkFlow:
    """A flow network by contract."""

    def __init__(self, network: Network) -> None:
        self.info = network.info
        self._network = network
        self.fingerprint = network.info.fingerprint
        self.description = f"network, {network.info.runtime}"

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """B clips of K frames -> float32 [B, K-1, 2, H, W] px; all pairs of all clips in one call of the network."""
        count, (height, width) = len(clips[0]), clips[0][0].shape[:2]
        images = to_tensor([image for clip in clips for image in clip])  # [B*K, 3, H, W]
        padded = pad_multiple(images, self._network.info.size_multiple)
        frames = padded.reshape(len(clips), count, *padded.shape[1:])  # [B, K, 3, H', W']
        (flow,) = self._network(frames)  # [B, K-1, 2, H', W']
        wanted = [len(clips), count - 1, 2, *frames.shape[-2:]]
        if list(flow.shape) != wanted:
            raise NetworkError(
                f"the flow network gives {list(flow.shape)} for frames {list(frames.shape)}; accepted: {wanted}; "
                "export it again"
            )
        return flow[..., :height, :width]


class DisFlow:
    """OpenCV's dense inverse search, medium preset: no weights, good on real video."""

    def __init__(self) -> None:
        cv2 = _opencv()
        cv2.setNumThreads(1)  # its results must not depend on the machine
        self._dis: Any = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.description = f"OpenCV {cv2.__version__} DIS, medium"
        self.fingerprint = hashlib.sha256(self.description.encode()).hexdigest()

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """B clips of K frames -> float32 [B, K-1, 2, H, W] px."""
        return grey_flows(clips, lambda current, previous: self._dis.calc(current, previous, None))


def grey_flows(clips: Sequence[Clip], grey_flow: GreyFlow) -> Tensor:
    """The flows of clips by one of OpenCV's methods, a pair at a time.

    Raises:
        VideoError: the frames are too small.
    """
    height, width = clips[0][0].shape[:2]
    if min(height, width) < _OPENCV_MIN_SIDE_PX:
        detail = f"OpenCV's flow needs frames of {_OPENCV_MIN_SIDE_PX} px or more, got {width} x {height}"
        raise VideoError("network_failed", detail)
    cv2 = _opencv()
    flows = []
    for clip in clips:
        greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in clip]  # [H, W] each
        flows.append(np.stack([grey_flow(current, previous) for previous, current in pairwise(greys)]))
    return torch.from_numpy(np.stack(flows)).permute(0, 1, 4, 2, 3).contiguous()


def both_ways(flow: Flow, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
    """The flows of `flow(clips)`, and the way back: entry k lives on frame k and points to frame k+1."""
    found = flow([*clips, *(clip[::-1] for clip in clips)])
    there, back = found.chunk(2)
    return there, back.flip(1)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            "--flow dis needs OpenCV, which is not installed; install f2f[dis], or give --flow demo"
        ) from error
    return cv2


def follow(
    windows: Iterator[ActiveWindow | End], flow: Flow, options: FlowOptions, clock: StageClock
) -> Iterator[MovingWindow | End]:
    """The K-1 flows of every window; none for K = 1."""

    def work(together: Sequence[ActiveWindow]) -> list[MovingWindow]:
        clips = [[frame.image for frame in active.window.frames] for active in together]
        height, width = together[0].window.size_hw
        none = torch.zeros(len(clips), 0, 2, height, width)
        flows = flow(clips) if len(clips[0]) > 1 else none  # [B, K-1, 2, H, W]
        return [MovingWindow(active.window, active.bits, found) for active, found in zip(together, flows, strict=True)]

    yield from per_batch("flow", work, windows, options.batch_windows, clock)


def follow_both_ways(
    windows: Iterator[SoftWindow | End], flow: Flow, options: FlowOptions, clock: StageClock
) -> Iterator[MovingSoftWindow | End]:
    """The K-1 flows of every window and the way back; none for K = 1."""

    def work(together: Sequence[SoftWindow]) -> list[MovingSoftWindow]:
        clips = [[frame.image for frame in soft.window.frames] for soft in together]
        none = torch.zeros(len(clips), 0, 2, *together[0].window.size_hw)
        there, back = both_ways(flow, clips) if len(clips[0]) > 1 else (none, none)  # [B, K-1, 2, H, W] each
        found = zip(together, there, back, strict=True)
        return [MovingSoftWindow(soft.window, soft.maps, onward, returned) for soft, onward, returned in found]

    yield from per_batch("flow", work, windows, options.batch_windows, clock)
