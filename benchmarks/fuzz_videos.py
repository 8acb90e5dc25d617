"""Mutated videos through the decoding pool: no run may crash, and every file must end as a record.

    python benchmarks/fuzz_videos.py [--files 6370] [--seed 1]

Writes results/fuzz.csv: how often each outcome came, per kind of video and way of damaging it. A file that ends as
`crashed`, `hung` or `decoder_error` is kept below --keep: the pool holds against it, yet it is worth a look.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from record import write_rows

from f2f.engine.options import DecodeOptions
from f2f.engine.pool import DecodePool
from f2f.engine.records import video_record
from f2f.engine.types import Frame, InputRow, VideoEnd

Mutation = Callable[[bytes, np.random.Generator], bytes]

SEEDS = {
    "mp4 h264": ("mp4", "libx264", "yuv420p"),
    "mov mpeg4": ("mov", "mpeg4", "yuv420p"),
    "mov prores": ("mov", "prores_ks", "yuva444p10le"),
    "mkv vp9": ("mkv", "libvpx-vp9", "yuv420p"),
    "mkv hevc": ("mkv", "libx265", "yuv420p10le"),
    "mkv ffv1": ("mkv", "ffv1", "yuv420p"),
    "webm vp8": ("webm", "libvpx", "yuv420p"),
    "avi mpeg4": ("avi", "mpeg4", "yuv420p"),
    "avi mjpeg": ("avi", "mjpeg", "yuvj420p"),
    "ts h264": ("ts", "libx264", "yuv420p"),
    "mpg mpeg2": ("mpg", "mpeg2video", "yuv420p"),
    "flv flv1": ("flv", "flv", "yuv420p"),
    "gif": ("gif", "gif", "rgb8"),
}
"""container and codec -> suffix, encoder and pixel format of the video that is damaged"""
_OPTIONS = {
    "libx264": {"threads": "1", "x264-params": "cpu-independent=1"},  # else bytes depend on unset memory
    "libvpx": {"cpu-used": "8"},
    "libvpx-vp9": {"cpu-used": "8"},
    "libx265": {"x265-params": "log-level=none"},
}
WORTH_A_LOOK = frozenset({"crashed", "hung", "decoder_error"})
_HEADER_BYTES = 512


@dataclass(frozen=True)
class Mutant:
    """A damaged video."""

    path: Path
    kind: str
    mutation: str


def write_seed(path: Path, codec: str, pix_fmt: str, frames: int = 24, size_hw: tuple[int, int] = (64, 96)) -> Path:
    """A small video of moving texture."""
    noise = np.random.default_rng(3).integers(0, 256, (size_hw[0] // 8, size_hw[1] // 8 + frames, 3), dtype=np.uint8)
    texture = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=12)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *size_hw, pix_fmt
        stream.options = {"g": "8", **_OPTIONS.get(codec, {})}
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(texture[:, 4 * number : 4 * number + size_hw[1]].copy(), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def flip_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Up to 64 bytes anywhere become other ones."""
    return _overwritten(data, rng, len(data), int(rng.integers(1, 65)))


def edit_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Up to 8 of the first or, where the index stands there, last bytes become other ones."""
    count = int(rng.integers(1, 9))
    if rng.random() < 0.5:
        return _overwritten(data, rng, _HEADER_BYTES, count)
    return _overwritten(data[::-1], rng, 2 * _HEADER_BYTES, count)[::-1]


def set_numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """Four bytes in a row become a number that programs count wrongly with."""
    numbers = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x01", b"\xff\xff\0\0"]
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(0, max(1, len(data) - 4)))
        changed[at : at + 4] = numbers[rng.integers(len(numbers))]
    return bytes(changed)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    """The file ends early."""
    return data[: int(rng.integers(0, len(data)))]


def swap_chunks(data: bytes, rng: np.random.Generator) -> bytes:
    """Two pieces change places."""
    a, b, c, d = sorted(int(place) for place in rng.integers(0, len(data) + 1, 4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def repeat_chunk(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece comes several times."""
    a, b = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
    return data[:b] + data[a:b] * int(rng.integers(1, 5)) + data[b:]


def drop_chunk(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece is missing."""
    a, b = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
    return data[:a] + data[b:]


MUTATIONS: Mapping[str, Mutation] = {
    "bytes": flip_bytes,
    "header": edit_header,
    "numbers": set_numbers,
    "truncated": truncate,
    "swapped": swap_chunks,
    "repeated": repeat_chunk,
    "dropped": drop_chunk,
}


def _overwritten(data: bytes, rng: np.random.Generator, reach: int, count: int) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(0, min(reach, len(data)), count):
        changed[at] = rng.integers(256)
    return bytes(changed)


def write_mutants(folder: Path, files: int, seed: int) -> Iterator[Mutant]:
    """Damaged videos, kinds and mutations in turn; a function of the seed."""
    seeds = {
        kind: write_seed(folder / f"{kind}.{suffix}", codec, pix_fmt).read_bytes()
        for kind, (suffix, codec, pix_fmt) in SEEDS.items()
    }
    pairs = [(kind, mutation) for mutation in MUTATIONS for kind in SEEDS]
    for number in range(files):
        kind, mutation = pairs[number % len(pairs)]
        path = folder / f"{number:06d}.{SEEDS[kind][0]}"
        path.write_bytes(MUTATIONS[mutation](seeds[kind], np.random.default_rng((seed, number))))
        yield Mutant(path, kind, mutation)


def outcomes(mutants: Sequence[Mutant], options: DecodeOptions) -> list[str]:
    """What a run would record of each: its status, with the reason where it failed.

    Raises:
        AssertionError: a file has no record, or more than one.
    """
    rows = [(number, InputRow(m.path.name, m.path.name, "red", str(m.path))) for number, m in enumerate(mutants)]
    found: dict[int, str] = {}
    with DecodePool(options) as pool:
        for item in pool.frames(rows):
            if isinstance(item, Frame):
                continue
            assert item.video not in found, f"{mutants[item.video].path.name} ended twice"
            found[item.video] = _outcome(rows[item.video][1], item)
    assert sorted(found) == list(range(len(mutants))), "some have no record"
    return [found[number] for number in range(len(mutants))]


def _outcome(row: InputRow, end: VideoEnd) -> str:
    """Its status as `f2f label` would record it, had it a mask of all that is sampled."""
    record = video_record(row, end, masks=end.report.frames_sampled)
    return record.reason if record.status == "failed" else record.status


def main() -> None:
    """Damage, decode, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=6370)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--decoders", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="folder for files worth a look")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="f2f-fuzz-") as folder:
        mutants = list(write_mutants(Path(folder), options.files, options.seed))
        found = outcomes(mutants, DecodeOptions(max_side=96, decoders=options.decoders, decode_timeout_seconds=20))
        for mutant, outcome in zip(mutants, found, strict=True):
            if outcome in WORTH_A_LOOK:
                options.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(mutant.path, options.keep / f"{outcome}-{options.seed}-{mutant.path.name}")
    counts = Counter((m.kind, m.mutation, outcome) for m, outcome in zip(mutants, found, strict=True))
    rows = [
        {"seed": options.seed, "video": kind, "mutation": mutation, "outcome": outcome, "files": files}
        for (kind, mutation, outcome), files in sorted(counts.items())
    ]
    write_rows("fuzz", rows, ("av", "numpy"))
    print(f"{options.files} files in {time.monotonic() - start:.0f} s: {dict(Counter(found).most_common())}")


if __name__ == "__main__":
    main()
