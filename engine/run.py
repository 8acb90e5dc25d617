"""Run: an output folder with what it pins; opened new, or again to go on, or refused with what differs."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from f2f.engine.errors import RunMismatchError, UsageError
from f2f.engine.files import machine_errors, write_aside
from f2f.engine.layout import LAYOUTS, Layout, layout_of
from f2f.engine.records import ShardRecord, Summary, read_shards, rebuild_lists, summarize
from f2f.engine.source import printable
from f2f.engine.types import InputRow

_OWN = {"run.json", "summary.json", "videos.parquet", "labels.parquet", "shards", ".staging", ".lock", *LAYOUTS}


@dataclass(frozen=True)
class Run:
    """An open output folder."""

    out: Path
    pinned: dict[str, Any]
    """the content of `run.json`; `given` in it is a note, all else is pinned"""
    rows: tuple[InputRow, ...]
    """inputs in pinned order"""
    committed: tuple[ShardRecord, ...]
    """shards that were committed when it was opened"""

    @property
    def classes(self) -> tuple[str, ...]:
        """Channel order of the classifier."""
        return tuple(self.pinned["classes"])

    @property
    def layout(self) -> Layout:
        """Where the files of its masks lie."""
        return layout_of(self.out, self.pinned["options"])

    def shard_rows(self, shard: int) -> range:
        """Numbers of the inputs of a shard."""
        return range(*self.pinned["shards"][shard])

    def pending_shards(self) -> list[int]:
        """Numbers of the shards that are not committed."""
        done = {record.shard for record in self.committed}
        return [shard for shard in range(len(self.pinned["shards"])) if shard not in done]

    def rebuild(self) -> Summary:
        """Write tables, lists and summary anew from all records there are now."""
        shards = read_shards(self.out)
        self.layout.write_lists(sorted(mask.id for record in shards for mask in record.masks), self.classes)
        return rebuild_lists(self.out, self.pinned, shards)


def open_run(
    out: Path, decisive: dict[str, Any], given: dict[str, Any], rows: Sequence[InputRow], shard_videos: int
) -> Run:
    """Start a run in `out`, or go on with the one that is there.

    Args:
        out: the output folder.
        decisive: everything that decides results, JSON-ready; a run that goes on must have the same.
        given: where the source and the networks lie now, JSON-ready; may differ when a run goes on.
        rows: the inputs; those a started run does not have yet are appended as new shards.
        shard_videos: inputs of a new shard.

    Raises:
        RunMismatchError: `out` holds a run that differs; the message lists how.
        UsageError: what `out` holds cannot be read.
    """
    path = out / "run.json"
    old = _read_run(path) if path.exists() else None
    if old is not None:
        _refuse_difference(out, old, decisive)
    ordered = _in_pinned_order(out, old["inputs"] if old else [], rows)
    pinned = {
        **decisive,
        "given": given,
        "shards": _slices(old["shards"] if old else [], len(ordered), shard_videos),
        "inputs": [[row.id, row.video, row.query] for row in ordered],
    }
    if pinned != old:
        write_aside(path, (json.dumps(pinned, indent=1) + "\n").encode())
    run = Run(out, pinned, tuple(ordered), tuple(read_shards(out)))
    _remove_orphans(run)
    return run


def read_summary(out: Path) -> Summary:
    """Count the run in `out` as it is now, also while it runs.

    Raises:
        UsageError: there is no run.
    """
    return summarize(len(read_run(out)["inputs"]), read_shards(out))


def read_run(out: Path) -> dict[str, Any]:
    """What `out`'s run pins.

    Raises:
        UsageError: there is no run, or its `run.json` cannot be read.
    """
    if not (out / "run.json").is_file():
        raise UsageError(f"{out} holds no run (run.json is missing); give the --out folder of `f2f label`")
    return _read_run(out / "run.json")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the output folder: a second live run in it is refused, and so is a folder that holds something else.

    Raises:
        UsageError: `out` is a file, holds files that are no run, or another run is at work in it.
    """
    _refuse_strange_folder(out)
    with machine_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another run is at work in {out}; wait for it, or give another --out") from error
        yield
    finally:
        os.close(handle)


def _read_run(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"shards", "inputs", "classes", "options", "networks"} <= content.keys():
            raise ValueError("entries are missing")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is not a run's pinned state ({error}); give another --out") from error
    return content


def _refuse_strange_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; accepted: a new or empty folder, or one with a run")
    if not out.is_dir() or (out / "run.json").exists():
        return
    strange = sorted(entry.name for entry in out.iterdir() if not _is_own(entry.name))
    if strange:
        raise UsageError(
            f"--out {out} holds files that are no run ({', '.join(strange[:3])}); accepted: a new or empty folder, "
            "or one with a run"
        )


def _is_own(name: str) -> bool:
    """Whether a run makes such a file; one that was killed may leave the part of one."""
    return name in _OWN or (name.startswith(".") and name.endswith(".part") and name[1:-5] in _OWN)


def _refuse_difference(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    before, now = _flat(old), _flat(new)
    skipped = ("given", "shards", "inputs")
    keys = sorted(key for key in before.keys() | now.keys() if not key.startswith(skipped))
    lines = [f"  {key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
    if lines:
        raise RunMismatchError(
            f"{out} holds a run that was started differently (there -> asked for):\n"
            + "\n".join(lines)
            + "\naccepted: the same options and networks; give them, or another --out"
        )


def _flat(entry: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(entry, dict):
        return {prefix: entry}
    return {key: value for name in entry for key, value in _flat(entry[name], f"{prefix}.{name}".lstrip(".")).items()}


def _in_pinned_order(out: Path, pinned: list[list[str]], rows: Sequence[InputRow]) -> list[InputRow]:
    """Pinned inputs first, as they were; then the new ones."""
    by_id = {row.id: row for row in rows}
    for name, video, query in pinned:
        row = by_id.get(name)
        if row is None or (row.video, row.query) != (video, query):
            now = "not in the source" if row is None else f"{printable(row.video)} ({printable(row.query)})"
            raise RunMismatchError(
                f"input {printable(name)} of the run in {out} was {printable(video)} ({printable(query)}) and is now "
                f"{now}; inputs can be added, not changed: restore it, or give another --out"
            )
    known = {name for name, _, _ in pinned}
    return [by_id[name] for name, _, _ in pinned] + [row for row in rows if row.id not in known]


def _slices(old: list[list[int]], inputs: int, shard_videos: int) -> list[list[int]]:
    """Fixed slices of the input list; new inputs get new slices."""
    start = old[-1][1] if old else 0
    return old + [[first, min(first + shard_videos, inputs)] for first in range(start, inputs, shard_videos)]


def _remove_orphans(run: Run) -> None:
    """Remove what an interrupted run left: staged files, and files in place that no record names."""
    run.layout.clear_staging()
    run.layout.remove_others({record.shard: [mask.id for mask in record.masks] for record in run.committed})
