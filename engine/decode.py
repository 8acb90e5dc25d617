"""Decode: one video -> sampled RGB frames, by time stamp, rotated, scaled once.

This module runs in the decoding processes, so it imports no torch unless a GPU is to decode. Every known way in which
files and libraries go wrong ends as a `VideoError` with a reason, or is repaired and counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from f2f.engine import nvdec
from f2f.engine.container import error_text, fingerprint, opened
from f2f.engine.errors import VideoError
from f2f.engine.options import DecodeOptions
from f2f.engine.pixels import deinterlaced, orientation, picture, picture_hw, pixel_aspect, thumbnail
from f2f.engine.shots import CutDetector, is_blank
from f2f.engine.types import DecodeReport, Frame, PartEnd, Span

_MAX_ERRORS_IN_A_ROW = 32
_NEAR_SECONDS = 1e-3  # time stamps are compared with this slack: containers round them
_TICK_SECONDS = 1.0


@dataclass
class DecodeState:
    """What decoding has seen so far; becomes the `DecodeReport`."""

    frames_decoded: int = 0
    frames_sampled: int = 0
    packet_errors: int = 0
    dropped_frames: int = 0
    shot: int = 0
    start_seconds: float | None = None
    last_seconds: float = -math.inf
    end_seconds: float = -math.inf
    """when the last frame's time on screen ends"""
    fps: float = 0.0
    size_wh: tuple[int, int] = (0, 0)
    pixel_aspect: float = 1.0
    rotation_degrees: int = 0
    mirrored: bool = False
    interlaced: bool = False
    codec: str = ""
    on_gpu: bool = False
    file_bytes: int = 0
    modified_ns: int = 0
    """Unix time of the file's last change; 0: not known"""
    broken: str = ""
    """why decoding ended before the file's end; empty where it did not"""
    too_long: bool = False
    """it is --max-seconds where decoding ended"""
    encrypted: bool = False
    """it is encryption where decoding ended"""
    refused: bool = False
    """the decoder calls a packet's demands invalid, as it does of too large a size"""
    tick: Callable[[], None] = field(default=lambda: None)
    """called about once a second, however few frames are sampled"""

    def report(self) -> DecodeReport:
        """The state as a record."""
        return DecodeReport(
            frames_decoded=self.frames_decoded,
            frames_sampled=self.frames_sampled,
            packet_errors=self.packet_errors,
            dropped_frames=self.dropped_frames,
            shots=self.shot + 1 if self.frames_sampled else 0,
            start_seconds=self.start_seconds or 0.0,
            last_seconds=max(self.last_seconds, 0.0) if math.isinf(self.last_seconds) else self.last_seconds,
            fps=self.fps,
            size_wh=self.size_wh,
            pixel_aspect=self.pixel_aspect,
            rotation_degrees=self.rotation_degrees,
            mirrored=self.mirrored,
            interlaced=self.interlaced,
            codec=self.codec,
            on_gpu=self.on_gpu,
            file_bytes=self.file_bytes,
            modified_ns=self.modified_ns,
        )

    @property
    def note(self) -> tuple[str, str] | None:
        """(reason, detail) of a video that ended short."""
        return ("too_long" if self.too_long else "broken", self.broken) if self.broken else None


def sample_frames(
    video: int,
    location: str,
    options: DecodeOptions,
    state: DecodeState,
    span: Span | None = None,
    begun: PartEnd | None = None,
) -> Iterator[Frame]:
    """Sampled frames of the video at `location` (a path), or in its `span`, in order; `state` follows what happens.

    Of the part that was `begun` before, all frames are decoded, since shots and time stamps of the others depend on
    them; none is given.

    Raises:
        VideoError: the file cannot be opened, has no video, or nothing of it can be decoded; it is not the one that
            was `begun`.
        MachineError: the GPU that is to decode cannot be used.
    """
    with _unchanged(location, span, state), opened(location, options, span) as (container, stream):
        if begun and (state.file_bytes, state.modified_ns) != (begun.report.file_bytes, begun.report.modified_ns):
            raise VideoError("changed", "the file was written to while it was opened", "transient")
        _describe(stream, options, state)
        frames = _decoded(container, stream, state)
        timed = _with_time(deinterlaced(frames) if options.deinterlace else frames, stream, options, state)
        yield from _sampled(video, timed, options, state, begun.scan.frames_sampled if begun else 0)
        _note_missing_end(stream, state)
    if not state.frames_decoded:
        raise _nothing_decoded(options, state)


@contextmanager
def _unchanged(path: str, span: Span | None, state: DecodeState) -> Iterator[None]:
    """Note the file's size and time; whatever came of a file that is not the same at the end may come of its change.

    Raises:
        VideoError: it is not there, is no file with bytes, or changed while it was read.
    """
    before = fingerprint(path)
    if 0 in (before[0], span and span[1]):
        raise VideoError("empty", "the file has no bytes")
    state.file_bytes, state.modified_ns = span[1] if span else before[0], before[1]
    try:
        yield
    except VideoError as error:
        _refuse_changed(path, before, error)
        raise
    _refuse_changed(path, before)


def _refuse_changed(path: str, before: tuple[int, int], cause: VideoError | None = None) -> None:
    try:
        now = fingerprint(path)
    except VideoError as error:
        raise VideoError("changed", f"while it was read: {error.detail}", "transient") from error
    if now != before:
        sizes = f"it had {before[0]} bytes and then {now[0]}"
        raise VideoError("changed", f"the file was written to while it was read; {sizes}", "transient") from cause


def _describe(stream: VideoStream, options: DecodeOptions, state: DecodeState) -> None:
    context = stream.codec_context
    state.codec = context.name
    state.size_wh = (context.width, context.height)
    rate = stream.average_rate or stream.guessed_rate or Fraction(0)
    state.fps = float(rate)
    state.pixel_aspect = pixel_aspect(stream.sample_aspect_ratio)
    _check_size(context.width, context.height, options)
    context.options = {"max_pixels": str(options.max_pixels)}


def _check_size(width_px: int, height_px: int, options: DecodeOptions) -> None:
    if width_px * height_px > options.max_pixels:
        raise VideoError("too_large", f"{width_px}x{height_px} px; --max-pixels is {options.max_pixels}")


def _nothing_decoded(options: DecodeOptions, state: DecodeState) -> VideoError:
    if state.encrypted:
        return VideoError("encrypted", state.broken)
    if state.refused and not all(state.size_wh):
        return VideoError("too_large", f"its header gives no size, or one above --max-pixels {options.max_pixels}")
    return VideoError("undecodable", state.broken or f"no frame of its {state.codec} stream could be decoded")


def _note_missing_end(stream: VideoStream, state: DecodeState) -> None:
    """A truncated file often ends without an error: its time stamps stop before the length its header names."""
    if stream.duration is None or stream.time_base is None or state.broken or not state.frames_decoded:
        return
    length_seconds = float(stream.duration * stream.time_base)
    seen_seconds = state.end_seconds - (state.start_seconds or 0.0)
    if length_seconds - seen_seconds > 1.0 + 2 / (state.fps or 1.0):
        state.broken = f"ends after {seen_seconds:.2f} s, its header says {length_seconds:.2f} s"


def _decoded(container: InputContainer, stream: VideoStream, state: DecodeState) -> Iterator[VideoFrame]:
    """Frames in display order; a bad packet costs itself, too many in a row end the video."""
    in_a_row, next_tick = 0, time.monotonic() + _TICK_SECONDS
    for packet in _packets(container, stream, state):
        if time.monotonic() > next_tick:
            state.tick()
            next_tick = time.monotonic() + _TICK_SECONDS
        if packet.has_sidedata("encryption_info"):
            state.encrypted, state.broken = True, "its frames are encrypted from here on"
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            state.refused |= isinstance(error, av.error.ArgumentError)
            state.packet_errors += 1
            in_a_row += 1
            if in_a_row >= _MAX_ERRORS_IN_A_ROW:
                state.broken = f"{in_a_row} undecodable packets in a row ({error_text(error)})"
                return
            continue
        in_a_row = 0
        for frame in frames:
            state.frames_decoded += 1
            state.interlaced |= frame.interlaced_frame
            state.on_gpu |= nvdec.is_on_gpu(frame)
            if frame.is_corrupt:  # the decoder made up what was missing
                state.packet_errors += 1
            else:
                yield frame


def _packets(container: InputContainer, stream: VideoStream, state: DecodeState) -> Iterator[Packet[VideoStream]]:
    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            state.packet_errors += 1
            state.broken = f"the container breaks off ({error_text(error)})"
            return


def _with_time(
    frames: Iterator[VideoFrame], stream: VideoStream, options: DecodeOptions, state: DecodeState
) -> Iterator[tuple[float, VideoFrame]]:
    """(pts_seconds, frame) with strictly rising time stamps; missing ones are filled in, falling ones dropped."""
    step = 1 / state.fps if state.fps > 0 else 1 / options.sample_fps
    stamps = _Stamps()
    for frame in frames:
        unknown = 0.0 if state.start_seconds is None else state.last_seconds + step
        known = stamps.seconds(frame)
        pts = unknown if known is None else known
        if pts <= state.last_seconds:
            state.dropped_frames += 1
            continue
        if state.start_seconds is None:
            state.start_seconds = pts
        if pts - state.start_seconds > options.max_seconds:
            state.too_long, state.broken = True, f"is longer than --max-seconds {options.max_seconds:g}"
            return
        state.last_seconds = pts
        state.end_seconds = pts + float((frame.duration or 0) * (frame.time_base or 0))
        yield pts, frame


class _Stamps:
    """The time stamps of frames in display order; AVIs with packed B frames have them swapped.

    As FFmpeg does: where the frames' own stamps fall more often than those of decoding, these are taken.
    """

    def __init__(self) -> None:
        self._last, self._falls = [-math.inf, -math.inf], [0, 0]

    def seconds(self, frame: VideoFrame) -> float | None:
        """A frame's time; None where it has none."""
        for kind, stamp in enumerate((frame.pts, frame.dts)):
            if stamp is not None:
                self._falls[kind] += stamp <= self._last[kind]
                self._last[kind] = stamp
        trusted = frame.pts if frame.dts is None or self._falls[0] <= self._falls[1] else frame.dts
        return None if trusted is None or frame.pts is None else float(trusted * (frame.time_base or 0))


def _sampled(
    video: int, timed: Iterator[tuple[float, VideoFrame]], options: DecodeOptions, state: DecodeState, done: int
) -> Iterator[Frame]:
    """Sampled frames, but for the first `done`, which are only counted."""
    cuts, convert = CutDetector(), nvdec.conversion(options.decoder)
    next_pts, last_pts, last_size, new_shot, errors = -math.inf, -math.inf, (0, 0), False, 0
    place = 0
    gap_limit_seconds = _gap_limit_seconds(options, state.fps)
    for pts, frame in timed:
        _check_size(frame.width, frame.height, options)
        small = thumbnail(convert, frame)
        new_shot |= cuts.is_cut(small) or state.packet_errors > errors
        errors = state.packet_errors
        if pts < next_pts - _NEAR_SECONDS:
            continue
        next_pts = _next_sample(pts, state.start_seconds or 0.0, options.sample_fps)
        wanted = state.frames_sampled >= done
        image = picture(convert, frame, state.pixel_aspect, options.max_side) if wanted else None
        size_hw = picture_hw(frame, state.pixel_aspect, options.max_side)
        turns, state.mirrored = orientation(frame)
        state.rotation_degrees = (0, 90, 180, -90)[turns]
        new_shot |= pts - last_pts > gap_limit_seconds + _NEAR_SECONDS or size_hw != last_size
        place = 0 if new_shot else place + 1
        state.shot += new_shot and state.frames_sampled > 0
        state.frames_sampled += 1
        last_pts, last_size, new_shot = pts, size_hw, False
        if image is not None:
            yield Frame(video, state.shot, pts, image, state.report(), is_blank(small), place)


def _gap_limit_seconds(options: DecodeOptions, fps: float) -> float:
    """Longest time between consecutive frames of one shot; a slow video's own frames are no gaps."""
    interval_seconds = max(1 / options.sample_fps, 1 / fps if fps > 0 else 0.0)
    return options.max_gap_seconds or 2.5 * interval_seconds


def _next_sample(pts: float, start: float, fps: float) -> float:
    """The next point of the sampling grid, which starts at the first frame."""
    return start + (math.floor((pts - start + _NEAR_SECONDS) * fps) + 1) / fps
