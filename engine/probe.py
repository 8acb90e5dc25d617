"""Probe: what the engine would do with one video, and why, found by decoding it as a run would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from f2f.engine.classify import without_scores
from f2f.engine.options import DecodeOptions, WindowOptions
from f2f.engine.pool import DecodePool
from f2f.engine.records import VideoRecord, video_record
from f2f.engine.source import printable
from f2f.engine.types import Frame, InputRow, VideoEnd, Window
from f2f.engine.window import find_windows


@dataclass(frozen=True)
class Probe:
    """What a run would record of a video whose query is trusted, and what it would make windows of."""

    record: VideoRecord
    """`masks` counts windows"""
    sampled_wh: tuple[int, int]
    """width and height at which its frames are looked at, px"""
    shot_frames: tuple[int, ...]
    """sampled frames of every shot"""
    windows_seconds: tuple[tuple[float, float], ...]
    """first and last time stamp of every window"""

    @property
    def exit_code(self) -> int:
        """0, or 3 where it fails."""
        return 3 if self.record.status == "failed" else 0

    def print_facts(self, console: Console) -> None:
        """A line per fact; the verdict last."""
        for name, fact in self._facts():
            console.print(f"{name:<9}{escape(printable(fact))}", soft_wrap=True, highlight=False)

    def _facts(self) -> Iterator[tuple[str, str]]:
        record = self.record
        if record.codec:
            size = f"{record.width_px}x{record.height_px} px"
            yield "video", ", ".join([record.codec, size, f"{record.fps:.4g} frames/s", *_oddities(record)])
        if record.frames_decoded:
            yield (
                "decoded",
                (
                    f"{record.frames_decoded} frames, {record.start_seconds:.2f} to {record.last_seconds:.2f} s; "
                    f"{record.packet_errors} damaged packets, {record.dropped_frames} frames out of order left out"
                ),
            )
        if record.frames_sampled:
            shots = ", ".join(map(str, self.shot_frames[:20])) + (", …" if len(self.shot_frames) > 20 else "")
            yield "sampled", f"{record.frames_sampled} frames of {self.sampled_wh[0]}x{self.sampled_wh[1]} px"
            yield "shots", f"{record.shots}, of {shots} frames"
        if self.windows_seconds:
            (first, _), (_, last) = self.windows_seconds[0], self.windows_seconds[-1]
            yield (
                "windows",
                f"{len(self.windows_seconds)}, from {first:.2f} to {last:.2f} s, if every frame shows the query",
            )
        yield "verdict", _verdict(record)


def _oddities(record: VideoRecord) -> Iterator[str]:
    """What sets its frames apart from upright ones of square pixels."""
    if record.rotation_degrees:
        yield f"turned by {record.rotation_degrees}°"
    if record.mirrored:
        yield "mirrored"
    if record.pixel_aspect != 1:
        yield f"pixels {record.pixel_aspect:.3g} times as wide as high"
    if record.interlaced:
        yield "interlaced"


def _verdict(record: VideoRecord) -> str:
    if record.status == "ok":
        return "ok"
    where = f" at {record.stage}" if record.stage else ""
    kind = f" ({record.failure})" if record.failure else ""
    return f"{record.status}{where}: {record.reason}{kind}: {record.detail}"


@dataclass
class _Seen:
    """What passes by on the way to the windows."""

    shots: Counter[int] = field(default_factory=Counter)
    size_wh: tuple[int, int] = (0, 0)

    def watched(self, items: Iterator[Frame | VideoEnd]) -> Iterator[Frame | VideoEnd]:
        """The same items."""
        for item in items:
            if isinstance(item, Frame):
                self.shots[item.shot] += 1
                self.size_wh = (item.image.shape[1], item.image.shape[0])
            yield item


def probe(video: Path, decode: DecodeOptions, window: WindowOptions) -> Probe:
    """Decode `video` in a child process, as `f2f label` would with a trusted query, and cut it into windows."""
    row = InputRow(str(video), str(video), "", location=str(video.absolute()))
    seen, windows, end = _Seen(), list[tuple[float, float]](), VideoEnd(0)
    with DecodePool(decode) as pool:
        scored = without_scores(seen.watched(pool.frames([(0, row)])))
        for item in find_windows(scored, {0: 0}, None, window, enough=pool.cancel):
            if isinstance(item, Window):
                windows.append((item.frames[0].pts_seconds, item.frames[-1].pts_seconds))
            elif isinstance(item, VideoEnd):
                end = item
    return Probe(
        video_record(row, end, len(windows)),
        seen.size_wh,
        tuple(seen.shots[shot] for shot in sorted(seen.shots)),
        tuple(windows),
    )
