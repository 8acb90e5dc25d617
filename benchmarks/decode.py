"""Decoding by the CPU and by a GPU (NVDEC): frames a second of the decoding processes, and how far pictures are apart.

python benchmarks/decode.py [--seconds 10] [--repeats 5] [--decoders 0]

Clips of moving blocks are encoded in every codec and size, a copy for every two decoding processes and at least four.
Both sides sample 6 frames a second at 500 px, as `f2f label` does, and take turns; their first round, which starts the
processes and compares what comes, is not timed. A side that differs has no time. Without a GPU there are rows of the
CPU alone. Rows go to `results/decode.csv`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from record import write_rows

from f2f.engine import nvdec
from f2f.engine.decoder import MOST_LEVELS
from f2f.engine.options import DecodeOptions
from f2f.engine.pool import DecodePool
from f2f.engine.types import Frame, InputRow, VideoEnd

FPS = 30
CODECS: Mapping[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"preset": "veryfast", "crf": "23"}),
    "hevc": ("libx265", {"preset": "ultrafast", "crf": "28", "x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "33", "b": "0"}),
}
SIZES_WH = ((426, 240), (854, 480), (1920, 1080))


@dataclass(frozen=True)
class Side:
    """Who decodes."""

    decoder: str
    pool: DecodePool


def images(size_wh: tuple[int, int], seconds: float) -> Iterator[npt.NDArray[np.uint8]]:
    """Coloured blocks under grain that move; uint8 [H, W, 3]."""
    width, height = size_wh
    random = np.random.default_rng(0)
    blocks = random.integers(30, 226, (height // 16 + 2, width // 16 + 40, 3)).astype(np.uint8)
    still = blocks.repeat(16, axis=0).repeat(16, axis=1)
    grain = random.integers(-6, 7, still.shape).astype(np.int16)
    textured = np.clip(still + grain, 0, 255).astype(np.uint8)
    for time_ in range(int(seconds * FPS)):
        left = 2 * time_ % (textured.shape[1] - width)
        yield np.ascontiguousarray(textured[:height, left : left + width])


def encode(path: Path, codec: str, size_wh: tuple[int, int], seconds: float) -> None:
    """Write a clip."""
    encoder, options = CODECS[codec]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=FPS, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size_wh, "yuv420p"
        for image in images(size_wh, seconds):
            container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def measure(codec: str, size_wh: tuple[int, int], clip: Path, given: argparse.Namespace) -> list[dict[str, object]]:
    """A row per side."""
    options = DecodeOptions(decoders=given.decoders)
    rows = [InputRow(clip.name, clip.name, codec, str(clip))] * max(4, options.decoder_count // 2)
    with ExitStack() as stack:
        sides = [
            Side(name, stack.enter_context(DecodePool(DecodeOptions(decoder=name, decoders=given.decoders))))  # type: ignore[arg-type]
            for name in (["cpu"] if nvdec.obstacle() else ["cpu", "cuda"])
        ]
        levels = _levels(sides, rows)
        good = [side for side in sides if levels[side.decoder] <= MOST_LEVELS]
        seconds: dict[str, list[float]] = {side.decoder: [] for side in good}
        for _ in range(given.repeats):
            for side in good:
                start = time.perf_counter()
                decoded = _all(side.pool, rows)[1]
                seconds[side.decoder].append((time.perf_counter() - start) / decoded)
    return [
        {
            "codec": codec,
            "size": f"{size_wh[0]}x{size_wh[1]}",
            "decoder": side.decoder,
            "processes": options.decoder_count,
            **{f"p{p}_ms": round(1e3 * float(np.quantile(seconds[side.decoder], p / 100)), 3) for p in (20, 50, 80)},
            "frames_per_second": round(1 / float(np.median(seconds[side.decoder]))),
            "times_cpu": round(float(np.median(seconds["cpu"]) / np.median(seconds[side.decoder])), 2),
            "levels_from_cpu": round(levels[side.decoder], 2),
        }
        for side in good
    ]


def _levels(sides: Sequence[Side], rows: Sequence[InputRow]) -> dict[str, float]:
    """Largest mean difference of a picture from the CPU's, of 255; 255 where frames are missing or not a GPU's."""
    by_cpu = _all(sides[0].pool, rows)[0]
    found = {"cpu": 0.0}
    for side in sides[1:]:
        frames, _, on_gpu = _all(side.pool, rows)
        same = on_gpu and by_cpu.keys() == frames.keys()
        pairs = [(by_cpu[key], frames[key]) for key in by_cpu] if same else []
        found[side.decoder] = max((float(np.abs(a.astype(np.int16) - b).mean()) for a, b in pairs), default=255.0)
        print(f"{side.decoder}: {len(frames)} of {len(by_cpu)} frames, {found[side.decoder]:.2f} levels", flush=True)
    return found


def _all(
    pool: DecodePool, rows: Sequence[InputRow]
) -> tuple[dict[tuple[int, float], npt.NDArray[np.uint8]], int, bool]:
    """Pictures by video and time, frames that were decoded, whether a GPU did all of it."""
    frames: dict[tuple[int, float], npt.NDArray[np.uint8]] = {}
    ends: list[VideoEnd] = []
    for item in pool.frames(enumerate(rows)):
        if isinstance(item, Frame):
            frames[item.video, item.pts_seconds] = item.image
        else:
            ends.append(item)
    failed = [end.failure.detail for end in ends if end.failure]
    if failed:
        raise SystemExit(f"a clip was not decoded: {failed[0]}")
    return frames, sum(end.report.frames_decoded for end in ends), all(end.report.on_gpu for end in ends)


def main() -> None:
    """Encode, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clips")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--decoders", type=int, default=0, help="decoding processes of each side")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores; GPU: {nvdec.obstacle() or nvdec.description()}")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="f2f-decode-") as folder:
        for codec in CODECS:
            for size_wh in SIZES_WH:
                clip = Path(folder) / f"{codec}-{size_wh[0]}.mp4"
                encode(clip, codec, size_wh, given.seconds)
                made = measure(codec, size_wh, clip, given)
                print(*made, sep="\n", flush=True)
                rows += made
                clip.unlink()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    print(write_rows("decode", rows, ("av", "torch", "numpy"), gpu))


if __name__ == "__main__":
    main()
