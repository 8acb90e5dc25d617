"""Segment: images and videos -> masks by a segmenter, overlays to look at, and a record for every input.

OUT/masks/<name>.png             of an image; <name> is its path in the source, without suffix
OUT/masks/<name>/000000.png …    of a video, by the number of the sampled frame
OUT/overlays/<name>.jpg | .mp4   the same over image and video
OUT/labels.txt  summary.json     the classes by their number in a mask; what became of every input
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from f2f.engine.errors import MachineError, UsageError, VideoError
from f2f.engine.files import write_aside
from f2f.engine.film import Film
from f2f.engine.options import SegmentOptions
from f2f.engine.picture import BAD_IMAGE, overlay
from f2f.engine.pool import DecodePool
from f2f.engine.segmenter import Segmenter
from f2f.engine.source import printable
from f2f.engine.types import Frame, ImageArray, InputRow, VideoEnd
from f2f.engine.video_tars import VIDEO_SUFFIXES
from f2f.engine.write import encode_frame, encode_mask

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class SegmentRecord:
    """What became of one input."""

    input: str
    """its path in the source"""
    status: Literal["ok", "partial", "failed"]
    masks: int = 0
    reason: str = ""
    """stable word: why it is not ok"""
    detail: str = ""


@dataclass
class SegmentSummary:
    """What became of all inputs."""

    records: list[SegmentRecord] = field(default_factory=list)

    @property
    def masks(self) -> int:
        """Masks written."""
        return sum(record.masks for record in self.records)

    def count(self, status: str) -> int:
        """Inputs that ended so."""
        return sum(record.status == status for record in self.records)

    @property
    def exit_code(self) -> int:
        """0, or 3 where an input failed."""
        return 3 if self.count("failed") else 0


@dataclass(frozen=True)
class _Input:
    name: str
    """path in the source without suffix: that of its masks"""
    path: Path
    shown: str


def segment(
    options: SegmentOptions, on_record: Callable[[SegmentRecord, int], None] = lambda *_: None
) -> SegmentSummary:
    """Segment a source; what `f2f segment` does. `on_record` gets every record and the number of all inputs.

    Raises:
        UsageError: the options, the network or the source cannot be used.
        MachineError: the machine stopped the run (disk full, …).
    """
    segmenter = Segmenter.open(options.model, options.inference, options.runtimes)
    images, videos = _inputs(options.source)
    write_aside(options.out / "labels.txt", "\n".join(["background", *segmenter.info.classes, ""]).encode())
    summary = SegmentSummary()
    with ExitStack() as stack:
        stack.callback(_write_summary, options.out, summary)
        for record in _records(images, videos, segmenter, options):
            summary.records.append(record)
            on_record(record, len(images) + len(videos))
    return summary


def _records(
    images: Sequence[_Input], videos: Sequence[_Input], segmenter: Segmenter, options: SegmentOptions
) -> Iterator[SegmentRecord]:
    try:
        for image in images:
            yield _segment_image(image, segmenter, options)
        yield from _segment_videos(videos, segmenter, options)
    except MemoryError as error:
        raise MachineError("the memory is used up; give --max-side a smaller value and run again") from error


def _segment_image(image: _Input, segmenter: Segmenter, options: SegmentOptions) -> SegmentRecord:
    try:
        pixels = _read_image(image.path)
        labels = segmenter(pixels)
    except VideoError as error:
        return SegmentRecord(image.shown, "failed", 0, error.reason, error.detail)
    write_aside(options.out / "masks" / f"{image.name}.png", encode_mask(labels))
    if options.overlays:
        write_aside(options.out / "overlays" / f"{image.name}.jpg", encode_frame(overlay(pixels, labels)))
    return SegmentRecord(image.shown, "ok", 1)


def _read_image(path: Path) -> ImageArray:
    """uint8 [H, W, 3] RGB, upright."""
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except BAD_IMAGE as error:
        raise VideoError("not_an_image", f"{type(error).__name__}: {error}") from error


def _segment_videos(videos: Sequence[_Input], segmenter: Segmenter, options: SegmentOptions) -> Iterator[SegmentRecord]:
    """Frame by frame: of a video no more than a few frames are in memory."""
    rows = [(number, InputRow(one.name, str(one.path), "", str(one.path))) for number, one in enumerate(videos)]
    works = {number: _VideoWork(one, segmenter, options) for number, one in enumerate(videos)}
    with DecodePool(options.decode) as pool, ExitStack() as unfinished:
        for work in works.values():
            unfinished.callback(work.abandon)
        for item in pool.frames(rows):
            if isinstance(item, VideoEnd):
                yield works.pop(item.video).end(item)
            elif not works[item.video].add(item):
                pool.cancel(item.video)


class _VideoWork:
    """The masks of one video."""

    def __init__(self, video: _Input, segmenter: Segmenter, options: SegmentOptions) -> None:
        self._video, self._segmenter, self._out = video, segmenter, options.out
        self._film = Film(options.out / "overlays" / f"{video.name}.mp4") if options.overlays else None
        self._masks = 0
        self._error: VideoError | None = None

    def add(self, frame: Frame) -> bool:
        """Segment a frame; False where the video has failed."""
        if self._error:
            return False
        try:
            labels = self._segmenter(frame.image)
        except VideoError as error:
            self._error = error
            return False
        write_aside(self._out / "masks" / self._video.name / f"{self._masks:06d}.png", encode_mask(labels))
        self._masks += 1
        if self._film:
            self._film.add(overlay(frame.image, labels), frame.pts_seconds)
        return True

    def end(self, end: VideoEnd) -> SegmentRecord:
        """Finish the film; what became of the video."""
        if self._film:
            self._film.close()
        if self._error:
            reason, detail = self._error.reason, self._error.detail
        elif end.failure:
            reason, detail = end.failure.reason, end.failure.detail
        else:
            reason, detail = end.note or ("", "")
        if not reason:
            return SegmentRecord(self._video.shown, "ok", self._masks)
        return SegmentRecord(self._video.shown, "partial" if self._masks else "failed", self._masks, reason, detail)

    def abandon(self) -> None:
        """Remove what of the film there is; nothing where it is finished."""
        if self._film:
            self._film.abandon()


def _inputs(source: Path) -> tuple[list[_Input], list[_Input]]:
    """Images and videos of a source, in the order of their names."""
    if source.is_dir():
        root, paths = source, sorted(path for path in source.rglob("*") if path.is_file() and _is_inside(path, source))
    else:
        root, paths = source.parent, [source]
    images, videos = (
        [_input(root, path) for path in paths if path.suffix.lower() in suffixes]
        for suffixes in (IMAGE_SUFFIXES, VIDEO_SUFFIXES)
    )
    if not source.exists() or not images + videos:
        what = "holds no image and no video" if source.exists() else "is not there"
        accepted = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        raise UsageError(f"source {source} {what}; accepted: a file, or a folder with files, {accepted}; give one")
    _refuse_equal_names(images + videos)
    return images, videos


def _is_inside(path: Path, root: Path) -> bool:
    """Links that leave the source are not followed."""
    return path.resolve().is_relative_to(root.resolve())


def _input(root: Path, path: Path) -> _Input:
    relative = path.relative_to(root)
    return _Input(str(relative.with_suffix("")), path, printable(str(relative)))


def _refuse_equal_names(inputs: Sequence[_Input]) -> None:
    seen: dict[str, _Input] = {}
    for one in inputs:
        if (other := seen.setdefault(one.name, one)) is not one:
            raise UsageError(f"{other.shown} and {one.shown} would get the same masks; rename one of them")


def _write_summary(out: Path, summary: SegmentSummary) -> None:
    counts = {status: summary.count(status) for status in ("ok", "partial", "failed")}
    content = {"inputs": len(summary.records), **counts, "masks": summary.masks}
    records = [asdict(record) for record in summary.records]
    write_aside(out / "summary.json", json.dumps({**content, "records": records}, indent=1).encode())
