"""What machines do to a run: kills, hangs, full and read-only disks, files and clocks that change, any order.

`make chaos` kills it more often.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from material import CLASSES, SQUARE_PX, Setup, TinyNetworks, contents, crawl, flags, masks, records, square_corner
from PIL import Image

from f2f.engine import MachineError, Progress, RunMismatchError, label
from f2f.engine.options import LabelOptions
from f2f.engine.pool import DecodePool
from f2f.engine.retry import Choice, retry
from f2f.engine.status import read_status
from f2f.engine.types import Frame, ImageArray, InputRow, VideoEnd
from f2f.engine.verify import verify

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts that import their neighbours

from chaos import FORMATS, Job, at_a_touch, survive

NAMES = tuple(f"{query}/{number}.mp4" for query in CLASSES for number in range(2))
FRAMES = 96
"""longer than what lies between a decoding process and the stages, so that a video can change while it is read"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *NAMES, frames=FRAMES)


@pytest.fixture(scope="module", params=FORMATS)
def setup(request: pytest.FixtureRequest) -> Setup:
    return Setup(format=request.param)


@pytest.fixture(scope="module")
def finished(setup: Setup, videos: Path, tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert label(setup.options(videos, out, networks)).ok == 6
    return out


def results(out: Path) -> dict[str, bytes]:
    """What must be the same whatever happened: all but records of attempts."""
    found = contents(out)
    return {name: data for name, data in found.items() if name.startswith(("voc/", "webdataset/", "labels.parquet"))}


# ---- kills


def test_killed_again_and_again(
    setup: Setup, videos: Path, finished: Path, tmp_path: Path, networks: TinyNetworks, seed: int
) -> None:
    job = Job(videos, tmp_path / "out", tuple(flags(networks, "--sample-fps", "6", "--format", setup.format)))
    assert survive(job, at_a_touch(250 if setup.format == "voc" else 60), 3, finished, random.Random(seed)) >= 1


def at_frame(number: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    """Act once, as soon as so many frames were looked at."""
    waiting = [act]

    def on_progress(progress: Progress) -> None:
        if waiting and progress.frames >= number:
            waiting.pop()()

    return on_progress


def _maps_of(process: str) -> str:
    """Empty where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/maps").read_text()
    return ""


def signal_a_child(number: signal.Signals) -> None:
    """Send a signal to a decoding process that is at work: another may still be starting, which is another matter."""
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")  # a process is its thread's child
    children = " ".join(path.read_text() for path in tasks).split()
    at_work = [int(child) for child in children if "f2f-ring-" in _maps_of(child)]
    os.kill(at_work[0], number)


@pytest.mark.skipif(not Path(f"/proc/{os.getpid()}/task").is_dir(), reason="children are found in /proc")
@pytest.mark.parametrize(
    ("number", "reason", "words"),
    [(signal.SIGKILL, "crashed", "was ended by SIGKILL"), (signal.SIGSTOP, "hung", "showed no progress for 1.5 s")],
)
def test_a_decoding_process_dies_or_hangs(
    setup: Setup,
    videos: Path,
    finished: Path,
    tmp_path: Path,
    networks: TinyNetworks,
    number: signal.Signals,
    reason: str,
    words: str,
) -> None:
    options = replace(setup, decoders=2, decode_timeout_seconds=1.5).options(videos, tmp_path / "out", networks)
    summary = label(options, at_frame(16, lambda: signal_a_child(number)))
    assert (summary.ok, summary.failed, summary.reasons) == (5, 1, {reason: 1})
    (failed,) = (record for record in records(options.out).values() if record["status"] == "failed")
    assert words in failed["detail"]
    assert re.search(r"last frame at [\d.]+ s|no frame", failed["detail"])
    assert verify(options.out).problems == ()
    assert retry(options.out, Choice(reason=reason)).pending == (failed["id"],)
    assert label(options).ok == 6
    assert results(options.out) == results(finished)


# ---- disks


def in_a_small_disk(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own."""
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *map(str, arguments)], check=False, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("disk")
    if not shutil.which("unshare") or in_a_small_disk('mount -t tmpfs -o size=64k small "$1"', place).returncode:
        pytest.skip("mounting a small file system is not permitted here")


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_is_full_and_then_larger(
    setup: Setup, videos: Path, finished: Path, tmp_path: Path, networks: TinyNetworks
) -> None:
    job = Job(videos, tmp_path / "disk" / "out", tuple(flags(networks, "--format", setup.format)))
    job.out.parent.mkdir()
    script = (
        'disk="$1"; copy="$2"; shift 2; mount -t tmpfs -o size=160k small "$disk" || exit 9\n'
        '"$@"; echo "first: $?" >&2; ls "$disk/out/shards" >&2\n'
        'mount -o remount,size=64m "$disk" || exit 9\n'
        '"$@"; echo "second: $?" >&2; cp -r "$disk/out" "$copy"'
    )
    done = in_a_small_disk(script, job.out.parent, tmp_path / "copy", *job.command())
    assert "f2f: the disk is full (while writing" in done.stderr, done.stderr
    assert "mend it and run the same command again to go on" in done.stderr
    assert "first: 1\n" in done.stderr
    assert "second: 0\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert results(tmp_path / "copy") == results(finished)
    assert verify(tmp_path / "copy").problems == ()


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_becomes_read_only(
    setup: Setup, videos: Path, finished: Path, tmp_path: Path, networks: TinyNetworks
) -> None:
    job = Job(videos, tmp_path / "disk" / "out", tuple(flags(networks, "--format", setup.format)))
    job.out.parent.mkdir()
    script = (
        'disk="$1"; copy="$2"; shift 2; mount -t tmpfs -o size=64m small "$disk" || exit 9\n'
        '"$@" & while ! ls "$disk"/out/shards/*.json 2>/dev/null; do kill -0 $! || exit 8; sleep .01; done\n'
        # The run holds a lock, so its file system stays writable; what is mounted over it need not be.
        'kill -STOP $!; mount --bind "$disk/out" "$disk/out"; mount -o remount,bind,ro "$disk/out" || exit 9\n'
        'kill -CONT $!; wait $!; echo "first: $?" >&2; "$@"; echo "second: $?" >&2\n'
        'umount "$disk/out"; "$@"; echo "third: $?" >&2; cp -r "$disk/out" "$copy"'
    )
    done = in_a_small_disk(script, job.out.parent, tmp_path / "copy", *job.command())
    assert "the file system is read-only (while writing" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.endswith((": 0", ": 1"))] == [
        *("first: 1", "second: 1", "third: 0")
    ], done.stderr
    assert "Traceback" not in done.stderr
    assert results(tmp_path / "copy") == results(finished)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_whatever_write_the_disk_refuses(
    setup: Setup,
    videos: Path,
    finished: Path,
    tmp_path: Path,
    networks: TinyNetworks,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Every fifth: files aside, tars, records, tables; where no small disk can be mounted too."""
    options = setup.options(videos, tmp_path / "out", networks)
    write, fsync = Path.write_bytes, os.fsync
    left = [0]

    def refuse() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(number, os.strerror(number))

    def write_bytes(self: Path, data: bytes) -> int:
        refuse()
        return write(self, data)

    def sync(handle: int) -> None:
        refuse()
        fsync(handle)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    monkeypatch.setattr(os, "fsync", sync)
    for left[0] in (1, 7, 30):
        with pytest.raises(MachineError, match="mend it and run the same command again to go on"):
            label(options)
        if (options.out / "run.json").exists():
            assert not [one for one in verify(options.out).problems if one.kind == "damaged"]
    left[0] = 0
    assert label(options).ok == 6
    assert contents(options.out) == contents(finished)


# ---- files and clocks that change


def grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"\0" * 64)


def replace_by_another(path: Path) -> None:
    shutil.copy(path.parent.parent / "red" / "0.mp4", path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Path.unlink, "while it was read: the file is not there"),
        (grow, "the file was written to while it was read"),
        (replace_by_another, "the file was written to while it was read"),
        (Path.touch, "the file was written to while it was read"),
    ],
    ids=["gone", "grown", "another", "touched"],
)
def test_a_video_that_changes_while_it_is_read(
    videos: Path, tmp_path: Path, networks: TinyNetworks, change: Callable[[Path], None], words: str
) -> None:
    source = Path(shutil.copytree(videos, tmp_path / "videos"))
    changing = source / "blue" / "0.mp4"
    options = Setup().options(source, tmp_path / "out", networks)
    summary = label(options, at_frame(16, lambda: change(changing)))
    assert (summary.ok, summary.failed, summary.reasons) == (5, 1, {"changed": 1})
    record = records(options.out)["blue/0.mp4"]
    assert (record["stage"], record["failure"], record["masks"]) == ("decode", "transient", 0)
    assert words in record["detail"]
    shutil.copy2(videos / "blue" / "0.mp4", changing)
    assert retry(options.out, Choice(failure="transient")).pending == ("blue/0.mp4",)
    assert label(options).ok == 6
    label(replace(options, source=str(videos), out=tmp_path / "whole"))
    assert results(options.out) == results(tmp_path / "whole")


def test_a_video_that_disappears_before_it_is_read(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    source = Path(shutil.copytree(videos, tmp_path / "videos"))
    options = Setup().options(source, tmp_path / "out", networks)
    summary = label(options, at_frame(16, (source / "red" / "1.mp4").unlink))
    assert (summary.ok, summary.reasons) == (5, {"missing": 1})
    assert records(options.out)["red/1.mp4"]["failure"] == "transient"


def test_a_video_that_was_replaced_since(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    source = Path(shutil.copytree(videos, tmp_path / "videos"))
    options = Setup(max_windows=1).options(source, tmp_path / "out", networks)
    label(options)
    size = (source / "blue" / "0.mp4").stat().st_size
    assert records(options.out)["blue/0.mp4"]["file_bytes"] == size
    for path in source.rglob("*.mp4"):
        path.touch()  # as after a copy
    before = contents(options.out)
    assert label(options).ok == 6
    assert contents(options.out) == before
    grow(source / "blue" / "0.mp4")
    with pytest.raises(RunMismatchError, match=f"blue/0.mp4 was a file of {size} bytes and is now of {size + 64}"):
        label(options)
    said: list[str] = []
    assert label(replace(options, force=True), on_override=said.append).ok == 6
    assert "1 of 3 committed shards are done anew" in said[0]
    assert records(options.out)["blue/0.mp4"]["file_bytes"] == size + 64


def test_a_clock_that_jumps(
    setup: Setup,
    videos: Path,
    finished: Path,
    tmp_path: Path,
    networks: TinyNetworks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forwards by a day, back by two: no watchdog bites, nothing is done twice, status counts no negative time."""
    jumps = itertools.cycle((-172_800.0, 0.0, 86_400.0))
    true_time = time.time

    def jumping() -> float:
        return true_time() + next(jumps)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    options = replace(setup, decoders=2).options(videos, tmp_path / "out", networks)
    seen: list[float] = []
    label(options, at_frame(16, lambda: seen.extend(one.seconds for one in read_status(options.out).live)))
    assert seen
    assert min(seen) >= 0
    assert contents(options.out) == contents(finished)


# ---- order


def shuffled(items: Iterable[Frame | VideoEnd], rng: random.Random) -> Iterator[Frame | VideoEnd]:
    """The same, each video's in order, but whose turn it is is chance."""
    queues: dict[int, deque[Frame | VideoEnd]] = {}
    for item in items:
        queues.setdefault(item.video, deque()).append(item)
    while queues:
        video = rng.choice(sorted(queues))
        yield queues[video].popleft()
        if not queues[video]:
            del queues[video]


def frame_at(path: Path, pts_seconds: float) -> ImageArray:
    with av.open(str(path)) as container:
        frame = next(one for one in container.decode(video=0) if abs(one.time - pts_seconds) < 1e-6)
        return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def check_identity(options: LabelOptions) -> None:
    """Every mask is of the frame beside it, which is that of its video at its time; looked up in the source anew."""
    for mask in masks(options.out):
        frame = np.asarray(Image.open(options.out / "voc" / "JPEGImages" / f"{mask['id']}.jpg")).astype(int)
        true = frame_at(Path(options.source) / mask["video"], mask["pts_seconds"][-1]).astype(int)
        assert np.abs(frame - true).mean() < 4, mask
        labels = np.asarray(Image.open(options.out / "voc" / "SegmentationClass" / f"{mask['id']}.png"))
        top, left = square_corner(96, 64, round(12 * mask["pts_seconds"][-1]))
        truth = np.zeros((64, 96), bool)
        truth[top : top + SQUARE_PX, left : left + SQUARE_PX] = True
        predicted = labels == CLASSES.index(mask["query"]) + 1
        assert (predicted & truth).sum() / (predicted | truth).sum() > 0.5, mask


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_mask_is_ever_of_another_frame(
    setup: Setup,
    videos: Path,
    finished: Path,
    tmp_path: Path,
    networks: TinyNetworks,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    honest = DecodePool.frames

    def frames(self: DecodePool, rows: Iterable[tuple[int, InputRow]]) -> Iterator[Frame | VideoEnd]:
        return shuffled(honest(self, rows), random.Random(seed))

    monkeypatch.setattr(DecodePool, "frames", frames)
    options = replace(setup, decoders=2).options(videos, tmp_path / "out", networks)
    ends: list[int] = []
    label(options, lambda progress: ends.append(progress.settled))
    assert contents(options.out) == contents(finished)
    if setup.format == "voc":
        check_identity(options)
