"""Write: masks and frames, committed shard by shard.

Files are written aside and put in place by the run's layout when the last video of their shard has ended; the rename
of the shard's record is the commit. Names are hashes: nothing from the crawl becomes part of a path.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from f2f.engine.layout import Part
from f2f.engine.parts import Parts
from f2f.engine.records import (
    MaskRecord,
    ShardRecord,
    Status,
    VideoRecord,
    file_id,
    to_json,
    unusable,
    video_record,
    write_shard,
)
from f2f.engine.run import Run
from f2f.engine.stage import StageClock
from f2f.engine.types import BACKGROUND, IGNORE, End, ImageArray, LabelledWindow, PartEnd, ScanState, VideoEnd, Window

_JPEG_QUALITY = 95


def voc_palette() -> list[int]:
    """Pascal VOC's 256 colours as r, g, b, r, …: the bits of a label spread over the three channels."""
    colours: list[int] = []
    for label in range(256):
        for channel in range(3):
            colours.append(sum((label >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) & 255)
    return colours


_PALETTE = voc_palette()


def write(
    items: Iterator[LabelledWindow | End], writer: ShardWriter, clock: StageClock
) -> Iterator[MaskRecord | VideoRecord]:
    """Write every mask, keep every part and settle every video; yields the records as they are made."""
    for item in items:
        with clock.busy("write"):
            if isinstance(item, PartEnd):
                writer.keep(item)
            else:
                yield writer.settle(item) if isinstance(item, VideoEnd) else writer.add(item)


def encode_mask(labels: ImageArray) -> bytes:
    """Palette PNG of uint8 labels [H, W]."""
    image = Image.fromarray(labels)
    image.putpalette(_PALETTE)
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def encode_grey(values: ImageArray) -> bytes:
    """Grey PNG of uint8 values [H, W]."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def encode_frame(pixels: ImageArray) -> bytes:
    """JPEG of a uint8 RGB frame [H, W, 3]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


@dataclass
class _OpenShard:
    """What there is of a shard that is not committed yet, or is to be committed anew."""

    rows: range
    videos: dict[int, VideoRecord] = field(default_factory=dict)
    masks: dict[int, list[MaskRecord]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of the files in place by their path below OUT"""
    staged: dict[int, dict[str, str]] = field(default_factory=dict)
    """sha256 by name of the files of each video that were staged since its last part"""


class ShardWriter:
    """Collects the masks and records of open shards and commits each when its last video has ended.

    Of a shard that is committed and has inputs to be done again, all else is kept as it is.
    """

    def __init__(
        self,
        run: Run,
        queries: Mapping[int, int],
        on_commit: Callable[[ShardRecord], None] = lambda _: None,
        shards: Sequence[int] | None = None,
    ) -> None:
        """`queries` maps a video to the channel of its query's class.

        `shards` are those that are worked on (default: all that have inputs to be done).
        """
        self._run, self._queries, self._on_commit = run, queries, on_commit
        self._layout = run.layout
        self._numbers = tuple(run.pending_shards() if shards is None else shards)
        self.parts = Parts(run, self._numbers)
        self._shards = {shard: _reopened(run, shard) for shard in self._numbers}
        self._shard_of = {row: shard for shard in self._numbers for row in run.shard_rows(shard)}

    def name(self, window: Window) -> str:
        """Name of the files of a window."""
        return file_id(self._run.rows[window.video].id, window.number)

    def add(self, labelled: LabelledWindow) -> MaskRecord:
        """Write a mask and its frame aside."""
        record = self._mask_record(labelled)
        files: dict[Part, bytes] = {
            "frame": encode_frame(labelled.window.frames[-1].image),
            "mask": encode_mask(labelled.labels),
            "record": to_json(record).encode(),
        }
        if "confidence" in self._layout.parts:
            assert labelled.confidence is not None, "the rule gives it"
            files["confidence"] = encode_grey(labelled.confidence)
        video = labelled.window.video
        staged = self._layout.stage(self._shard_of[video], record.id, files)
        self._masks_of(video).append(record)
        self._shard(video).staged.setdefault(video, {}).update(staged)
        return record

    def keep(self, end: PartEnd) -> None:
        """Keep a part of a video, so that a run that dies goes on behind it."""
        self.parts.add(end, self._masks_of(end.video), self._shard(end.video).staged.pop(end.video, {}))

    def settle(self, end: VideoEnd) -> VideoRecord:
        """Note what became of a video; a failed one loses its masks."""
        if end.failure:
            self._drop_masks(end.video)
        masks = self._masks_of(end.video)
        record = video_record(self._run.rows[end.video], end, len(masks))
        if not end.failure and self.parts.has_some(end.video):  # other videos may keep its shard open for long
            scan = ScanState(end.report.frames_sampled, end.report.last_seconds)
            staged = self._shard(end.video).staged.pop(end.video, {})
            self.parts.add(PartEnd(end.video, scan, end.report), masks, staged, record)
        return self._note(end.video, record)

    def settle_finished(self) -> Iterator[VideoRecord]:
        """Note what became of the videos that an earlier run finished, in shards that it did not."""
        for video, record in sorted(self.parts.finished.items()):
            self._masks_of(video)
            yield self._note(video, record)

    def refuse(self, video: int, status: Status, reason: str, detail: str) -> VideoRecord:
        """Note an input that is never opened: `failed`, or `skipped` where nothing is wrong with it."""
        return self._note(video, unusable(self._run.rows[video], status, reason, detail))

    def abandon(self) -> None:
        """Remove what open shards wrote aside, but for the parts of videos that are done."""
        for shard in self._numbers:
            self.parts.clear(shard)

    def _note(self, video: int, record: VideoRecord) -> VideoRecord:
        number = self._shard_of[video]
        shard = self._shards[number]
        before = shard.videos.get(video)
        if before is not None:
            record = replace(record, attempts=before.attempts + 1, max_attempts=before.max_attempts)
        shard.videos[video] = record
        if all(row in shard.videos and shard.videos[row].status != "pending" for row in shard.rows):
            self._commit(number, shard)
            del self._shards[number]
        return record

    def _commit(self, number: int, shard: _OpenShard) -> None:
        videos = tuple(shard.videos[row] for row in shard.rows)
        masks = tuple(mask for row in shard.rows for mask in sorted(shard.masks.get(row, []), key=lambda mask: mask.id))
        ids = [mask.id for mask in masks]
        files = {**shard.files, **self._layout.publish(number, ids)}
        there = [path.relative_to(self._run.out).as_posix() for path in self._layout.files(number, ids)]
        record = ShardRecord(number, videos, masks, {name: files[name] for name in there if name in files})
        write_shard(self._run.out, record)
        self.parts.close(number)
        self.parts.clear(number)
        self._on_commit(record)

    def _shard(self, video: int) -> _OpenShard:
        return self._shards[self._shard_of[video]]

    def _masks_of(self, video: int) -> list[MaskRecord]:
        """What there is of a video, what earlier runs did of it first."""
        masks = self._shard(video).masks
        if video not in masks:
            masks[video] = self.parts.masks(video)
        return masks[video]

    def _drop_masks(self, video: int) -> None:
        self.parts.forget(video)
        for mask in self._shard(video).masks.pop(video, []):
            self._layout.drop(self._shard_of[video], mask.id)

    def _mask_record(self, labelled: LabelledWindow) -> MaskRecord:
        window, labels = labelled.window, labelled.labels
        row, names = self._run.rows[window.video], self._run.classes
        query = self._queries[window.video]
        counts = np.bincount(labels.ravel(), minlength=256)
        return MaskRecord(
            id=self.name(window),
            input=row.id,
            video=row.video,
            query=row.query,
            query_class=names[query],
            window=window.number,
            shot=window.frames[-1].shot,
            classes=tuple(names[channel] for channel in window.classes),
            pts_seconds=tuple(frame.pts_seconds for frame in window.frames),
            scores=window.scores,
            areas_px=tuple(int(counts[channel + 1]) for channel in window.classes),
            background_px=int(counts[BACKGROUND]),
            ignore_px=int(counts[IGNORE]),
            width_px=labels.shape[1],
            height_px=labels.shape[0],
            quality=labelled.quality(query),
        )


def _reopened(run: Run, shard: int) -> _OpenShard:
    """A shard with what is committed of it."""
    rows, record = run.shard_rows(shard), run.record_of.get(shard)
    if record is None:
        return _OpenShard(rows)
    videos = dict(zip(rows, record.videos, strict=True))
    masks = {row: record.masks_of(video) for row, video in videos.items() if video.status != "pending"}
    return _OpenShard(rows, videos, masks, dict(record.files))
