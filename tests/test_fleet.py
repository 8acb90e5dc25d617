"""A run that processes share: workers of `--devices`, array jobs of `--shard`, Ray's actors; some are killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from material import CLASSES, Setup, TinyNetworks, contents, crawl, flags, start_f2f, wait_for
from ray_run import label_while_a_node_is_killed

from f2f.engine import MachineError, Progress, RunMismatchError, UsageError, label, read_summary
from f2f.engine.files import make_folder
from f2f.engine.fleet import _Board
from f2f.engine.job import Job
from f2f.engine.local_crew import spread_cores
from f2f.engine.options import LabelOptions, SpreadOptions
from f2f.engine.run import join_run
from f2f.engine.worker import Done, Event, Lost, Tally

NAMES = tuple(f"{query}/{number}.mp4" for query in CLASSES for number in range(4))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *NAMES, frames=48)


@pytest.fixture(scope="module")
def alone(videos: Path, tmp_path_factory: pytest.TempPathFactory, networks: TinyNetworks) -> dict[str, bytes]:
    """What one process writes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    label(Setup().options(videos, out, networks))
    return contents(out)


@pytest.fixture
def options(videos: Path, tmp_path: Path, networks: TinyNetworks) -> LabelOptions:
    return Setup().options(videos, tmp_path / "out", networks)


def workers_of(process: int) -> list[int]:
    """Process ids of the workers that a process has."""
    listed = Path(f"/proc/{process}/task").glob("*/children")
    children = [int(child) for path in listed for child in _of_process(path).split()]
    return [child for child in children if "worker_child" in _of_process(Path(f"/proc/{child}/cmdline"))]


def is_alive(process: int) -> bool:
    status = _of_process(Path(f"/proc/{process}/status"))
    return bool(status) and "\nState:\tZ" not in status


def _of_process(file: Path) -> str:
    """Empty where the process, or the thread, has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return file.read_text()
    return ""


def stop_at_work(process: subprocess.Popen[str], out: Path) -> list[int]:
    """Stop a run with workers that has committed something, else it may end meanwhile; its workers."""
    wait_for(lambda: len(list((out / "shards").glob("*.json"))) > 0, process)
    process.send_signal(signal.SIGSTOP)
    return workers_of(process.pid)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# ---- workers on this machine


def test_workers_write_the_same_bytes(options: LabelOptions, alone: dict[str, bytes]) -> None:
    seen: list[Progress] = []
    summary = label(
        replace(options, spread=SpreadOptions(devices="cpu,cpu,cpu")), lambda progress: seen.append(replace(progress))
    )
    assert (summary.ok, summary.pending) == (len(NAMES), 0)
    assert contents(options.out) == alone
    assert (seen[-1].settled, seen[-1].masks, seen[-1].committed_shards) == (len(NAMES), summary.masks, 6)
    assert workers_of(os.getpid()) == []


def test_folders_are_made_while_others_remove_them(tmp_path: Path) -> None:
    shared, over = tmp_path / "out" / ".staging", threading.Event()

    def remove() -> None:
        while not over.is_set():
            with suppress(OSError):
                shared.rmdir()
            time.sleep(1e-4)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for number in range(2000):
            make_folder(shared / str(number))
            (shared / str(number)).rmdir()
    finally:
        over.set()
        remover.join()
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        make_folder(tmp_path / "file" / "folder")


def test_a_killed_worker_costs_a_retry_and_not_a_label(options: LabelOptions, alone: dict[str, bytes]) -> None:
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.frames and not killed:
            killed.append(workers_of(os.getpid())[0])
            os.kill(killed[-1], signal.SIGKILL)

    summary = label(replace(options, spread=SpreadOptions(devices="cpu,cpu")), kill_one)
    assert killed
    assert summary.ok == len(NAMES)
    assert contents(options.out) == alone


def test_a_worker_that_cannot_start(options: LabelOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(MachineError, match="a worker ended with exit code 1 before it could start"):
        label(replace(options, spread=SpreadOptions(devices="cpu")))


def test_a_refusal_of_a_worker_arrives_as_it_is(options: LabelOptions) -> None:
    def spoil(_: str) -> None:
        raise AssertionError

    label(options, on_override=spoil)
    (options.out / "shards" / "000001.json").unlink()
    (options.out / "voc" / "JPEGImages").rename(options.out / "voc" / "kept")
    (options.out / "voc" / "JPEGImages").write_text("in the way")
    with pytest.raises(MachineError, match=r"while writing .*JPEGImages"):
        label(replace(options, spread=SpreadOptions(devices="cpu")))


def test_ctrl_c_ends_workers_too(options: LabelOptions, networks: TinyNetworks, alone: dict[str, bytes]) -> None:
    arguments = ["label", options.source, "--out", str(options.out), *flags(networks), "--devices", "cpu,cpu"]
    with start_f2f(*arguments) as process:
        workers = stop_at_work(process, options.out)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        said = process.communicate()
    assert process.returncode == 130, said
    assert "Traceback" not in said[1]
    assert workers
    assert not any(map(is_alive, workers))
    assert label(options).ok == len(NAMES)
    assert contents(options.out) == alone


def test_workers_end_with_their_parent(options: LabelOptions, networks: TinyNetworks, alone: dict[str, bytes]) -> None:
    arguments = ["label", options.source, "--out", str(options.out), *flags(networks), "--devices", "cpu,cpu"]
    with start_f2f(*arguments) as process:
        workers = stop_at_work(process, options.out)
        process.kill()
    assert workers
    wait_until(lambda: not any(map(is_alive, workers)))
    assert label(options).ok == len(NAMES)
    assert contents(options.out) == alone


def test_cores_are_shared_out_where_there_are_enough() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert spread_cores(1, len(cores)) == [tuple(cores)]
    assert spread_cores(len(cores), 1) == [(core,) for core in cores]
    assert spread_cores(2, len(cores)) == [(), ()]


@pytest.mark.parametrize(
    ("spread", "message"),
    [
        ({"devices": "gpu"}, "--devices gpu is not accepted; accepted: numbers of GPUs or the word cpu"),
        ({"devices": "0,,1"}, "--devices 0,,1 is not accepted"),
        ({"shard": "3/3"}, "--shard 3/3 is not accepted; accepted: i/n with i from 0 to n-1"),
        ({"shard": "1"}, "--shard 1 is not accepted"),
        ({"devices": "cpu", "ray": "auto"}, "--ray auto with --devices is not accepted"),
        ({"ray_actors": -1}, "--ray-actors -1 is not accepted"),
    ],
)
def test_wrong_values(spread: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        SpreadOptions(**spread)  # type: ignore[arg-type]  # meant to be wrong


def test_a_gpu_that_is_not_there(options: LabelOptions) -> None:
    with pytest.raises(UsageError, match=r"--devices 9999 is not accepted: .* accepted: cpu, or numbers below"):
        label(replace(options, spread=SpreadOptions(devices="9999")))


def test_a_worker_refuses_what_differs(options: LabelOptions) -> None:
    label(options)
    job = Job.open(options)
    assert join_run(options.out, job.decisive, job.rows, 1).pending_shards() == [0, 2, 3, 4, 5]
    with pytest.raises(RunMismatchError, match=r"a worker on .*\n  decoder: PyAV .* -> other\naccepted: the same"):
        join_run(options.out, {**job.decisive, "decoder": "other"}, job.rows, 1)
    with pytest.raises(RunMismatchError, match=r"input blue/0.mp4: pinned -> not found"):
        join_run(options.out, job.decisive, [row for row in job.rows if row.id != "blue/0.mp4"], 1)


# ---- the ledger of shards


@given(st.lists(st.sampled_from(["ready", "tally", "done", "lost"]), max_size=60), st.randoms(use_true_random=False))
def test_every_shard_is_done_once_or_given_up(what: list[str], random: object) -> None:
    board = _Board(deque(range(5)), Progress(100, settled=95))
    started = 3
    joining, working = {0, 1, 2}, dict[int, int]()
    finished: Counter[int] = Counter()
    for kind in [*what, *("ready", "done") * 40]:
        if board.is_over:
            break
        pool = sorted(joining) if kind == "ready" else sorted(working)
        if not pool:
            continue
        worker = random.choice(pool)  # type: ignore[attr-defined]
        event: Event = "ready"
        if kind == "ready":
            joining.remove(worker)
        elif kind == "tally":
            event = Tally(settled=1)
        elif kind == "done":
            event = Done(Tally(settled=1))
            finished[working.pop(worker)] += 1
        else:
            event = Lost("was ended")
            del working[worker]
            joining.add(started)
            started += 1
        board.note(worker, event)
        working.update(board.assign())
    assert board.is_over
    assert {*finished} | {*board.given_up} == set(range(5))
    assert not {*finished} & {*board.given_up}
    assert set(finished.values()) <= {1}
    assert board.progress.settled == 95 + len(finished)
    assert board.progress.committed_shards == len(finished)


def test_a_shard_that_kills_its_workers_is_given_up_and_told() -> None:
    board = _Board(deque([0, 1]), Progress(4))
    for worker in range(3):
        board.note(worker, "ready")
        assert board.assign() == [(worker, 0)]
        board.note(worker, Lost("was ended by SIGKILL"))
    board.note(3, "ready")
    assert board.assign() == [(3, 1)]
    board.note(3, Done(Tally(settled=2)))
    assert board.is_over
    with pytest.raises(MachineError, match=r"3 times over the same shard \(shard 0: was ended by SIGKILL\)"):
        board.raise_given_up()


# ---- array jobs


def test_array_jobs_write_the_same_bytes(options: LabelOptions, alone: dict[str, bytes]) -> None:
    for part, pending in ((1, 8), (0, 4), (2, 0)):
        assert label(replace(options, spread=SpreadOptions(shard=f"{part}/3"))).pending == pending
    assert contents(options.out) == alone


def test_array_jobs_at_the_same_time(options: LabelOptions, networks: TinyNetworks, alone: dict[str, bytes]) -> None:
    base = ["label", options.source, "--out", str(options.out), *flags(networks)]
    jobs = [start_f2f(*base, "--shard", f"{part}/2") for part in range(2)]
    said = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert read_summary(options.out).pending == 0
    assert contents(options.out) == alone


# ---- Ray


def test_ray_with_a_node_that_is_killed(options: LabelOptions, alone: dict[str, bytes]) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    heard, told = get_context("spawn").Pipe(duplex=False)
    apart = get_context("spawn").Process(target=label_while_a_node_is_killed, args=(options, told))
    apart.start()
    told.close()
    assert heard.recv() == (len(NAMES), 1)
    apart.join()
    assert contents(options.out) == alone


def test_ray_without_a_cluster(options: LabelOptions) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(UsageError, match=r"--ray 127\.0\.0\.1:1: no cluster answers"):
        label(replace(options, spread=SpreadOptions(ray="127.0.0.1:1")))


def test_ray_is_not_installed(options: LabelOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"--ray needs Ray, which is not installed; install f2f\[ray\]"):
        label(replace(options, spread=SpreadOptions(ray="auto")))
