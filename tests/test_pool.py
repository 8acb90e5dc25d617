"""The decode pool: the same frames for any number of children; what a child's death, hang or orphanage costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from material import pictures, write_video

import f2f.engine.pool as pool_module
import f2f.engine.ring as ring_module
from f2f.engine.errors import MachineError
from f2f.engine.options import DecodeOptions
from f2f.engine.pool import DecodePool
from f2f.engine.ring import FrameRing
from f2f.engine.types import Frame, InputRow, VideoEnd

SLOTS = 8


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pool")
    return [write_video(folder / f"{n}.mp4", pictures("red", 12 + 6 * n, seed=n)) for n in range(6)]


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", pictures("red", 30) * 10)


def options(decoders: int = 1, timeout: float = 60) -> DecodeOptions:
    return DecodeOptions(sample_fps=12, max_side=96, decoders=decoders, decode_timeout_seconds=timeout)


def rows(paths: list[Path]) -> Iterator[tuple[int, InputRow]]:
    for number, path in enumerate(paths):
        yield number, InputRow(path.name, path.name, "red", str(path))


def ends(items: list[Frame | VideoEnd]) -> dict[int, VideoEnd]:
    return {item.video: item for item in items if isinstance(item, VideoEnd)}


def children(pool: DecodePool) -> list[int]:
    return [child.process.pid for child in pool._children]


def ring_files() -> set[str]:
    return {str(path) for folder in ("/dev/shm", "/tmp") for path in Path(folder).glob(f"f2f-ring-{os.getpid()}-*")}  # noqa: S108


@pytest.fixture(autouse=True)
def nothing_is_left_over() -> Iterator[None]:
    before = ring_files()
    yield
    assert ring_files() <= before


@pytest.mark.parametrize("decoders", [1, 2, 4])
def test_same_frames_for_any_number_of_children(videos: list[Path], decoders: int) -> None:
    frames: dict[int, list[Frame]] = defaultdict(list)
    with DecodePool(options(decoders)) as pool:
        for item in pool.frames(rows(videos)):
            if isinstance(item, Frame):
                assert item.report.frames_sampled == len(frames[item.video]) + 1
                frames[item.video].append(item)
            else:
                assert len(frames[item.video]) == item.report.frames_sampled
        assert len(children(pool)) == decoders
        pids = children(pool)
    assert [len(frames[number]) for number in range(6)] == [12, 18, 24, 30, 36, 42]
    for number, taken in frames.items():
        times = [frame.pts_seconds for frame in taken]
        assert np.allclose(times, np.arange(len(taken)) / 12)
        assert all(abs(frame.image[30, 60].astype(int) - taken[0].image[30, 60]).max() < 200 for frame in taken)
        first = pictures("red", 1, seed=number)[0]
        assert np.abs(taken[0].image.astype(int) - first).mean() < 12, "the frames are this video's own"
    assert not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_no_children_without_work() -> None:
    with DecodePool(options(4)) as pool:
        assert list(pool.frames(iter([]))) == []
        assert children(pool) == []


def test_cancel(videos: list[Path], long_video: Path) -> None:
    seen = 0
    with DecodePool(options(1)) as pool:
        for item in pool.frames(rows([long_video, videos[0]])):
            if isinstance(item, Frame) and item.video == 0:
                seen += 1
                pool.cancel(0)
                pool.cancel(0)
                pool.cancel(17)
            elif isinstance(item, VideoEnd) and item.video == 1:
                assert item.report.frames_sampled == 12
    assert seen <= SLOTS + 2


def test_killed_child_costs_its_video_only(videos: list[Path], long_video: Path) -> None:
    items: list[Frame | VideoEnd] = []
    with DecodePool(options(2)) as pool:
        for item in pool.frames(rows([long_video, *videos])):
            items.append(item)
            if isinstance(item, Frame) and item.video == 0 and 0 not in ends(items):
                (victim,) = [child for child in pool._children if child.task and child.task.video == 0]
                victim.process.kill()
    failure = ends(items)[0].failure
    assert failure is not None
    assert (failure.stage, failure.reason, failure.failure) == ("decode", "crashed", "permanent")
    assert "was ended by SIGKILL; last frame at " in failure.detail
    assert ends(items)[0].report.frames_sampled > 0
    assert [ends(items)[number].failure for number in range(1, 7)] == [None] * 6
    assert sum(isinstance(item, Frame) and item.video == 6 for item in items) == 42


def test_child_that_dies_idle_costs_nothing(videos: list[Path]) -> None:
    items: list[Frame | VideoEnd] = []
    with DecodePool(options(1)) as pool:
        for item in pool.frames(rows(videos[:3])):
            items.append(item)
            if isinstance(item, VideoEnd):
                pool._children[0].process.kill()
                pool._children[0].process.wait()
    assert [ends(items)[number].failure for number in range(3)] == [None] * 3


def test_hung_child(videos: list[Path], long_video: Path) -> None:
    items: list[Frame | VideoEnd] = []
    stopped: list[int] = []
    with DecodePool(options(1, timeout=1.5)) as pool:
        for item in pool.frames(rows([long_video, videos[0]])):
            items.append(item)
            if isinstance(item, Frame) and not stopped:
                stopped = children(pool)
                os.kill(stopped[0], signal.SIGSTOP)
    failure = ends(items)[0].failure
    assert failure is not None
    assert failure.reason == "hung"
    assert "showed no progress for 1.5 s (--decode-timeout-seconds); last frame at" in failure.detail
    assert ends(items)[1].failure is None
    assert not is_running(stopped[0])


def test_slow_consumer_is_no_hang(long_video: Path, videos: list[Path]) -> None:
    items: list[Frame | VideoEnd] = []
    with DecodePool(options(2, timeout=2)) as pool:
        for item in pool.frames(rows([long_video, videos[5], videos[4]])):
            items.append(item)
            if len(items) == 20:
                time.sleep(2.5)  # longer than a child may be silent
    assert [ends(items)[number].failure for number in range(3)] == [None] * 3
    assert ends(items)[0].report.frames_sampled == 300


def test_children_wait_for_free_slots(long_video: Path) -> None:
    with DecodePool(options(1)) as pool:
        stream = pool.frames(rows([long_video]))
        first = next(stream)
        assert isinstance(first, Frame)
        time.sleep(1.0)
        taken = pool._children[0].connection
        waiting = []
        while taken.poll():
            waiting.append(taken.recv())
        assert sum(isinstance(message, pool_module.FrameMessage) for message in waiting) <= SLOTS


def test_without_shared_memory(videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "_ring_folder", lambda size_bytes: str(tmp_path))
    with DecodePool(options(2)) as pool:
        found = ends(list(pool.frames(rows(videos[:3]))))
        assert list(tmp_path.iterdir()) == [], "the file has no name once both sides have it mapped"
    assert [end.failure for end in found.values()] == [None] * 3


def test_no_room_for_a_ring(videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ring_module, "_ring_folder", lambda size_bytes: str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with DecodePool(options(1)) as pool, pytest.raises(MachineError, match="the disk is full"):
        list(pool.frames(rows(videos)))
    assert list(tmp_path.iterdir()) == []


def test_child_that_cannot_start(videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is wrong with the machine, not with the videos."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecodePool(options(1)) as pool, pytest.raises(MachineError, match="before it could start"):
        list(pool.frames(rows(videos)))


def test_ring_keeps_pixels(tmp_path: Path) -> None:
    ring = FrameRing.create(2, 4096)
    other = FrameRing(ring.path, 2, 4096)
    ring.unlink()
    images = [np.full((20, 30, 3), value, np.uint8) for value in (3, 4)]
    for slot, image in enumerate(images):
        ring.put(slot, image)
    assert all((other.take(slot, (20, 30)) == image).all() for slot, image in enumerate(images))
    other.close()
    ring.close()


def test_children_end_when_the_parent_is_gone(long_video: Path) -> None:
    script = f"""
from f2f.engine.options import DecodeOptions
from f2f.engine.pool import DecodePool
from f2f.engine.types import InputRow
import time
pool = DecodePool(DecodeOptions(sample_fps=12, max_side=96, decoders=1))
next(pool.frames(iter([(0, InputRow("x", "x", "red", {str(long_video)!r}))])))
print(pool._children[0].process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    wait_until_gone(child)


def test_a_script_without_main_guard(long_video: Path, tmp_path: Path) -> None:
    """The caller's script is not imported in the children, whatever it does at its top level."""
    script = tmp_path / "script.py"
    script.write_text(
        "from f2f.engine.options import DecodeOptions\n"
        "from f2f.engine.pool import DecodePool\n"
        "from f2f.engine.types import InputRow, VideoEnd\n"
        "with DecodePool(DecodeOptions(max_side=96, decoders=2)) as pool:\n"
        f"    items = list(pool.frames(iter([(0, InputRow('x', 'x', 'red', {str(long_video)!r}))])))\n"
        "print(items[-1].failure, len(items))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "None 151\n"
