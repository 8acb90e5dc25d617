"""Records: what became of every input and every mask, and the only state a run has.

OUT/run.json             what decides the results, pinned: options, networks, input list, shards; and a note of
                         where source and networks were
OUT/shards/000000.json   a committed shard: its inputs' and masks' records
OUT/summary.json, videos.parquet, labels.parquet, and the lists of the layout   rebuilt from the records
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from f2f.engine.account import Account
from f2f.engine.checked import check_entry
from f2f.engine.errors import UsageError
from f2f.engine.files import check_seal, sealed, write_aside
from f2f.engine.source import printable
from f2f.engine.types import Failure, InputRow, VideoEnd

Status = Literal["ok", "partial", "skipped", "failed", "pending"]
"""pending, in a record: `f2f retry` asked for it to be done again; stage and reason are those of the last failure"""
TABLES = ("videos.parquet", "labels.parquet")
STATUSES: tuple[Status, ...] = ("ok", "partial", "skipped", "failed")
MAX_ATTEMPTS = 3


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
    max_attempts: int = MAX_ATTEMPTS
    """an input that failed so often is quarantined"""
    file_bytes: int = 0
    """size of the file as it was read"""
    modified_ns: int = 0
    """Unix time of the file's last change as it was read"""
    pixel_aspect: float = 1.0
    """width of a coded pixel by its height"""
    mirrored: bool = False
    interlaced: bool = False
    on_gpu: bool = False
    """a GPU has decoded it"""

    @property
    def quarantined(self) -> bool:
        """Whether it failed so often that `f2f retry` passes over it."""
        return self.status == "failed" and self.attempts >= self.max_attempts


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
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of every file of the shard by its path below OUT; empty in a run that noted none"""

    def masks_of(self, video: VideoRecord) -> list[MaskRecord]:
        """The masks of one of its inputs."""
        return [mask for mask in self.masks if mask.input == video.id]


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
        file_bytes=report.file_bytes, modified_ns=report.modified_ns,
        pixel_aspect=report.pixel_aspect, mirrored=report.mirrored, interlaced=report.interlaced,
        on_gpu=report.on_gpu,
    )  # fmt: skip


def _outcome(end: VideoEnd, masks: int) -> tuple[Status, Failure | None, str, str]:
    if end.failure:
        return "failed", end.failure, end.failure.reason, end.failure.detail
    if end.note and end.note[0] in {"broken", "too_long"}:
        return "partial", None, *end.note
    if end.report.packet_errors:
        return "partial", None, "corrupt_packets", f"{end.report.packet_errors} packets could not be decoded"
    if masks:
        return "ok", None, "", ""
    reason, detail = end.note or ("no_window", "no run of frames is long enough")
    return "skipped", None, reason, detail


def file_id(input_id: str, window: int) -> str:
    """Name of a mask's files: a hash of the input's id and the window's number."""
    return f"{file_prefix(input_id)}-{window:04d}"


def file_prefix(input_id: str) -> str:
    """What the files of all masks of an input begin with."""
    return hashlib.sha256(os.fsencode(input_id)).hexdigest()[:16]


def to_json(record: Any) -> str:
    """A record as JSON text; names that are not UTF-8 survive as escapes."""
    return json.dumps(asdict(record), indent=1) + "\n"


def shard_path(out: Path, shard: int) -> Path:
    """Where a shard's record lies."""
    return out / "shards" / f"{shard:06d}.json"


def write_shard(out: Path, record: ShardRecord) -> None:
    """Commit a shard, or commit it anew: readers see the old record or the new one."""
    write_aside(shard_path(out, record.shard), sealed(to_json(record)))


def read_shard(path: Path) -> ShardRecord:
    """A committed shard's record.

    Raises:
        UsageError: the file is not one, or not as it was written.
    """
    try:
        data = path.read_bytes()
        check_seal(data)
        record = _shard(**json.loads(data.decode("utf-8")))
        if record.shard != int(path.stem):
            raise ValueError(f"it is the record of shard {record.shard}")
        return record
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not a shard record ({error}); remove the file, or let `f2f verify --repair` do so, and run "
            "again: its shard is then done anew"
        ) from error


def _shard(
    shard: int,
    videos: Sequence[Mapping[str, Any]],
    masks: Sequence[Mapping[str, Any]],
    files: Mapping[str, str] | None = None,
    sha256: str = "",
) -> ShardRecord:
    """The record that the entries of its file make; `sha256`, the seal, was checked on the bytes."""
    return ShardRecord(
        shard,
        tuple(from_entry(VideoRecord, video) for video in videos),
        tuple(from_entry(MaskRecord, mask) for mask in masks),
        dict(files or {}),
    )


def from_entry(kind: Any, entry: Mapping[str, Any]) -> Any:
    """The record of a `kind` that its entries in a JSON file make; raises ValueError where they make none."""
    check_entry(kind, entry)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})


def read_shards(out: Path) -> list[ShardRecord]:
    """All committed shards of a run, by number."""
    return list(each_shard(out))


def each_shard(out: Path) -> Iterator[ShardRecord]:
    """The same, one at a time."""
    return (read_shard(path) for path in shard_paths(out))


def shard_paths(out: Path) -> list[Path]:
    """The files of all committed shards, by number."""
    found = sorted((out / "shards").glob("[0-9]*.json"))
    return [path for path in found if path.stem.isdecimal() and path == shard_path(out, int(path.stem))]


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
    quarantined: int = 0
    """failed inputs that `f2f retry` passes over, because they failed so often"""
    account: Account | None = field(default=None, compare=False)
    """where the time of the last run over them went; not a matter of the records"""

    def __post_init__(self) -> None:
        total = self.ok + self.partial + self.skipped + self.failed + self.pending
        assert total == self.inputs, f"{total} inputs accounted for, {self.inputs} given"

    @property
    def exit_code(self) -> int:
        """0 every input ok, partial or skipped; 3 some failed."""
        return 3 if self.failed else 0


def summarize(inputs: int, shards: Iterable[ShardRecord]) -> Summary:
    """Count what the records say."""
    count: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    queries: dict[str, dict[str, int]] = {}
    for shard in shards:
        count["masks"] += len(shard.masks)
        for video in shard.videos:
            count.update({video.status: 1, "left_out": video.left_out, "quarantined": video.quarantined})
            if video.reason and video.status in STATUSES:
                reasons[video.reason] += 1
            entry = queries.setdefault(printable(video.query), {"inputs": 0, "masks": 0})
            entry["inputs"] += 1
            entry["masks"] += video.masks
    return Summary(
        inputs=inputs,
        ok=count["ok"],
        partial=count["partial"],
        skipped=count["skipped"],
        failed=count["failed"],
        pending=inputs - sum(count[name] for name in STATUSES),
        masks=count["masks"],
        left_out=count["left_out"],
        quarantined=count["quarantined"],
        reasons=dict(sorted(reasons.items())),
        queries=dict(sorted(queries.items())),
    )


def write_tables(out: Path, tables: Mapping[str, Any], summary: Summary, account: Account | None = None) -> Summary:
    """Write the tables and the summary; `account` (default: what there is) too."""
    for name, table in tables.items():
        _write_table(out / name, table)
    summary = replace(summary, account=account or read_account(out / "summary.json"))
    write_aside(out / "summary.json", to_json(summary).encode())
    return summary


def is_summary(path: Path, summary: Summary) -> bool:
    """Whether a summary that was written says the same, whatever its account of time."""
    try:
        found = json.loads(path.read_bytes())
        return bool({**found, "account": None} == json.loads(to_json(replace(summary, account=None))))
    except (OSError, ValueError, TypeError):
        return False


def read_account(path: Path) -> Account | None:
    """What a summary that was written says of where the time went; None where it says nothing."""
    try:
        return Account.from_json(json.loads(path.read_bytes())["account"])
    except (OSError, ValueError, TypeError, KeyError):
        return None  # the first run, or what a killed one left


def gather(run: Mapping[str, Any], shards: Iterable[ShardRecord]) -> tuple[dict[str, Any], Summary]:
    """The `pyarrow.Table` of each file, the records by id and beside the masks the run's networks and options; the sum.

    Shards are taken one at a time, and kept as columns: a run may have millions of masks.
    """
    videos, masks = [_columns(VideoRecord, ())], [_columns(MaskRecord, ())]

    def seen() -> Iterator[ShardRecord]:
        for shard in shards:
            videos.append(_columns(VideoRecord, shard.videos))
            masks.append(_columns(MaskRecord, shard.masks))
            yield shard

    summary = summarize(len(run["inputs"]), seen())
    constants = {key: json.dumps(run[key], sort_keys=True) for key in ("networks", "options")}
    return {TABLES[0]: _by_id(videos, {}), TABLES[1]: _by_id(masks, constants)}, summary


def _columns(kind: Any, records: Sequence[Any]) -> Any:
    import pyarrow as pa

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
    return pa.table(columns)


def _by_id(parts: Sequence[Any], constants: Mapping[str, str]) -> Any:
    """One table of several, sorted, with columns that have one value, which is stored once."""
    import pyarrow as pa

    table = pa.concat_tables(parts)
    ids = table["id"].to_pylist()
    table = table.take(pa.array(sorted(range(len(ids)), key=ids.__getitem__), pa.int64())).combine_chunks()
    for name, value in constants.items():
        same = pa.array([0] * len(ids), pa.int32())
        table = table.append_column(name, pa.DictionaryArray.from_arrays(same, pa.array([value], pa.string())))
    return table


def _write_table(path: Path, table: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_aside(path, sink.getvalue().to_pybytes())


def _storable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
