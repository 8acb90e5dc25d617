"""Verify: read a run's output again, say what is lost, damaged, left over or out of date, and repair it.

Nothing is trusted but run.json, which has its own digest: records are compared with the inputs it pins, files with the
digests in their shard's record, every mask with its frame and its record, tables and lists with the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from f2f.engine.claims import live_claims, locked, refuse_live
from f2f.engine.errors import UsageError
from f2f.engine.files import digest
from f2f.engine.layout import SUFFIXES, Layout, Part, layout_of
from f2f.engine.parts import kept_names
from f2f.engine.picture import open_image
from f2f.engine.records import (
    STATUSES,
    MaskRecord,
    ShardRecord,
    file_id,
    file_prefix,
    gather,
    is_summary,
    read_shard,
    shard_path,
    shard_paths,
    to_json,
)
from f2f.engine.run import lists_of, read_run, rebuild_run
from f2f.engine.source import printable
from f2f.engine.tars import ImageFile
from f2f.engine.types import BACKGROUND, IGNORE

Kind = Literal["damaged", "leftover", "outdated"]


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be."""

    kind: Kind
    """damaged: a shard has to be done anew; leftover: a file belongs to nothing; outdated: not as the records say"""
    path: str
    """below the output folder"""
    detail: str
    shard: int | None = None
    """the damaged shard"""


@dataclass(frozen=True)
class Verified:
    """What was looked at and what was found."""

    shards: int
    committed_shards: int
    inputs: int
    pending: int
    """inputs that have no record yet, or are to be done again"""
    masks: int
    files: int
    """files whose digest was computed"""
    problems: tuple[Problem, ...]
    note: str = ""
    """what could not be looked at"""

    @property
    def damaged_shards(self) -> list[int]:
        """Committed shards that have to be done anew."""
        return sorted({one.shard for one in self.problems if one.shard is not None})

    @property
    def exit_code(self) -> int:
        """0 all is as it should be; 3 it is not."""
        return 3 if self.problems else 0

    def print_lines(self, console: Console) -> None:
        """A line per problem, and one that sums up."""
        for one in self.problems:
            console.print(f"{one.kind}: {printable(one.path)}: {printable(one.detail)}")
        if self.note:
            console.print(self.note)
        counts = Counter(one.kind for one in self.problems)
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "all as it should be"
        looked = f"{self.committed_shards} of {self.shards} shards committed, {self.masks} masks, {self.files} files"
        console.print(f"{looked}, {self.inputs} inputs of which {self.pending} pending: {found}")


def verify(out: Path) -> Verified:
    """Check the run in `out`, also while processes are at work in it.

    Raises:
        UsageError: there is no run, or its `run.json` cannot be read.
    """
    run, live = read_run(out), live_claims(out)
    layout = layout_of(out, run["options"])
    good: dict[int, ShardRecord] = {}
    problems: list[Problem] = []
    for path in shard_paths(out):
        try:
            record = _read(path, run)
        except UsageError as error:
            problems.append(Problem("damaged", _below(out, path), str(error), int(path.stem)))
            continue
        good[record.shard] = record
        problems += _shard_problems(record, layout, run)
    if not problems and not live:
        problems += _outdated(out, run, list(good.values()))
    open_shards = {shard for claim in live for shard in claim.shards}
    problems += _leftovers(out, layout, run, good, open_shards.difference(good))
    done = sum(video.status in STATUSES for record in good.values() for video in record.videos)
    return Verified(
        shards=sum(last > first for first, last in run["shards"]),
        committed_shards=len(good),
        inputs=len(run["inputs"]),
        pending=len(run["inputs"]) - done,
        masks=sum(len(record.masks) for record in good.values()),
        files=sum(len(record.files) for record in good.values()),
        problems=tuple(problems),
        note="a process is at work: tables and lists are written at its end, and were not looked at" if live else "",
    )


def repair(out: Path, found: Verified) -> str:
    """Remove the records of damaged shards and what belongs to nothing, and write tables and lists anew.

    Returns:
        what was done, and what is to be done now.

    Raises:
        UsageError: another process is at work in `out`.
        MachineError: the folder cannot be written.
    """
    with locked(out):
        refuse_live(out)
        for shard in found.damaged_shards:
            shard_path(out, shard).unlink(missing_ok=True)
        run = read_run(out)
        layout = layout_of(out, run["options"])
        good = {record.shard: record for record in map(read_shard, shard_paths(out))}
        layout.remove_others({shard: _ids(record) for shard, record in good.items()}, {})
        for shard in layout.staged_shards():
            layout.clear_staging(shard, _kept(layout, run, good, shard))
        summary = rebuild_run(out)
    again = f"; {summary.pending} inputs are pending: run the same `f2f label` command once more"
    did = f"{len(found.damaged_shards)} damaged shards taken back, files that belong to nothing removed"
    return f"{did}, tables and lists written anew{again if summary.pending else ''}"


# ---- records


def _read(path: Path, run: Mapping[str, Any]) -> ShardRecord:
    """A shard's record.

    Raises:
        UsageError: it cannot be read, or is not that of the shard that the run pins.
    """
    record = read_shard(path)
    first, last = run["shards"][record.shard] if record.shard < len(run["shards"]) else (0, 0)
    if [video.id for video in record.videos] != [name for name, _, _ in run["inputs"][first:last]]:
        raise UsageError("the record is not of the inputs that run.json pins for this shard")
    return record


def _shard_problems(record: ShardRecord, layout: Layout, run: Mapping[str, Any]) -> Iterator[Problem]:
    path = _below(layout.out, shard_path(layout.out, record.shard))
    for detail in _miscounts(record):
        yield Problem("damaged", path, detail, record.shard)
    for place, detail in [*_file_faults(record, layout), *_mask_faults(record, layout, run["classes"])]:
        yield Problem("damaged", place, detail, record.shard)


def _miscounts(record: ShardRecord) -> Iterator[str]:
    """How the record contradicts itself."""
    owners = Counter(mask.input for mask in record.masks)
    for video in record.videos:
        if video.status not in (*STATUSES, "pending"):
            yield f"status of {video.id} is {video.status!r}"
        if owners.pop(video.id, 0) != video.masks:
            yield f"{video.id} has another number of masks than the {video.masks} it is said to have"
    for name in owners:
        yield f"masks of {name}, which is no input of the shard"
    for mask in record.masks:
        if mask.id != file_id(mask.input, mask.window):
            yield f"mask {mask.id} is not named after its input and window"
    if len({mask.id for mask in record.masks}) < len(record.masks):
        yield "two masks have one id"


# ---- files


def _file_faults(record: ShardRecord, layout: Layout) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of the shard's files, by their digests."""
    expected = {_below(layout.out, path) for path in layout.files(record.shard, _ids(record))}
    for name in sorted(expected | record.files.keys()):
        path = layout.out / name
        if not path.is_file():
            yield name, "is missing"
        elif record.files and name not in record.files:
            yield name, "has no digest in the shard's record"
        elif name not in expected:
            yield name, "stands in the shard's record and belongs to none of its masks"
        elif name in record.files and digest(path) != record.files[name]:
            yield name, "is not what was written: its digest differs"


def _mask_faults(record: ShardRecord, layout: Layout, classes: list[str]) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of its masks and what belongs to them, whatever the digests say."""
    try:
        members = dict(layout.members(record.shard, _ids(record)))
    except UsageError as error:
        yield _below(layout.out, layout.masks), str(error)
        return
    for mask in record.masks:
        own = {part: members.pop(f"{mask.id}{SUFFIXES[part]}", None) for part in layout.parts}
        missing = [part for part, file in own.items() if file is None]
        place = f"{_below(layout.out, layout.masks)}/{mask.id}"
        if missing:
            yield place, f"{' and '.join(missing)} missing"
        else:
            there = {part: file for part, file in own.items() if file is not None}
            yield from ((place, fault) for fault in _pair_faults(mask, there, classes))
    for name in members:
        yield f"{_below(layout.out, layout.masks)}/{name}", f"lies in shard {record.shard} and is none of its masks"


def _pair_faults(mask: MaskRecord, files: Mapping[Part, ImageFile], classes: list[str]) -> Iterator[str]:
    """What is wrong with a mask beside its frame and its record."""
    try:
        images = {part: open_image(file) for part, file in files.items() if part != "record"}
    except UsageError as error:
        yield str(error)
        return
    for part, image in images.items():
        if image.size != (mask.width_px, mask.height_px):
            yield f"{part} is {image.size[0]}x{image.size[1]} px, its record says {mask.width_px}x{mask.height_px}"
    counts = np.bincount(np.asarray(images["mask"]).ravel(), minlength=256)  # [256] pixels per label
    foreign = [label for label in np.flatnonzero(counts) if len(classes) < label != IGNORE]
    if foreign:
        yield f"mask has label {foreign[0]}; labels.txt has {len(classes) + 1} lines"
    areas = {name: int(counts[classes.index(name) + 1]) for name in mask.classes if name in classes}
    there = (*areas.values(), int(counts[BACKGROUND]), int(counts[IGNORE]))
    if there != (*mask.areas_px, mask.background_px, mask.ignore_px) or sum(there) != counts.sum():
        yield "mask has other areas than its record says"
    if "record" in files and _content(files["record"]) != to_json(mask).encode():
        yield "the record beside it is not the shard's"


def _content(file: ImageFile) -> bytes:
    with file.open("rb") as stream:
        return stream.read()


# ---- the rest


def _outdated(out: Path, run: Mapping[str, Any], shards: list[ShardRecord]) -> Iterator[Problem]:
    """Tables, lists and summary that are not what the records make."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables, summary = gather(run, shards)
    for name, table in tables.items():
        try:
            same = pq.read_table(out / name).equals(table)
        except (OSError, pa.ArrowException):
            same = False
        if not same:
            yield Problem("outdated", name, "is missing, or not as the records make it")
    if not is_summary(out / "summary.json", summary):
        yield Problem("outdated", "summary.json", "is missing, or not as the records make it")
    for path, content in lists_of(out, run, tables).items():
        if not path.is_file() or path.read_bytes() != content:
            yield Problem("outdated", _below(out, path), "is missing, or not as the records make it")


def _leftovers(
    out: Path, layout: Layout, run: Mapping[str, Any], good: Mapping[int, ShardRecord], live: set[int]
) -> Iterator[Problem]:
    """Files that belong to nothing: of no committed shard, nor of one that a process works on."""
    unread = {int(path.stem) for path in shard_paths(out)}.difference(good)
    spared = {shard: _prefixes(run, shard) for shard in live | unread}
    for path in layout.others({shard: _ids(record) for shard, record in good.items()}, spared):
        yield Problem("leftover", _below(out, path), "belongs to no committed shard")
    for shard in sorted(set(layout.staged_shards()).difference(live)):
        kept = _kept(layout, run, good, shard)
        if not kept or kept != {path.name for path in layout.staging(shard).iterdir()}:
            yield Problem("leftover", _below(out, layout.staging(shard)), "was written aside by a process that is gone")


def _kept(layout: Layout, run: Mapping[str, Any], good: Mapping[int, ShardRecord], shard: int) -> set[str]:
    """Names of the staged files that the next run goes on with."""
    done = shard in good and all(video.status in STATUSES for video in good[shard].videos)
    return set() if done else kept_names(layout, run, shard)


def _prefixes(run: Mapping[str, Any], shard: int) -> set[str]:
    first, last = run["shards"][shard] if shard < len(run["shards"]) else (0, 0)
    return {file_prefix(name) for name, _, _ in run["inputs"][first:last]}


def _ids(record: ShardRecord) -> list[str]:
    return [mask.id for mask in record.masks]


def _below(out: Path, path: Path) -> str:
    return path.relative_to(out).as_posix()
