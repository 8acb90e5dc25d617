"""Ways to get flow, by name: no motion at all, OpenCV's classical methods, and whatever the engine's `--flow` takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from f2f.engine.errors import UsageError
from f2f.engine.flow import Clip, Flow, GreyFlow, grey_flows, open_flow
from f2f.engine.options import RuntimeOptions

OPENCV_METHODS = ("dis-fast", "dis-medium", "farneback")
_ENGINE_METHODS = ("auto", "dis", "demo")


def open_method(name: str, options: RuntimeOptions) -> Flow:
    """The flow that a name stands for, by the engine's contract: flow[k] lives on frame k + 1, points to frame k.

    `zero`; `dis-fast`, `dis-medium`, `farneback`: OpenCV with `options.threads`; the rest is opened by the engine:
    `dis` (medium, one thread, so that results do not depend on the machine), `demo`, `auto`, a network file.

    Raises:
        UsageError: no such method or file, or what it needs is not installed.
    """
    if name == "zero":
        return ZeroFlow()
    if name in OPENCV_METHODS:
        return OpenCvFlow(name, options.thread_count)
    if name not in _ENGINE_METHODS and not Path(name).is_file():
        raise UsageError(
            f"--flow {name} is no file and no method; accepted: a network from `f2f export flow`, "
            + ", ".join(("zero", *OPENCV_METHODS, *_ENGINE_METHODS))
        )
    return open_flow(name, options)


class ZeroFlow:
    """Nothing moves."""

    description = "zero flow"
    fingerprint = "zero"

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """B clips of K frames -> zeros [B, K-1, 2, H, W]."""
        return torch.zeros(len(clips), len(clips[0]) - 1, 2, *clips[0][0].shape[:2])


class OpenCvFlow:
    """A classical method of OpenCV."""

    def __init__(self, name: str, threads: int) -> None:
        self._cv2 = _opencv(name)
        self._threads = threads
        self._grey_flow = _grey_flow(self._cv2, name)
        self.description = f"OpenCV {self._cv2.__version__} {name}"
        self.fingerprint = hashlib.sha256(self.description.encode()).hexdigest()

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """B clips of K frames -> float32 [B, K-1, 2, H, W] px."""
        before = self._cv2.getNumThreads()
        self._cv2.setNumThreads(self._threads)
        try:
            return grey_flows(clips, self._grey_flow)
        finally:
            self._cv2.setNumThreads(before)  # it is one number for the whole process


def _opencv(name: str) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            f"--flow {name} needs OpenCV, which is not installed; install f2f[dis], or give --flow demo"
        ) from error
    return cv2


def _grey_flow(cv2: Any, name: str) -> GreyFlow:
    if name == "farneback":
        settings = {"pyr_scale": 0.5, "levels": 5, "winsize": 15, "iterations": 3, "poly_n": 7, "poly_sigma": 1.5}
        return lambda current, previous: cv2.calcOpticalFlowFarneback(current, previous, None, **settings, flags=0)
    preset = {"dis-fast": cv2.DISOPTICAL_FLOW_PRESET_FAST, "dis-medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM}[name]
    dis = cv2.DISOpticalFlow_create(preset)
    return lambda current, previous: dis.calc(current, previous, None)
