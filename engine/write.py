"""Write: masks and frames, committed shard by shard.

Files are written aside and put in place by the run's layout when the last video of their shard has ended; the rename
of the shard's record is the commit. Names are hashes: nothing from the crawl becomes part of a path.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from PIL import Image

from f2f.engine.files import write_aside
from f2f.engine.layout import Part
from f2f.engine.records import MaskRecord, ShardRecord, Status, VideoRecord, to_json, unusable, video_record
from f2f.engine.run import Run
from f2f.engine.stage import StageClock
from f2f.engine.types import BACKGROUND, IGNORE, ImageArray, LabelledWindow, VideoEnd, Window

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
    items: Iterator[LabelledWindow | VideoEnd], writer: ShardWriter, clock: StageClock
) -> Iterator[MaskRecord | VideoRecord]:
    """Write every mask and settle every video; yields the records as they are made."""
    for item in items:
        with clock.busy("write"):
            yield writer.settle(item) if isinstance(item, VideoEnd) else writer.add(item)


def file_id(input_id: str, window: int) -> str:
    """Name of a mask's files: a hash of the input's id and the window's number."""
    return f"{hashlib.sha256(os.fsencode(input_id)).hexdigest()[:16]}-{window:04d}"


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


class ShardWriter:
    """Collects the masks and records of open shards and commits each when its last video has ended."""

    def __init__(
        self,
        run: Run,
        queries: Mapping[int, int],
        on_commit: Callable[[ShardRecord], None] = lambda _: None,
    ) -> None:
        """`queries` maps a video to the channel of its query's class."""
        self._run, self._queries, self._on_commit = run, queries, on_commit
        self._layout = run.layout
        self._masks: dict[int, list[MaskRecord]] = {}
        self._videos: dict[int, VideoRecord] = {}
        self._shard_of = {row: shard for shard in run.pending_shards() for row in run.shard_rows(shard)}

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
        self._layout.stage(self._shard_of[labelled.window.video], record.id, files)
        self._masks.setdefault(labelled.window.video, []).append(record)
        return record

    def settle(self, end: VideoEnd) -> VideoRecord:
        """Note what became of a video; a failed one loses its masks."""
        if end.failure:
            self._drop_masks(end.video)
        record = video_record(self._run.rows[end.video], end, len(self._masks.get(end.video, [])))
        return self._note(end.video, record)

    def refuse(self, video: int, status: Status, reason: str, detail: str) -> VideoRecord:
        """Note an input that is never opened: `failed`, or `skipped` where nothing is wrong with it."""
        return self._note(video, unusable(self._run.rows[video], status, reason, detail))

    def abandon(self) -> None:
        """Remove what open shards wrote aside."""
        self._layout.clear_staging()

    def _note(self, video: int, record: VideoRecord) -> VideoRecord:
        self._videos[video] = record
        shard = self._shard_of[video]
        rows = self._run.shard_rows(shard)
        if all(row in self._videos for row in rows):
            self._commit(shard, rows)
        return record

    def _commit(self, shard: int, rows: range) -> None:
        videos = tuple(self._videos.pop(row) for row in rows)
        masks = tuple(mask for row in rows for mask in sorted(self._masks.pop(row, []), key=lambda mask: mask.id))
        self._layout.publish(shard, [mask.id for mask in masks])
        record = ShardRecord(shard, videos, masks)
        write_aside(self._run.out / "shards" / f"{shard:06d}.json", to_json(record).encode())
        self._layout.clear_staging(shard)
        self._on_commit(record)

    def _drop_masks(self, video: int) -> None:
        for mask in self._masks.pop(video, []):
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
