"""Decoder: whether the CPU or a GPU decodes a run's videos; found out on some of them when the run begins.

What a GPU decodes is compared with what the CPU does, and it has to be quicker by a fifth: it loses on short clips.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.frame import VideoFrame

from f2f.engine import nvdec
from f2f.engine.errors import MachineError, UsageError
from f2f.engine.options import DecodeOptions
from f2f.engine.places import is_url
from f2f.engine.pool import DecodePool
from f2f.engine.runtimes.telling import note, tell
from f2f.engine.types import Frame, ImageArray, InputRow, VideoEnd

LEAST_GAIN = 1.2
"""how many times as fast as the CPU a GPU has to decode"""
MOST_LEVELS = 4.0
"""of 255, mean difference of a picture that rounding explains; FFmpeg's on x86 is up to 2.1 levels darker"""
_VIDEOS = 4
_SECONDS = 8.0
"""that are decoded of each"""
_ROUNDS = 2


def choose_decoder(
    options: DecodeOptions, rows: Sequence[InputRow], pinned: Callable[[], object]
) -> Literal["cpu", "cuda"]:
    """What decodes a run.

    Args:
        options: what is asked for.
        rows: the source.
        pinned: what the run pins of its decoder; None where it is new.

    Raises:
        UsageError: a GPU is asked for and cannot be used, or decodes something else.
    """
    if options.decoder == "cpu":
        return "cpu"
    hindrance = nvdec.obstacle()
    begun = None if hindrance else pinned()
    if hindrance or begun is not None:
        trial = Trial(hindrance, LEAST_GAIN if nvdec.is_named(begun) else 0.0)
    else:
        trial = try_gpu(options, _sample(rows))
    if options.decoder == "cuda":
        if trial.hindrance:
            raise UsageError(f"--decoder cuda cannot be used: {trial.hindrance}; accepted here: --decoder cpu")
        return "cuda"
    return trial.choice


@dataclass(frozen=True)
class Trial:
    """How a GPU does beside the CPU."""

    hindrance: str
    """why it cannot be used; empty where it can"""
    gain: float
    """how many times as fast it is; 0 where that was not measured"""

    @property
    def choice(self) -> Literal["cpu", "cuda"]:
        """What `--decoder auto` takes."""
        return "cuda" if not self.hindrance and self.gain >= LEAST_GAIN else "cpu"


def try_gpu(options: DecodeOptions, sample: Sequence[InputRow]) -> Trial:
    """Decode the beginnings of some videos by both, compare what comes, and how long it takes."""
    if not sample:
        note("no video of the source lies here: how fast a GPU decodes was not measured")
        return Trial("", 0.0)
    patience = min(options.decode_timeout_seconds, 20.0)
    brief = replace(options, max_seconds=min(options.max_seconds, _SECONDS), decode_timeout_seconds=patience)
    rows = list(sample) * -(-options.decoder_count // len(sample))  # work for every process
    with DecodePool(replace(brief, decoder="cpu")) as cpu, DecodePool(replace(brief, decoder="cuda")) as gpu:
        try:
            hindrance = _difference(_decoded(cpu, rows), _decoded(gpu, rows))
        except MachineError as error:
            hindrance = str(error)
        if hindrance:
            tell(f"videos are decoded on the CPU: {hindrance}")
            return Trial(hindrance, 0.0)
        gain = _gain(cpu, gpu, rows)
    note(f"the GPU decodes {gain:.2f} times as fast as the CPU")
    return Trial("", gain)


def gpu_hindrance() -> str:
    """Why no GPU decodes here; empty where one was seen to decode what the CPU does."""
    hindrance = nvdec.obstacle()
    if hindrance:
        return hindrance
    with tempfile.TemporaryDirectory(prefix="f2f-clip-") as folder:
        clip = Path(folder) / "clip.mp4"
        _write_clip(clip)
        return try_gpu(DecodeOptions(decoders=1), [InputRow("clip", clip.name, "clip", str(clip))]).hindrance


def _write_clip(path: Path) -> None:
    """Two seconds of H.264: a coloured grid that moves."""
    y, x = np.mgrid[:240, :320]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for time_ in range(48):
            image = np.stack(((x + 3 * time_) % 256, (2 * y) % 256, (x + y) // 3), axis=-1).astype(np.uint8)
            container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _sample(rows: Sequence[InputRow]) -> list[InputRow]:
    """Some videos that lie here, from all over the source."""
    step = max(1, len(rows) // _VIDEOS)
    spread = (row for first in range(step) for row in rows[first::step])
    return list(islice((row for row in spread if not row.problem and not is_url(row.location)), _VIDEOS))


@dataclass
class _Seen:
    """What was decoded of a video."""

    frames: list[tuple[float, int, ImageArray]] = field(default_factory=list)
    """(pts_seconds, shot, picture)"""
    end: VideoEnd | None = None

    @property
    def whole(self) -> bool:
        """Nothing went wrong; who decodes damaged videos makes up what is missing, each in its own way."""
        return self.end is not None and self.end.failure is None and not self.end.report.packet_errors


def _decoded(pool: DecodePool, rows: Sequence[InputRow]) -> list[_Seen]:
    seen = [_Seen() for _ in rows]
    for item in pool.frames(enumerate(rows)):
        if isinstance(item, Frame):
            seen[item.video].frames.append((item.pts_seconds, item.shot, item.image))
        else:
            seen[item.video].end = item
    return seen


def _difference(by_cpu: Sequence[_Seen], by_gpu: Sequence[_Seen]) -> str:
    """Why the GPU's frames cannot stand for the CPU's; empty where they can."""
    both = [(cpu, gpu) for cpu, gpu in zip(by_cpu, by_gpu, strict=True) if cpu.whole]
    for cpu, gpu in both:
        if not gpu.whole:
            failure = gpu.end.failure if gpu.end else None
            return f"the GPU does not decode what the CPU does ({failure.detail if failure else 'bad packets'})"
        if [frame[:2] for frame in cpu.frames] != [frame[:2] for frame in gpu.frames]:
            return "the GPU gives frames at other times, or sees other cuts"
        levels = max((_levels(a, b) for (_, _, a), (_, _, b) in zip(cpu.frames, gpu.frames, strict=True)), default=0.0)
        if levels > MOST_LEVELS:
            return f"the GPU's pictures differ from the CPU's by {levels:.1f} of 255 levels; accepted: {MOST_LEVELS:g}"
    if not any(gpu.end is not None and gpu.end.report.on_gpu for _, gpu in both):
        codecs = ", ".join(sorted({cpu.end.report.codec for cpu, _ in both if cpu.end})) or "broken"
        return f"the GPU decodes none of the videos that were tried ({codecs})"
    return ""


def _levels(a: ImageArray, b: ImageArray) -> float:
    """Mean difference of two pictures, of 255."""
    return float(np.abs(a.astype(np.int16) - b).mean()) if a.shape == b.shape else 255.0


def _gain(cpu: DecodePool, gpu: DecodePool, rows: Sequence[InputRow]) -> float:
    """How many times as fast the GPU is, by turns; the processes are at work already."""
    seconds = {id(cpu): 0.0, id(gpu): 0.0}
    for _ in range(_ROUNDS):
        for pool in (cpu, gpu):
            start = time.monotonic()
            for _ in pool.frames(enumerate(rows)):
                pass
            seconds[id(pool)] += time.monotonic() - start
    return seconds[id(cpu)] / seconds[id(gpu)]
