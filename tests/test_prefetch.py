"""Stages that work at the same time: order, errors, early ends, what threads leave behind; what a run says of time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from material import CLASSES, Setup, TinyNetworks, contents, crawl, f2f_command, flags
from rich.console import Console

from f2f.engine import MachineError, Progress, label
from f2f.engine.account import Account, Stopwatch, account
from f2f.engine.errors import UsageError
from f2f.engine.metrics import serve_metrics
from f2f.engine.prefetch import Lanes
from f2f.engine.progress import print_account
from f2f.engine.stage import StageClock
from f2f.engine.verify import verify


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("f2f-")]


def ahead_of(lanes: Lanes, items: Iterator[int]) -> Iterator[int]:
    return lanes.prefetch(items, "maker", "taker")


# ---- the queue between two stages


@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_the_same_items_in_the_same_order(items: list[int], ahead: int) -> None:
    with Lanes(StageClock(), ahead=ahead) as lanes:
        assert list(ahead_of(lanes, ahead_of(lanes, iter(items)))) == items
    assert threads() == []


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("why")

    seen = []
    with pytest.raises(KeyError, match="why"), Lanes(StageClock()) as lanes:  # noqa: PT012 - what came before matters
        for item in ahead_of(lanes, ahead_of(lanes, items())):
            seen.append(item)
    assert seen == [1, 2]
    assert threads() == []


def test_no_more_is_made_than_is_asked_for() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with Lanes(StageClock(), ahead=2) as lanes:
        taken = ahead_of(lanes, items())
        assert made == []
        assert threads() == []
        assert [next(taken) for _ in range(3)] == [0, 1, 2]
        end = time.monotonic() + 5
        while len(made) < 6 and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(0.05)
        assert len(made) == 6, "3 taken, 2 in the queue, 1 waits for room"
    assert threads() == []


def test_an_error_ends_what_is_upstream() -> None:
    """Whatever still refers to the generators, a traceback say."""
    stopped = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        assert stopped.wait(30), "nobody said that it is enough"
        yield 2

    kept = []
    with pytest.raises(RuntimeError, match="disk"), Lanes(StageClock(), stopped.set) as lanes:  # noqa: PT012 - as above
        kept.append(ahead_of(lanes, ahead_of(lanes, source())))
        next(kept[0])
        raise RuntimeError("the disk is full")
    assert threads() == []


def test_waits_are_counted_for_whom_they_are() -> None:
    def slow() -> Iterator[int]:
        for number in range(4):
            time.sleep(0.02)
            yield number

    clock = StageClock()
    with Lanes(clock, ahead=1) as lanes:
        assert list(ahead_of(lanes, slow())) == [0, 1, 2, 3]
    assert clock.starved_seconds["taker"] > 0.05
    clock = StageClock()
    with Lanes(clock, ahead=1) as lanes:
        for _ in ahead_of(lanes, iter(range(5))):
            time.sleep(0.02)
    assert clock.blocked_seconds["maker"] > 0.03


# ---- runs


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *(f"{query}/{n}.mp4" for query in CLASSES for n in range(2)))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a mistake"), MemoryError()], ids=repr)
def test_what_ends_a_run_leaves_no_thread(
    videos: Path, tmp_path: Path, networks: TinyNetworks, error: BaseException
) -> None:
    """Raised by whichever thread reports progress; the run goes on as if nothing had been."""
    options = Setup(decoders=2).options(videos, tmp_path / "out", networks)
    whole = label(replace(options, out=tmp_path / "whole"))

    def on_progress(progress: Progress) -> None:
        if progress.frames >= 16:
            raise error

    with pytest.raises(MachineError if isinstance(error, MemoryError) else type(error)):
        label(options, on_progress)
    assert threads() == []
    assert label(options).ok == whole.ok == 6
    assert contents(options.out) == contents(tmp_path / "whole")


def test_progress_is_told_by_one_thread_at_a_time(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    inside, most = 0, 0

    def on_progress(_: Progress) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        inside -= 1

    label(Setup(decoders=2).options(videos, tmp_path / "out", networks), on_progress)
    assert most == 1


# ---- where the time went


def test_the_account_of_a_run(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup(rule="f2f").options(videos, tmp_path / "out", networks)
    summary = label(options)
    spent = summary.account
    assert spent is not None
    assert spent.videos_per_hour == pytest.approx(3600 * 6 / spent.seconds, rel=0.01)
    lanes = {lane.name: lane for lane in spent.lanes}
    assert {"decode", "classify", "cam", "flow", "aggregate", "refine", "write"} <= spent.stages.keys()
    for lane in lanes.values():
        assert 0 <= lane.busy + lane.starved + lane.blocked <= 1.02, lane
    assert 0 < spent.cores_busy <= 1.05
    written = json.loads((options.out / "summary.json").read_text())["account"]
    assert Account.from_json(written) == spent
    assert verify(options.out).problems == (), "time is no matter of the records"
    assert label(options).account == spent, "nothing was to be done"
    console = Console(record=True, width=200)
    print_account(spent, console)
    assert f"held up by {spent.bottleneck}; to be faster: {spent.advice}" in console.export_text()


def test_the_account_of_workers(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    options = Setup().options(videos, tmp_path / "out", networks)
    spent = label(replace(options, spread=replace(options.spread, devices="cpu,cpu"))).account
    assert spent is not None
    assert spent.processes == 2
    assert spent.stages["cam"] > 0
    assert {lane.workers for lane in spent.lanes if lane.name != "decode"} == {2}


@pytest.mark.parametrize(
    ("clock", "bottleneck"),
    [
        (StageClock({"decode": 19.0, "classify": 5.0}, {"classify": 4.0}), "decode"),
        (StageClock({"decode": 10.0, "classify": 9.0}), "classify"),
        (StageClock({"aggregate": 4.0, "refine": 5.0, "cam": 8.0}), "aggregate"),
        (StageClock({"decode": 1.0, "classify": 1.0}, {"classify": 9.0}), "fetch"),
    ],
)
def test_what_holds_a_run_up(clock: StageClock, bottleneck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopwatch, "seconds", 10.0)
    spent = account(clock, Stopwatch.start(), (1, 1, 1), decoders=2)
    assert spent.bottleneck == bottleneck
    assert "--" in spent.advice


IN_INT8 = "in 8 bits (f2f export"
MAX_SIDE, FRAMES = "a smaller --max-side", "fewer --window-frames"


@pytest.mark.parametrize(
    ("bottleneck", "setup", "advice"),
    [
        ("flow", Setup(), f"--flow dis, a --flow {IN_INT8} flow --int8), {MAX_SIDE}, {FRAMES}"),
        ("flow", Setup(flow="int8"), f"--flow dis, {MAX_SIDE}, {FRAMES}"),
        ("flow", Setup(flow="dis"), f"{MAX_SIDE}, {FRAMES}"),
        ("cam", Setup(), f"fewer --scales, {MAX_SIDE}, a --classifier {IN_INT8} classifier --int8)"),
        ("cam", Setup(classifier="int8"), f"fewer --scales, {MAX_SIDE}"),
        ("classify", Setup(classifier="int8", trust_query=True), f"a lower --sample-fps, {MAX_SIDE} or --max-windows"),
    ],
)
def test_nothing_is_advised_that_is_done_already(
    bottleneck: str,
    setup: Setup,
    advice: str,
    tmp_path: Path,
    networks: TinyNetworks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = {name: called_int8(getattr(networks, name), tmp_path) for name in ("classifier", "flow")}
    asked = {name: str(file) for name, file in named.items() if getattr(setup, name) == "int8"}
    monkeypatch.setattr("f2f.engine.account._bottleneck", lambda _: bottleneck)
    source = crawl(tmp_path / "videos", "red/a.mp4")
    spent = label(replace(setup, **asked).options(source, tmp_path / "out", networks)).account  # type: ignore[arg-type]
    assert spent is not None
    assert spent.advice.partition(";")[0] == advice


def called_int8(network: Path, folder: Path) -> Path:
    model = onnx.load(network)
    onnx.helper.set_model_props(
        model, {one.key: one.value for one in model.metadata_props} | {"f2f.training": json.dumps({"int8": {}})}
    )
    onnx.save(model, folder / network.name)
    return folder / network.name


def free_port() -> int:
    """One that nobody gets who asks for any."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("all ports are taken")


def test_metrics(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    port = free_port()
    options = replace(Setup().options(videos, tmp_path / "out", networks), metrics_port=port)
    pages = []
    with serve_metrics(options, lambda _: None) as on_progress:
        label(options, on_progress)
        pages.append(urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
        taken = f"--metrics-port {port} at 127.0.0.1 cannot be opened"
        with pytest.raises(UsageError, match=taken), serve_metrics(options, lambda _: None):
            pass
    assert "f2f_inputs 6.0" in pages[0]
    assert "f2f_inputs_settled_total 6.0" in pages[0]
    assert 'f2f_stage_seconds_total{stage="cam",state="busy"}' in pages[0]
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{port}/metrics")


def test_the_command_tells_where_the_time_went(videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    words: list[str | Path] = [
        "label",
        videos,
        "--out",
        tmp_path / "out",
        *flags(networks),
        "--metrics-port",
        str(free_port()),
    ]
    done = subprocess.run(f2f_command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "held up by " in done.stdout
    assert "waits for input" in done.stdout
