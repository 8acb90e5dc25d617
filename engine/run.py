"""Run: an output folder with what it pins; opened new, or again to go on, or refused with what differs."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from f2f.engine.account import Account
from f2f.engine.errors import RunMismatchError, UsageError
from f2f.engine.files import check_seal, machine_errors, sealed, write_aside
from f2f.engine.layout import LAYOUTS, Layout, layout_of
from f2f.engine.places import is_url
from f2f.engine.records import (
    TABLES,
    ShardRecord,
    Summary,
    each_shard,
    file_prefix,
    gather,
    is_summary,
    read_account,
    read_shard,
    read_shards,
    shard_path,
    summarize,
    write_tables,
)
from f2f.engine.source import printable
from f2f.engine.types import InputRow

_OWN = {
    "run.json", "summary.json", "videos.parquet", "labels.parquet", "shards", ".staging", ".lock", ".locks", *LAYOUTS,
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """An open output folder."""

    out: Path
    pinned: dict[str, Any]
    """the content of `run.json`; `given` in it is a note, all else is pinned"""
    rows: tuple[InputRow, ...]
    """inputs in pinned order"""
    committed: tuple[ShardRecord, ...]
    """shards that were committed when it was opened, but for those that are done anew"""
    anew: tuple[int, ...] = ()
    """committed shards that no longer count, because `--force` overrode what they pin"""
    after_commit: Callable[[ShardRecord], None] = lambda _: None
    """is told of every shard that is committed"""

    @property
    def classes(self) -> tuple[str, ...]:
        """Channel order of the classifier."""
        return tuple(self.pinned["classes"])

    @property
    def layout(self) -> Layout:
        """Where the files of its masks lie."""
        return layout_of(self.out, self.pinned["options"])

    @cached_property
    def record_of(self) -> dict[int, ShardRecord]:
        """The record of each committed shard."""
        return {record.shard: record for record in self.committed}

    def shard_rows(self, shard: int) -> range:
        """Numbers of the inputs of a shard."""
        return range(*self.pinned["shards"][shard])

    def pending_rows(self, shard: int) -> list[int]:
        """Numbers of its inputs that are to be done: all, or where it is committed those to be done again."""
        rows = self.shard_rows(shard)
        if shard not in self.record_of:
            return list(rows)
        videos = self.record_of[shard].videos
        return [row for row, video in zip(rows, videos, strict=True) if video.status == "pending"]

    def pending_shards(self) -> list[int]:
        """Numbers of the shards that have inputs to be done."""
        return [shard for shard in range(len(self.pinned["shards"])) if self.pending_rows(shard)]

    def begin(self, shards: Collection[int]) -> None:
        """Pin the run, and clear what an interrupted one left of `shards`; do so `locked`, with the shards claimed."""
        for shard in self.anew:  # before what they were made by is overwritten
            with machine_errors(shard_path(self.out, shard)):
                shard_path(self.out, shard).unlink()
        path = self.out / "run.json"
        if not path.exists() or _read_run(path) != self.pinned:
            write_aside(path, sealed(json.dumps(self.pinned, indent=1)))
        _remove_leftovers(self, shards)
        if self.anew:
            self.rebuild()

    def summary_if_current(self) -> Summary | None:
        """The summary, where it and the tables say what the records do: it is written after them."""
        paths = [*(self.out / name for name in TABLES), *self.layout.lists([], self.classes)]
        summary = summarize(len(self.rows), self.committed)
        if self.anew or not all(path.exists() for path in paths) or not is_summary(self.out / "summary.json", summary):
            return None
        return replace(summary, account=read_account(self.out / "summary.json"))

    def rebuild(self, account: Account | None = None) -> Summary:
        """Write tables, lists and summary anew from all records there are now; do so `locked`."""
        return rebuild_run(self.out, account)


def rebuild_run(out: Path, account: Account | None = None) -> Summary:
    """Write tables, lists and summary of the run in `out` anew from its records; do so `locked`.

    `account` tells where the time of the run went; without one, what the summary says of it stays.
    """
    run = read_run(out)
    tables, summary = gather(run, each_shard(out))
    for path, content in lists_of(out, run, tables).items():
        write_aside(path, content)
    return write_tables(out, tables, summary, account)


def lists_of(out: Path, run: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[Path, bytes]:
    """The lists of the run's layout as the tables of its records make them."""
    names = tables[TABLES[1]]["id"].to_pylist()
    return layout_of(out, run["options"]).lists(names, run["classes"])


def open_run(
    out: Path,
    decisive: dict[str, Any],
    given: dict[str, Any],
    rows: Sequence[InputRow],
    shard_videos: int,
    force: bool = False,
) -> tuple[Run, str]:
    """Look what is to be done in `out`: start a run, or go on with the one that is there. Writes nothing.

    Args:
        out: the output folder.
        decisive: everything that decides results, JSON-ready; a run that goes on must have the same.
        given: where the source and the networks lie now, JSON-ready; may differ when a run goes on.
        rows: the inputs; those a started run does not have yet are appended as new shards.
        shard_videos: inputs of a new shard.
        force: go on in spite of differences; the shards they affect are done anew.

    Returns:
        the run; what `force` overrode and what that means, empty where nothing.

    Raises:
        RunMismatchError: `out` holds a run that differs; the message lists how.
        UsageError: what `out` holds cannot be read.
    """
    old = read_run(out) if (out / "run.json").exists() else {**decisive, "shards": [], "inputs": []}
    committed = read_shards(out)
    differences = _differences(old, decisive)
    changed = {**_changed_files(old, rows, committed), **_changed_inputs(old["inputs"], rows)}
    if not force:
        _refuse(out, differences, changed)
    kept, shards = ([], []) if differences else _kept(old, rows)
    known = {row.id for row in kept}
    ordered = kept + [row for row in rows if row.id not in known]
    pinned = {
        **decisive,
        "given": given,
        "shards": _slices(shards, len(ordered), shard_videos),
        "inputs": [[row.id, row.video, row.query] for row in ordered],
    }
    anew = _affected(old, bool(differences), changed, committed)
    run = Run(out, pinned, tuple(ordered), tuple(one for one in committed if one.shard not in anew), tuple(anew))
    _refuse_foreign_records(run)
    return run, _overridden(differences, changed, anew, committed)


def join_run(out: Path, decisive: dict[str, Any], rows: Sequence[InputRow], shard: int) -> Run:
    """The run in `out`, as a worker needs it that labels a shard of it; another process has begun it.

    Raises:
        RunMismatchError: what decides results is not the same here; the message lists how.
    """
    pinned = read_run(out)
    by_id = {row.id: row for row in rows}
    missing = next((printable(name) for name, _, _ in pinned["inputs"] if name not in by_id), None)
    differences = _differences(pinned, decisive) + ([f"  input {missing}: pinned -> not found"] if missing else [])
    if differences:
        raise RunMismatchError(
            f"a worker on {socket.gethostname()} would not give what the run in {out} pins (there -> here):\n"
            + "\n".join(differences)
            + "\naccepted: the same source, networks and versions on every machine; mend it and run again"
        )
    path = shard_path(out, shard)
    committed = (read_shard(path),) if path.exists() else ()
    return Run(out, pinned, tuple(by_id[name] for name, _, _ in pinned["inputs"]), committed)


def read_summary(out: Path) -> Summary:
    """Count the run in `out` as it is now, also while it runs.

    Raises:
        UsageError: there is no run.
    """
    return summarize(len(read_run(out)["inputs"]), each_shard(out))


def read_run(out: Path) -> dict[str, Any]:
    """What `out`'s run pins.

    Raises:
        UsageError: there is no run, or its `run.json` cannot be read.
    """
    if not (out / "run.json").is_file():
        raise UsageError(f"{out} holds no run (run.json is missing); give the --out folder of `f2f label`")
    return _read_run(out / "run.json")


def pinned_decoder(out: Path) -> object:
    """What the run in `out` pins of its decoder; None where there is none."""
    return read_run(out).get("decoder", "") if (out / "run.json").exists() else None


def _read_run(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        check_seal(data)
        content: dict[str, Any] = json.loads(data.decode("utf-8"))
        content.pop("sha256", None)
        if not {"shards", "inputs", "classes", "options", "networks"} <= content.keys():
            raise ValueError("entries are missing")
        _check_pinned(content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is not a run's pinned state ({error}); restore it, or give another --out") from error
    return content


def _check_pinned(content: Mapping[str, Any]) -> None:
    """Raises ValueError, TypeError or AttributeError where what is read of it later is not what it should be."""
    if content["options"].get("format", "voc") not in LAYOUTS:
        raise ValueError(f"its format is {content['options']['format']!r:.100}")
    if not all(isinstance(name, str) for name in content["classes"]):
        raise ValueError("a class is no text")
    if not all(isinstance(text, str) for name, video, query in content["inputs"] for text in (name, video, query)):
        raise ValueError("an input is no text")
    end = 0
    for first, last in content["shards"]:
        if not (first == end and first <= last <= len(content["inputs"])):
            raise ValueError(f"a shard goes from {first!r:.100} to {last!r:.100}")
        end = last


def refuse_strange_folder(out: Path) -> None:
    """Refuse a folder that holds something else than a run.

    Raises:
        UsageError: `out` is a file, or holds files that are no run.
    """
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


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What decides results and is not the same, a line each."""
    before, now = _flat(old), _flat(new)
    skipped = ("given", "shards", "inputs")
    keys = sorted(key for key in before.keys() | now.keys() if not key.startswith(skipped))
    return [f"  {key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def _flat(entry: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(entry, dict):
        return {prefix: entry}
    return {key: value for name in entry for key, value in _flat(entry[name], f"{prefix}.{name}".lstrip(".")).items()}


def _changed_inputs(pinned: list[list[str]], rows: Sequence[InputRow]) -> dict[int, str]:
    """Pinned inputs by number that the source gives differently or no more, and how."""
    by_id = {row.id: row for row in rows}
    changed = {}
    for number, (name, video, query) in enumerate(pinned):
        row = by_id.get(name)
        if row is None or (row.video, row.query) != (video, query):
            now = "not in the source" if row is None else f"{printable(row.video)} ({printable(row.query)})"
            changed[number] = f"{printable(name)} was {printable(video)} ({printable(query)}) and is now {now}"
    return changed


def _changed_files(old: dict[str, Any], rows: Sequence[InputRow], committed: Sequence[ShardRecord]) -> dict[int, str]:
    """Pinned inputs by number whose file has another size than when it was read, and how.

    Times of files change when a crawl is copied, a file that is gone has been used, and one that failed may have been
    mended for `f2f retry`: none of these counts.
    """
    local = {row.id: row for row in rows if row.location and not is_url(row.location)}
    changed = {}
    for record in committed:
        first = old["shards"][record.shard][0] if record.shard < len(old["shards"]) else 0
        for number, video in enumerate(record.videos, first):
            if not video.file_bytes or video.status in {"failed", "pending"} or video.id not in local:
                continue
            with suppress(OSError):
                row = local[video.id]
                size = row.span[1] if row.span else Path(row.location).stat().st_size
                if size != video.file_bytes:
                    changed[number] = (
                        f"{printable(video.id)} was a file of {video.file_bytes} bytes and is now of {size}"
                    )
    return changed


def _refuse(out: Path, differences: Sequence[str], changed: Mapping[int, str]) -> None:
    if differences:
        raise RunMismatchError(
            f"{out} holds a run that was started differently (there -> asked for):\n"
            + "\n".join(differences)
            + "\naccepted: the same options and networks; give them, or another --out, or do all anew with --force"
        )
    for what in changed.values():
        raise RunMismatchError(
            f"input {what}; inputs of the run in {out} can be added, not changed: restore it, or give another --out, "
            "or do its shard anew with --force"
        )


def _kept(old: dict[str, Any], rows: Sequence[InputRow]) -> tuple[list[InputRow], list[list[int]]]:
    """Pinned inputs that the source still has, as they were ordered, and their shards without those that are gone."""
    by_id = {row.id: row for row in rows}
    names = [name for name, _, _ in old["inputs"]]
    there = [name in by_id for name in names]
    before = [0]  # before[n]: inputs that are there among the first n
    for is_there in there:
        before.append(before[-1] + is_there)
    shards = [[before[first], before[last]] for first, last in old["shards"]]
    return [by_id[name] for name, is_there in zip(names, there, strict=True) if is_there], shards


def _affected(
    old: dict[str, Any], everything: bool, changed: Mapping[int, str], committed: Sequence[ShardRecord]
) -> list[int]:
    """Committed shards that are done anew."""
    if everything:
        return [record.shard for record in committed]
    hit = {shard for shard, (first, last) in enumerate(old["shards"]) if any(first <= row < last for row in changed)}
    return [record.shard for record in committed if record.shard in hit]


def _overridden(
    differences: Sequence[str], changed: Mapping[int, str], anew: Sequence[int], committed: Sequence[ShardRecord]
) -> str:
    if not differences and not changed:
        return ""
    masks = sum(len(record.masks) for record in committed if record.shard in anew)
    lines = ["--force overrides what the run pins (there -> asked for):", *differences]
    lines += [f"  input {what}" for what in changed.values()]
    lines.append(f"{len(anew)} of {len(committed)} committed shards are done anew, and their {masks} masks removed")
    return "\n".join(lines)


def _refuse_foreign_records(run: Run) -> None:
    for record in run.committed:
        pinned = run.pinned["shards"]
        names = [run.rows[row].id for row in run.shard_rows(record.shard)] if record.shard < len(pinned) else []
        if names != [video.id for video in record.videos]:
            raise UsageError(
                f"{shard_path(run.out, record.shard)} has not the inputs that run.json pins; remove it, or let "
                "`f2f verify --repair` do so, and run again: its shard is then done anew"
            )


def _slices(old: list[list[int]], inputs: int, shard_videos: int) -> list[list[int]]:
    """Fixed slices of the input list; new inputs get new slices."""
    start = old[-1][1] if old else 0
    return old + [[first, min(first + shard_videos, inputs)] for first in range(start, inputs, shard_videos)]


def _remove_leftovers(run: Run, shards: Collection[int]) -> None:
    """Remove what an interrupted run left: files staged of shards that are done, and files in place without a record.

    What is staged of `shards` is looked through by those that work on them; see parts.py. Files that belong to no input
    at all go too; those of other shards may be another process's, about to commit.
    """
    pending = set(run.pending_shards())
    for shard in set(run.layout.staged_shards()).difference(pending):
        run.layout.clear_staging(shard)
    committed = {record.shard: [mask.id for mask in record.masks] for record in run.committed}
    others = pending.difference(shards)
    foreign = {shard: {file_prefix(run.rows[row].id) for row in run.shard_rows(shard)} for shard in others}
    run.layout.remove_others(committed, foreign)
