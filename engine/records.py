"""Records: what became of every input and every mask, and the only state a run has.

OUT/run.json             what decides the results, pinned: options, networks, input list, shards; and a note of
                         where source and networks were
OUT/shards/000000.json   a committed shard: its inputs' and masks' records
OUT/summary.json, videos.parquet, labels.parquet, and the lists of the layout   rebuilt from the records
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from f2f.engine.errors import UsageError
from f2f.engine.files import write_aside
from f2f.engine.source import printable
from f2f.engine.types import Failure, InputRow, VideoEnd

Status = Literal["ok", "partial", "skipped", "failed"]
STATUSES: tuple[Status, ...] = ("ok", "partial", "skipped", "failed")


@dataclass(frozen=True)
class VideoRecord:
    """What became of one input."""

    id: str
    video: str
    query: str
    status: Status
    stage: str = ""
    """stage that failed"""
    reason: str = ""
    """short stable word for anything but ok"""
    failure: str = ""
    """transient or permanent, where it failed"""
    detail: str = ""
    attempts: int = 1
    masks: int = 0
    frames_decoded: int = 0
    frames_sampled: int = 0
    packet_errors: int = 0
    dropped_frames: int = 0
    shots: int = 0
    start_seconds: float = 0.0
    last_seconds: float = 0.0
    fps: float = 0.0
    width_px: int = 0
    height_px: int = 0
    rotation_degrees: int = 0
    codec: str = ""
    stopped_early: bool = False
    tags: str = ""
    left_out: int = 0
    """masks whose quality was below --min-quality"""


@dataclass(frozen=True)
class MaskRecord:
    """One mask and where it comes from."""

    id: str
    """file name without suffix: hash of the input's id, dash, number of the window"""
    input: str
    """id of the input"""
    video: str
    query: str
    query_class: str
    window: int
    shot: int
    classes: tuple[str, ...]
    """the window's label set"""
    pts_seconds: tuple[float, ...]
    """time stamps of the K frames; the mask is of the last one"""
    scores: tuple[float, ...] | None
    """mean score of each class over the K frames; none where the query was trusted without looking"""
    areas_px: tuple[int, ...]
    """pixels of each class in the mask"""
    background_px: int
    ignore_px: int
    width_px: int
    height_px: int
    quality: float | None = None
    """estimated IoU of the query's class, in 0..1; none with rule paper, which has no probabilities to judge by"""


@dataclass(frozen=True)
class ShardRecord:
    """A committed shard."""

    shard: int
    videos: tuple[VideoRecord, ...]
    masks: tuple[MaskRecord, ...]


def unusable(row: InputRow, status: Status, reason: str, detail: str) -> VideoRecord:
    """The record of an input that is never opened."""
    failure = "permanent" if status == "failed" else ""
    return VideoRecord(row.id, row.video, row.query, status, "source", reason, failure, detail, tags=row.tags)


def video_record(row: InputRow, end: VideoEnd, masks: int) -> VideoRecord:
    """The record of an input that went through the stages."""
    status, failure, reason, detail = _outcome(end, masks)
    report = end.report
    return VideoRecord(
        row.id, row.video, row.query, status, failure.stage if failure else "", reason,
        failure.failure if failure else "", detail, masks=masks, tags=row.tags,
        frames_decoded=report.frames_decoded, frames_sampled=report.frames_sampled,
        packet_errors=report.packet_errors, dropped_frames=report.dropped_frames, shots=report.shots,
        start_seconds=report.start_seconds, last_seconds=report.last_seconds, fps=report.fps,
        width_px=report.size_wh[0], height_px=report.size_wh[1], rotation_degrees=report.rotation_degrees,
        codec=report.codec, stopped_early=report.stopped_early, left_out=end.left_out,
    )  # fmt: skip


def _outcome(end: VideoEnd, masks: int) -> tuple[Status, Failure | None, str, str]:
    if end.failure:
        return "failed", end.failure, end.failure.reason, end.failure.detail
    if end.note and end.note[0] == "broken":
        return "partial", None, *end.note
    if end.report.packet_errors:
        return "partial", None, "corrupt_packets", f"{end.report.packet_errors} packets could not be decoded"
    if masks:
        return "ok", None, "", ""
    reason, detail = end.note or ("no_window", "no run of frames is long enough")
    return "skipped", None, reason, detail


def to_json(record: Any) -> str:
    """A record as JSON text; names that are not UTF-8 survive as escapes."""
    return json.dumps(asdict(record), indent=1) + "\n"


def read_shard(path: Path) -> ShardRecord:
    """A committed shard's record.

    Raises:
        UsageError: the file is not one.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return ShardRecord(
            entry["shard"],
            tuple(_make(VideoRecord, video) for video in entry["videos"]),
            tuple(_make(MaskRecord, mask) for mask in entry["masks"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a shard record ({error}); remove the file and run again: its shard is then done anew"
        ) from error


def _make(kind: Any, entry: Mapping[str, Any]) -> Any:
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})


def read_shards(out: Path) -> list[ShardRecord]:
    """All committed shards of a run, by number."""
    return [read_shard(path) for path in sorted((out / "shards").glob("[0-9]*.json"))]


@dataclass(frozen=True)
class Summary:
    """The accounting of a run: inputs = ok + partial + skipped + failed + pending."""

    inputs: int
    ok: int
    partial: int
    skipped: int
    failed: int
    pending: int
    masks: int
    left_out: int
    """masks that were not written because their quality was too low"""
    reasons: dict[str, int]
    """how often each reason occurs"""
    queries: dict[str, dict[str, int]]
    """per query: inputs seen so far and masks"""

    def __post_init__(self) -> None:
        total = self.ok + self.partial + self.skipped + self.failed + self.pending
        assert total == self.inputs, f"{total} inputs accounted for, {self.inputs} given"

    @property
    def exit_code(self) -> int:
        """0 every input ok, partial or skipped; 3 some failed."""
        return 3 if self.failed else 0


def summarize(inputs: int, shards: Iterable[ShardRecord]) -> Summary:
    """Count what the records say."""
    shards = list(shards)
    videos = [video for shard in shards for video in shard.videos]
    status = Counter(video.status for video in videos)
    queries: dict[str, dict[str, int]] = {}
    for video in videos:
        entry = queries.setdefault(printable(video.query), {"inputs": 0, "masks": 0})
        entry["inputs"] += 1
        entry["masks"] += video.masks
    return Summary(
        inputs=inputs,
        **{name: status[name] for name in STATUSES},
        pending=inputs - len(videos),
        masks=sum(len(shard.masks) for shard in shards),
        left_out=sum(video.left_out for video in videos),
        reasons=dict(sorted(Counter(video.reason for video in videos if video.reason).items())),
        queries=dict(sorted(queries.items())),
    )


def rebuild_lists(out: Path, run: Mapping[str, Any], shards: Sequence[ShardRecord]) -> Summary:
    """Write the tables and the summary anew from the records, sorted by id."""
    videos = sorted((video for shard in shards for video in shard.videos), key=lambda video: os.fsencode(video.id))
    masks = sorted((mask for shard in shards for mask in shard.masks), key=lambda mask: mask.id)
    origin = {key: json.dumps(run[key], sort_keys=True) for key in ("networks", "options")}
    _write_table(out / "videos.parquet", VideoRecord, videos, {})
    _write_table(out / "labels.parquet", MaskRecord, masks, origin)
    summary = summarize(len(run["inputs"]), shards)
    write_aside(out / "summary.json", to_json(summary).encode())
    return summary


def _write_table(path: Path, kind: Any, records: Sequence[Any], constants: Mapping[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "str": pa.string(), "Status": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
        "tuple[str, ...]": pa.list_(pa.string()), "tuple[float, ...]": pa.list_(pa.float64()),
        "tuple[float, ...] | None": pa.list_(pa.float64()), "tuple[int, ...]": pa.list_(pa.int64()),
        "float | None": pa.float32(),
    }  # fmt: skip
    columns: dict[str, Any] = {}
    for entry in fields(kind):
        values = [_storable(getattr(record, entry.name)) for record in records]
        columns[entry.name] = pa.array(values, types[str(entry.type)])
    for name, value in constants.items():
        columns[name] = pa.array([value] * len(records), pa.string())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    write_aside(path, sink.getvalue().to_pybytes())


def _storable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
