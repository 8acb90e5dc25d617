"""Pixels: a decoded frame -> RGB as it is meant to be seen: square pixels, upright, not mirrored, SDR.

Alpha is dropped: what a frame holds where it is transparent is seen as it is. Runs in the decoding processes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, Protocol

import av.error
import av.filter
import numpy as np
import numpy.typing as npt
from av.buffer import Buffer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from f2f.engine.errors import VideoError
from f2f.engine.shots import THUMBNAIL_HW
from f2f.engine.types import ImageArray

Format = Literal["rgb24", "gray"]
_WIDEST_PIXEL = 4.0  # cinema has 2; beyond, the header is broken or a trap
_TRANSFER_PQ = 16  # of ITU-T H.273
_SDR_WHITE_NITS = 203.0  # BT.2408: what shows paper white in HDR
_KNEE = 0.75  # of SDR white: brighter light is pressed into the rest


class Convert(Protocol):
    """Makes arrays of decoded frames, wherever these lie."""

    def __call__(self, frame: VideoFrame, size_wh: tuple[int, int], format_: Format) -> ImageArray:
        """A frame as it is coded, scaled by averaging areas; uint8 [H, W, 3] for rgb24, [H, W] for gray (0 is black).

        Raises:
            VideoError: the frame says of its colours what nobody can follow.
        """
        ...


class CpuConversion:
    """FFmpeg's scaler; a frame that lies on a GPU is fetched. For one stream: a scaler keeps what it prepared."""

    def __init__(self) -> None:
        self._scalers = {"rgb24": VideoReformatter(), "gray": VideoReformatter()}

    def __call__(self, frame: VideoFrame, size_wh: tuple[int, int], format_: Format) -> ImageArray:
        """See `Convert`."""
        try:
            scaled = self._scalers[format_].reformat(frame, *size_wh, format_, interpolation="AREA")
            return scaled.to_ndarray().astype(np.uint8, copy=False)
        except av.error.FFmpegError as error:
            detail = f"its frames, {(frame.sw_format or frame.format).name}, cannot be converted ({error.strerror})"
            raise VideoError("strange_colours", detail) from error


def pixel_aspect(declared: Fraction | None) -> float:
    """Width of a pixel by its height, from what the container declares; 1 where that cannot be."""
    aspect = float(declared or 1)
    return aspect if 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL else 1.0


def orientation(frame: VideoFrame) -> tuple[int, bool]:
    """(quarter turns anticlockwise, whether it is mirrored left to right before that) that make a frame upright."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, Buffer):
        return 0, False
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    mirrored = a * d < b * c
    sign = -1 if mirrored else 1  # (a, b) is where the x axis points, y down
    clockwise = math.atan2(sign * b, sign * a)
    return round(-clockwise / (math.pi / 2)) % 4, mirrored


def picture(convert: Convert, frame: VideoFrame, aspect: float, max_side: int) -> ImageArray:
    """RGB of a frame as it is meant to be seen, longer side at most `max_side` px; uint8 [H, W, 3]."""
    height, width = _scaled_hw(frame, aspect, max_side)
    rgb = convert(frame, (width, height), "rgb24")
    if frame.color_trc == _TRANSFER_PQ:
        rgb = _PQ_TO_SDR[rgb]
    turns, mirrored = orientation(frame)
    return np.ascontiguousarray(np.rot90(rgb[:, ::-1] if mirrored else rgb, k=turns))


def picture_hw(frame: VideoFrame, aspect: float, max_side: int) -> tuple[int, int]:
    """Height and width in px of a frame's `picture`, without making it."""
    height, width = _scaled_hw(frame, aspect, max_side)
    turns, _ = orientation(frame)
    return (width, height) if turns % 2 else (height, width)


def _scaled_hw(frame: VideoFrame, aspect: float, max_side: int) -> tuple[int, int]:
    seen_width = frame.width * aspect
    scale = min(1.0, max_side / max(seen_width, frame.height))
    return max(1, round(frame.height * scale)), max(1, round(seen_width * scale))


def thumbnail(convert: Convert, frame: VideoFrame) -> ImageArray:
    """A small grey picture of the frame as it is coded, for the cut detector."""
    height, width = THUMBNAIL_HW
    return convert(frame, (width, height), "gray")


def deinterlaced(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """The same frames, those that are interlaced made whole from their first field and their neighbours (yadif)."""
    shape, graph = None, None
    for frame in frames:
        if shape != (frame.width, frame.height, frame.format.name):
            if graph is not None:
                yield from _flushed(graph)
            shape, graph = (frame.width, frame.height, frame.format.name), _yadif(frame)
        assert graph is not None
        graph.vpush(frame)
        yield from _pulled(graph)
    if graph is not None:
        yield from _flushed(graph)


def _yadif(frame: VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("yadif", deint="interlaced"), graph.add("buffersink")).configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _flushed(graph: av.filter.Graph) -> Iterator[VideoFrame]:
    graph.vpush(None)
    yield from _pulled(graph)


def _pq_to_sdr() -> npt.NDArray[np.uint8]:
    """uint8 [256]: an 8-bit PQ value (SMPTE ST 2084) -> sRGB, paper white to near white, highlights pressed above."""
    power = (np.arange(256) / 255) ** (32 / 2523)
    nits = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (8192 / 1305)
    light = nits / _SDR_WHITE_NITS
    pressed = _KNEE + (1 - _KNEE) * (1 - np.exp(-np.maximum(light - _KNEE, 0) / (1 - _KNEE)))
    shown = np.where(light < _KNEE, light, pressed)
    encoded = np.where(shown < 0.0031308, 12.92 * shown, 1.055 * shown ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)


_PQ_TO_SDR = _pq_to_sdr()
