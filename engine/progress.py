"""What a person sees while a run works: a live line on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from f2f.engine.account import LANES, Account, Lane
from f2f.engine.pipeline import Progress
from f2f.engine.records import Summary

_PLAIN_SECONDS = 10.0


@contextmanager
def show_progress(quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """A callback for `label`; draws on stderr."""
    console = Console(stderr=True)
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _live(console) as callback:
            yield callback
    else:
        yield _PlainLines()


@contextmanager
def show_inputs() -> Iterator[Callable[[object, int], None]]:
    """A callback that counts settled inputs of a known number; draws on stderr where that is a terminal."""
    columns = (TextColumn("inputs"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"), TimeRemainingColumn())
    console = Console(stderr=True)
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("inputs", total=None)
        yield lambda _, total: bar.update(task, total=total, advance=1)


@contextmanager
def _live(console: Console) -> Iterator[Callable[[Progress], None]]:
    columns = (
        TextColumn("videos"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TextColumn("ETA"),
        TimeRemainingColumn(),
    )  # fmt: skip
    start = time.monotonic()
    with RichProgress(*columns, console=console) as bar:
        task = bar.add_task("label", total=None, text="")

        def update(progress: Progress) -> None:
            text = _text(progress, time.monotonic() - start)
            bar.update(task, total=progress.inputs, completed=progress.settled, text=text)

        yield update


class _PlainLines:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._next = self._start + _PLAIN_SECONDS
        self._settled_before: int | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._settled_before is None:
            self._settled_before = progress.settled
        if now < self._next and progress.settled < progress.inputs:
            return
        self._next = now + _PLAIN_SECONDS
        text = _text(progress, now - self._start)
        sys.stderr.write(f"{progress.settled}/{progress.inputs} videos, {text}, {self._eta(progress, now)}\n")

    def _eta(self, progress: Progress, now: float) -> str:
        done = progress.settled - (self._settled_before or 0)
        if not done:
            return "ETA unknown"
        return f"ETA {(now - self._start) / done * (progress.inputs - progress.settled):.0f} s"


def _text(progress: Progress, seconds: float) -> str:
    rate = progress.frames / seconds if seconds > 0 else 0.0
    parts = [f"{progress.frames} frames ({rate:.1f}/s)", f"{progress.masks} masks", f"{progress.failed} failed"]
    if progress.bottleneck:
        parts.append(f"most time in {progress.bottleneck}")
    return ", ".join(parts)


def print_summary(summary: Summary, console: Console) -> None:
    """The accounting as a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("inputs", "ok", "partial", "skipped", "failed", "pending", "masks"):
        table.add_column(name, justify="right")
    counts = (
        summary.inputs,
        summary.ok,
        summary.partial,
        summary.skipped,
        summary.failed,
        summary.pending,
        summary.masks,
    )
    table.add_row(*map(str, counts))
    console.print(table)
    if summary.left_out:
        console.print(f"masks left out for their quality: {summary.left_out}")
    if summary.quarantined:
        console.print(f"quarantined, for they failed too often: {summary.quarantined} of the failed")
    if summary.reasons:
        console.print("reasons: " + ", ".join(f"{name} {count}" for name, count in summary.reasons.items()))


def print_account(spent: Account, console: Console) -> None:
    """Where the time went, as a table, and what to try."""
    console.print(
        f"{spent.seconds:.1f} s: {spent.videos_per_hour:.0f} videos/hour, {spent.frames_per_second:.1f} frames/s, "
        f"{spent.masks_per_second:.2f} masks/s" + _cores_text(spent)
    )
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "at once", "busy", "waits for input", "waits for room"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for lane in spent.lanes:
        shares = (f"{100 * share:.0f} %" for share in (lane.busy, lane.starved, lane.blocked))
        table.add_row(" + ".join(_stages(lane, spent)), str(lane.workers), *shares)
    console.print(table)
    console.print(f"held up by {spent.bottleneck}; to be faster: {spent.advice}", soft_wrap=True)


def _cores_text(spent: Account) -> str:
    return f"; {100 * spent.cores_busy:.0f} % of {spent.cores} cores busy" if spent.cores_busy else ""


def _stages(lane: Lane, spent: Account) -> list[str]:
    """The stages of a lane that had work, the lane's name where none had."""
    return [stage for stage in LANES[lane.name] if stage in spent.stages] or [lane.name]
