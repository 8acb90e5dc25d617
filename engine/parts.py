"""Parts: what is done of a long video, so that a run that dies goes on inside it.

Where a part of a video ends (`PartEnd`), what it gave is sealed into a record beside the staged files:

OUT/.staging/000000/<file prefix>.part-0000.json    masks of the part, digests of their staged files, how to go on

The records of a video follow each other; those that are whole, up to the first that is not, stand for what need not be
done again. They go when their shard is committed. Nothing is taken on trust: what belongs to another run, to a video
that changed, or to a file that is not as it was written, is done anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from f2f.engine.container import fingerprint
from f2f.engine.errors import VideoError
from f2f.engine.files import check_seal, digest, sealed, write_aside
from f2f.engine.layout import Layout
from f2f.engine.records import MaskRecord, VideoRecord, file_prefix, from_entry, to_json
from f2f.engine.run import Run
from f2f.engine.types import DecodeReport, InputRow, PartEnd, ScanState

PART_SECONDS = 60.0
"""the least length of a part, in time of the video: about what a kill costs of it"""


@dataclass(frozen=True)
class PartRecord:
    """A part of a video that is done."""

    run: str
    """sha256 of what decides the run's results"""
    input: tuple[str, str, str]
    """id, video and query"""
    number: int
    """counts the parts of a video from 0"""
    end: PartEnd
    masks: tuple[MaskRecord, ...]
    """of this part alone"""
    files: dict[str, str]
    """sha256 of their staged files by name"""
    video: VideoRecord | None = None
    """what became of the video, in its last part"""

    @property
    def fingerprint(self) -> tuple[int, int]:
        """Size and time of the video's file."""
        return self.end.report.file_bytes, self.end.report.modified_ns

    @property
    def seconds(self) -> float:
        """Time of the video up to the part's end."""
        return self.end.scan.pts_seconds - self.end.report.start_seconds


class Parts:
    """The parts of videos of open shards.

    What earlier runs did is dropped by the thread that decodes, right before a video is opened that is another file
    now; all else is called by the thread that writes.
    """

    def __init__(self, run: Run, shards: Collection[int]) -> None:
        """Find what earlier runs did of videos of `shards`, which are claimed, and remove what else they staged."""
        self._layout, self._run = run.layout, run
        self._sha256 = decisive_sha256(run.pinned)
        self._parts: dict[int, list[PartRecord]] = {}
        self._shard_of = {row: shard for shard in shards for row in run.pending_rows(shard)}
        self.finished: dict[int, VideoRecord] = {}
        """video -> what became of it: it need not be opened again"""
        for shard in shards:
            found = read_parts(self._layout, run.pinned, shard)
            self._parts.update({row: parts for row, parts in found.items() if row in self._shard_of})
            self._finish(found.keys() & self._shard_of.keys())
            self.clear(shard)
        self.ends = {video: replace(parts[-1].end, video=video) for video, parts in self._parts.items()}
        """video -> the end of what earlier runs did of it"""

    def begun(self, video: int, row: InputRow) -> PartEnd | None:
        """The end of what earlier runs did of a video that is about to be opened; None where that does not fit it."""
        if video in self.ends and not _is_of(self._parts[video][-1], row):
            self.forget(video)
        return self.ends.get(video)

    def masks(self, video: int) -> list[MaskRecord]:
        """The masks of a video's parts."""
        return [mask for part in self._parts.get(video, ()) for mask in part.masks]

    def add(
        self,
        end: PartEnd,
        masks: Sequence[MaskRecord],
        files: Mapping[str, str],
        video: VideoRecord | None = None,
    ) -> None:
        """Keep one more part: what is new in all `masks` of the video so far; `files` are the digests of its files.

        `video` is what became of the video, where this is its last part.

        Raises:
            MachineError: the disk does not take it.
        """
        row = self._run.rows[end.video]
        parts = self._parts.setdefault(end.video, [])
        new = tuple(masks[len(self.masks(end.video)) :])
        part = PartRecord(self._sha256, (row.id, row.video, row.query), len(parts), end, new, dict(files), video)
        path = self._layout.staging(self._shard_of[end.video]) / _name(row.id, part.number)
        write_aside(path, sealed(to_json(part)))
        parts.append(part)

    def forget(self, video: int) -> None:
        """A video's parts do not count any more."""
        self.ends.pop(video, None)
        folder = self._layout.staging(self._shard_of[video])
        for name in _names(self._parts.pop(video, [])):
            with suppress(OSError):  # it goes with its shard, at the latest
                (folder / name).unlink(missing_ok=True)

    def clear(self, shard: int) -> None:
        """Remove what is staged of a shard, but for the parts of its videos."""
        self._layout.clear_staging(shard, _names(self._of(shard)))

    def close(self, shard: int) -> None:
        """The shard is committed: its parts are of no use any more."""
        for row in self._run.shard_rows(shard):
            self._parts.pop(row, None)

    def has_some(self, video: int) -> bool:
        """Whether a part of a video is done."""
        return video in self._parts

    def _finish(self, videos: Collection[int]) -> None:
        """Note what became of those whose last part is there and whose file is here, as it was."""
        for video in videos:
            last = self._parts[video][-1]
            if last.video is not None and _is_of(last, self._run.rows[video]):
                self.finished[video] = last.video
            elif last.video is not None:  # what comes before it may do, once the file is fetched
                self._parts[video].pop()
            if not self._parts[video]:
                del self._parts[video]

    def _of(self, shard: int) -> Iterable[PartRecord]:
        return (part for row in self._run.shard_rows(shard) for part in self._parts.get(row, ()))


def read_parts(
    layout: Layout, pinned: Mapping[str, Any], shard: int, check_files: bool = True
) -> dict[int, list[PartRecord]]:
    """The whole parts of a shard's videos, by number of the input, in order.

    A part without all files of its masks is not whole; `check_files` False: they are not looked at.
    """
    if shard >= len(pinned["shards"]) or not layout.staging(shard).is_dir():
        return {}
    sha256 = decisive_sha256(pinned)
    rows = range(*pinned["shards"][shard])
    found = {row: list(_chain(layout, shard, sha256, tuple(pinned["inputs"][row]), check_files)) for row in rows}
    return {row: parts for row, parts in found.items() if parts}


def kept_names(layout: Layout, pinned: Mapping[str, Any], shard: int) -> set[str]:
    """Names of the staged files that go on to count: the whole parts of a shard's videos, and their masks' files."""
    return _names(part for parts in read_parts(layout, pinned, shard).values() for part in parts)


def decisive_sha256(pinned: Mapping[str, Any]) -> str:
    """Digest of what decides a run's results, beside its inputs."""
    decisive = {name: value for name, value in pinned.items() if name not in {"given", "shards", "inputs"}}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _chain(layout: Layout, shard: int, run: str, input_: tuple[str, ...], check_files: bool) -> Iterator[PartRecord]:
    """The parts of a video up to the first that is not whole, or of another file."""
    fingerprint = None
    for number in count():
        part = _read(layout.staging(shard) / _name(input_[0], number))
        if part is None or (part.run, part.input, part.number) != (run, input_, number):
            return
        fingerprint = fingerprint or part.fingerprint
        if part.fingerprint != fingerprint or (check_files and not _has_files(layout, shard, part)):
            return
        yield part


def _read(path: Path) -> PartRecord | None:
    """A part as it was written; None where there is none: it is done anew."""
    try:
        data = path.read_bytes()
        check_seal(data)
        return _from_entry(**json.loads(data.decode("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _has_files(layout: Layout, shard: int, part: PartRecord) -> bool:
    """Whether all files of a part's masks are as they were written."""
    if part.files.keys() != {name for mask in part.masks for name in layout.staged_names(mask.id)}:
        return False
    try:
        return all(digest(layout.staging(shard) / name) == written for name, written in part.files.items())
    except OSError:
        return False


def _is_of(part: PartRecord, row: InputRow) -> bool:
    """Whether a part is of the file that lies at a row's location now."""
    if row.problem:
        return False
    try:
        size, modified_ns = fingerprint(row.location)
    except VideoError:
        return False
    # Without a time a change would not be seen.
    return modified_ns > 0 and part.fingerprint == (row.span[1] if row.span else size, modified_ns)


def _from_entry(
    run: str,
    input: Sequence[str],  # noqa: A002 - the entries of the file
    number: int,
    end: Mapping[str, Any],
    masks: Sequence[Mapping[str, Any]],
    files: Mapping[str, str],
    video: Mapping[str, Any] | None,
    sha256: str,
) -> PartRecord:
    """The record that the entries of its file make; `sha256`, the seal, was checked on the bytes."""
    record = None if video is None else from_entry(VideoRecord, video)
    scan, report = from_entry(ScanState, end["scan"]), from_entry(DecodeReport, end["report"])
    part_end = PartEnd(**{**end, "scan": scan, "report": report})
    made = tuple(from_entry(MaskRecord, mask) for mask in masks)
    id_, place, query = input
    return PartRecord(run, (id_, place, query), number, part_end, made, dict(files), record)


def _name(input_id: str, number: int) -> str:
    return f"{file_prefix(input_id)}.part-{number:04d}.json"


def _names(parts: Iterable[PartRecord]) -> set[str]:
    return {name for part in parts for name in (_name(part.input[0], part.number), *part.files)}
