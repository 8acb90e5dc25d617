"""Long and many: memory of a 2-hour video beside a 2-minute one, a manifest of 100,000 rows, 10,000 one-second videos.

python benchmarks/long.py [--only memory,manifest,many] [--scale 1.0]

Videos are generated; networks are the tests' tiny ones, so that what is measured is the engine. Times are the best of
three. Peak memory is the sum of peak RSS of `f2f label` and its decoding processes, as the kernel counts it; memory at
a time is the sum of their PSS (shared pages counted once), sampled five times a second. Rows go to `results/long.csv`;
`--scale` makes everything smaller, to try it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from record import read_rows, write_rows

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # its videos and networks

from material import TinyNetworks, f2f_command, pictures, write_video

_FPS, _CUT_SECONDS = 12, 20
_REPEATS, _DECODERS = 3, 2
_PACKAGES = ("av", "onnxruntime", "pyarrow", "numpy")
Row = dict[str, object]


@dataclass(frozen=True)
class Sample:
    """What a run used at a moment."""

    seconds: float
    pss_mb: float
    descriptors: int


@dataclass(frozen=True)
class Watched:
    """What a run used."""

    samples: list[Sample]
    peak_rss_mb: float


def watched(arguments: list[str | Path]) -> Watched:
    """Run `f2f` and look at it and its children five times a second.

    Raises:
        RuntimeError: it did not end with 0 or, where inputs are missing, 3.
    """
    process = subprocess.Popen(f2f_command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    start, samples, peaks = time.monotonic(), list[Sample](), dict[int, float]()
    ended, status, usage = 0, 0, None
    while not ended:
        children = _children(process.pid)
        tree = [process.pid, *children]
        pss = sum(_pss_mb(pid) for pid in tree)
        samples.append(Sample(time.monotonic() - start, pss, sum(_descriptors(pid) for pid in tree)))
        peaks.update({pid: peak for pid in children if (peak := _memory_mb(pid, "status", "VmHWM:"))})
        time.sleep(0.2)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stderr is not None
    assert usage is not None
    said = process.stderr.read().decode()
    if process.returncode not in {0, 3}:
        raise RuntimeError(f"f2f ended with {process.returncode}: {said[-2000:]}")
    return Watched(samples, usage.ru_maxrss / 1024 + sum(sorted(peaks.values())[-_DECODERS:]))


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _pss_mb(pid: int) -> float:
    return _memory_mb(pid, "smaps_rollup", "Pss:")


def _memory_mb(pid: int, file: str, entry: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names alone are wanted
    except OSError:
        return 0


def label_flags(source: Path, out: Path, networks: TinyNetworks, *more: str) -> list[str | Path]:
    """A run by all stages of rule f2f."""
    files = ("--classifier", networks.classifier, "--flow", networks.flow)
    return [
        "label",
        source,
        "--out",
        out,
        *files,
        "--max-side",
        "160",
        "--decoders",
        str(_DECODERS),
        "--windows",
        "all",
        *more,
    ]


def memory_rows(folder: Path, networks: TinyNetworks, scale: float) -> Iterator[Row]:
    """Peak memory by the length of the video."""
    peaks = {}
    for name, seconds in (("2 minutes", 120 * min(1.0, scale * 10)), ("2 hours", 7200 * scale)):
        source = folder / name / "red"
        write_long_video(source / "video.mp4", seconds)
        flags = label_flags(source.parent, folder / f"out {name}", networks, "--sample-fps", "6")
        peaks[name] = watched(flags).peak_rss_mb
        yield _row(f"peak memory, a video of {name}", round(peaks[name], 1), "MB")
    ratio = peaks["2 hours"] / peaks["2 minutes"]
    yield _row("peak memory, 2 hours by 2 minutes", round(ratio, 3), "", "≤ 1.1", ratio <= 1.1)


def write_long_video(path: Path, seconds: float) -> None:
    """A square that moves to and fro, and a cut every 20 s."""
    looks = [pictures("red", _FPS * 4, width=160, height=96, seed=seed) for seed in range(4)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "20"}
        for number in range(int(seconds * _FPS)):
            shot = looks[number // (_CUT_SECONDS * _FPS) % len(looks)]
            there, step = divmod(number, len(shot))
            frame = av.VideoFrame.from_ndarray(shot[step if there % 2 == 0 else len(shot) - 1 - step], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def manifest_rows(folder: Path, networks: TinyNetworks, scale: float) -> Iterator[Row]:
    """Start, end and going on of a run of 100,000 inputs, of which 99,900 are missing."""
    inputs, out = int(100_000 * scale), folder / "out"
    source = write_manifest(folder / "source", inputs)
    run = label_flags(source, out, networks)
    starts = [_seconds_to_first_frame(run, out) for _ in range(_REPEATS)]
    yield _row(
        f"{inputs:,} rows: until the first video is decoded", round(min(starts), 1), "s", "≤ 5", min(starts) <= 5
    )
    seconds = _seconds(lambda: watched(run))
    yield _row(f"{inputs:,} rows, 99.9 % missing: the whole run", round(seconds, 1), "s")
    again = min(_seconds(lambda: _f2f(*run)) for _ in range(_REPEATS))
    yield _row(f"{inputs:,} rows: a finished run is found finished", round(again, 1), "s", "≤ 10", again <= 10)
    yield _row(f"{inputs:,} rows: f2f status", round(_seconds(lambda: _f2f("status", out)), 1), "s")
    yield _row(f"{inputs:,} rows: f2f verify", round(_seconds(lambda: _f2f("verify", out)), 1), "s")


def write_manifest(folder: Path, inputs: int) -> Path:
    """One row in a thousand names a video, the others a file that is not there."""
    write_video(folder / "video.mp4", pictures("red", 24))
    names = []
    for number in range(inputs):
        names.append(f"there/{number}.mp4" if number % 1000 == 0 else f"gone/{number % 100}/{number}.mp4")
        if number % 1000 == 0:
            (folder / "there").mkdir(exist_ok=True)
            shutil.copy(folder / "video.mp4", folder / names[-1])
    (folder / "manifest.csv").write_text("video,query\n" + "".join(f"{name},red\n" for name in names))
    return folder / "manifest.csv"


_TO_FIRST_FRAME = """
import sys, time
start = time.monotonic()
from f2f.engine import pool
from f2f.engine.cli import main
give = pool.DecodePool._give
def tell(*given):
    print(time.monotonic() - start, flush=True)
    pool.os._exit(0)
pool.DecodePool._give = tell
main(sys.argv[1:])
"""


def _seconds_to_first_frame(run: list[str | Path], out: Path) -> float:
    """From the start of the program until the first video is given to a decoding process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", _TO_FIRST_FRAME, *map(str, run)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(out)
    return float(done.stdout)


def many_rows(folder: Path, networks: TinyNetworks, scale: float) -> Iterator[Row]:
    """What a run uses after a tenth of many short videos, and at its end."""
    videos, source = int(10_000 * scale), folder / "source" / "red"
    for seed in range(10):
        write_video(folder / f"{seed}.mp4", pictures("red", _FPS, seed=seed))
    source.mkdir(parents=True)
    for number in range(videos):
        os.link(folder / f"{number % 10}.mp4", source / f"{number:05d}.mp4")
    start = time.monotonic()
    flags = label_flags(source.parent, folder / "out", networks, "--window-frames", "3", "--rule", "paper")
    samples = watched(flags).samples
    yield _row(f"{videos:,} one-second videos: rate", round(videos / (time.monotonic() - start), 1), "videos/s")
    tenth = len(samples) // 10
    early, late = samples[tenth : 2 * tenth], samples[-tenth - 1 : -1]
    grown = _median(late, lambda sample: sample.pss_mb) / _median(early, lambda sample: sample.pss_mb)
    opened = _median(late, lambda sample: sample.descriptors) - _median(early, lambda sample: sample.descriptors)
    yield _row(
        f"{videos:,} one-second videos: memory, last tenth by second", round(grown, 3), "", "≤ 1.1", grown <= 1.1
    )
    yield _row(f"{videos:,} one-second videos: descriptors more at the end", opened, "", "0", opened <= 0)


def _median(samples: list[Sample], of: Callable[[Sample], float]) -> float:
    values = sorted(of(sample) for sample in samples)
    return values[len(values) // 2]


def _f2f(*arguments: str | Path) -> None:
    done = subprocess.run(f2f_command(*arguments), capture_output=True, text=True, check=False)
    if done.returncode not in {0, 3}:
        raise RuntimeError(f"f2f {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")


def _seconds(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def _row(what: str, value: float, unit: str, target: str = "", met: bool | None = None) -> Row:
    row: Row = {"what": what, "value": value, "unit": unit, "target": target}
    row["met"] = "" if met is None else "yes" if met else "no"
    print(row, flush=True)
    return row


PARTS = {"memory": memory_rows, "manifest": manifest_rows, "many": many_rows}


def main() -> None:
    """Measure, and keep the rows of parts that are not measured this time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    for part in given.only.split(","):
        with tempfile.TemporaryDirectory(prefix="f2f-long-") as name:
            networks = TinyNetworks.write(Path(name))
            rows = [{"part": part, **row} for row in PARTS[part](Path(name), networks, given.scale)]
        try:
            kept = [row for row in read_rows("long") if row["part"] != part]
        except FileNotFoundError:
            kept = []
        print(write_rows("long", [*kept, *rows], _PACKAGES))


if __name__ == "__main__":
    main()
