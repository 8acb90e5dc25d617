"""Replay: a mask of a run -> its window once more, decoded anew, and the networks and options it was made with.

What has changed since the run, video or network, is refused.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from f2f.engine import nvdec
from f2f.engine.decoder import MOST_LEVELS
from f2f.engine.errors import RunMismatchError, UsageError
from f2f.engine.job import Networks, open_networks
from f2f.engine.layout import Layout, layout_of
from f2f.engine.options import LabelOptions
from f2f.engine.picture import open_image
from f2f.engine.pool import DecodePool
from f2f.engine.records import MaskRecord, read_shards
from f2f.engine.run import read_run
from f2f.engine.source import printable, read_source
from f2f.engine.staging import Stager
from f2f.engine.types import Frame, InputRow, VideoEnd, Window
from f2f.engine.write import encode_frame

_CLOSE_LEVELS = 2.0
"""mean difference of two JPEG files of one frame that other versions of the libraries explain"""


@dataclass(frozen=True)
class Replay:
    """A mask, and what it was made from."""

    mask: MaskRecord
    window: Window
    """the same frames; `video` is 0"""
    networks: Networks
    """without the saliency"""
    layout: Layout
    """where the mask lies"""
    options: LabelOptions
    """those of the run, with `saliency` none"""


def replay(run: Path, mask: str, asked: Mapping[str, str | None]) -> Replay:
    """Everything that the stages need to make a mask again.

    Args:
        run: an output folder of `label`, finished or not.
        mask: the mask's id, or the beginning of it.
        asked: source, classifier and flow; None: where the run found it.

    Raises:
        UsageError: no such run or mask, or the video cannot be found or has changed.
        RunMismatchError: a network is not the run's.
    """
    pinned = read_run(run)
    layout = layout_of(run, pinned["options"])
    record = _find_mask(run, layout, mask)
    options = _options(run, pinned, asked)
    networks = open_networks(options)
    _refuse_other_networks(pinned, networks, options)
    frames = _decode_again(record, options)
    by_another = nvdec.is_named(pinned.get("decoder")) and options.decode.decoder == "cpu"
    _refuse_other_frames(layout, record, frames, _CLOSE_LEVELS + MOST_LEVELS * by_another)
    classes = tuple(pinned["classes"].index(name) for name in record.classes)
    return Replay(record, Window(0, record.window, frames, classes, record.scores), networks, layout, options)


def _find_mask(run: Path, layout: Layout, start: str) -> MaskRecord:
    masks = [mask for shard in read_shards(run) for mask in shard.masks]
    found = [mask for mask in masks if mask.id == start] or [mask for mask in masks if mask.id.startswith(start)]
    if len(found) == 1:
        return found[0]
    fitting = f"{len(found)} ids begin ({', '.join(mask.id for mask in found[:3])}, …)" if found else "no id begins"
    raise UsageError(
        f"{start!r} names none of the {len(masks)} masks in {run}: {fitting} with it; accepted: an entry of the "
        f"column `id` of {run / 'labels.parquet'}, a file name of {layout.masks} without suffix, "
        "or its beginning; give one"
    )


def _options(run: Path, pinned: Mapping[str, Any], asked: Mapping[str, str | None]) -> LabelOptions:
    """The options of a run, from what it pins, and where it found source and networks, from its note."""
    given = {**pinned.get("given", {}), **{name: value for name, value in asked.items() if value is not None}}
    missing = [f"--{name}" for name in asked if not given.get(name)]
    if missing:
        raise UsageError(
            f"{run / 'run.json'} does not say where source and networks of the run are: an older f2f wrote it; give "
            f"{', '.join(missing)} as `f2f label` got them"
        )
    flat = {"rule": "paper", **pinned["options"]}  # runs from before there were rules did what the paper does
    flat = {name: tuple(value) if isinstance(value, list) else value for name, value in flat.items()}
    parts: dict[str, Any] = {}
    for entry in fields(LabelOptions):
        kind: Any = entry.default_factory
        if isinstance(kind, type):
            parts[entry.name] = kind(**{part.name: flat[part.name] for part in fields(kind) if part.name in flat})
    on_gpu = nvdec.is_named(pinned.get("decoder")) and not nvdec.obstacle()
    parts["decode"] = replace(parts["decode"], decoder="cuda" if on_gpu else "cpu", decoders=1)
    parts["aggregation"] = replace(parts["aggregation"], sure_background=False)  # for which saliency would be opened
    return LabelOptions(**{name: given[name] for name in asked}, out=run, saliency="none", **parts)


def _refuse_other_networks(pinned: Mapping[str, Any], networks: Networks, options: LabelOptions) -> None:
    found = {
        "classifier": (options.classifier, networks.classifier.info.fingerprint),
        "flow": (options.flow, networks.flow.fingerprint),
    }
    for kind, (name, fingerprint) in found.items():
        wanted = pinned["networks"][kind]
        if fingerprint != wanted["sha256"]:
            raise RunMismatchError(
                f"--{kind} {name} has sha256 {fingerprint}; the run was made with sha256 {wanted['sha256']} "
                f"({wanted['runtime']}); give that one with --{kind}"
            )


def _decode_again(mask: MaskRecord, options: LabelOptions) -> tuple[Frame, ...]:
    """The frames of a mask, sampled as the run did it."""
    wanted, frames = set(mask.pts_seconds), list[Frame]()
    row, why = _input(mask, options), "other frames are sampled now"
    with DecodePool(options.decode) as pool, Stager(options.fetch) as stager:
        for item in stager.frames(pool, [(0, row)]):
            if isinstance(item, VideoEnd):
                why = item.failure.detail if item.failure else why
                break
            if item.pts_seconds in wanted:
                frames.append(item)
            if len(frames) == len(wanted):
                break
    lost = wanted - {frame.pts_seconds for frame in frames}
    if lost:
        raise _changed(mask, f"has no frame at {min(lost):.3f} s ({why})")
    return tuple(frames)


def _input(mask: MaskRecord, options: LabelOptions) -> InputRow:
    rows = [row for row in read_source(options.source, options.sources) if row.id == mask.input]
    if not rows or (rows[0].video, rows[0].query) != (mask.video, mask.query):
        raise UsageError(
            f"source {options.source!r} has no input {printable(mask.input)!r}, which the mask is of; give what was "
            "labelled with --source"
        )
    if rows[0].problem:
        raise _changed(mask, rows[0].problem[1])
    return rows[0]


def _refuse_other_frames(layout: Layout, mask: MaskRecord, frames: Sequence[Frame], close_levels: float) -> None:
    written = np.asarray(open_image(layout.find(mask.id, "frame")))  # [H, W, 3]
    for frame in frames:
        if frame.image.shape != written.shape:
            sizes = ["x".join(map(str, shape[1::-1])) for shape in (frame.image.shape, written.shape)]
            raise _changed(mask, f"has frames of {sizes[0]} px where {sizes[1]} px were written")
    again = np.asarray(Image.open(io.BytesIO(encode_frame(frames[-1].image))))  # JPEG's loss is no difference
    levels = np.abs(written.astype(np.int16) - again).mean()
    if levels > close_levels:
        seconds = frames[-1].pts_seconds
        raise _changed(mask, f"shows something else at {seconds:.3f} s (mean difference {levels:.1f} of 255)")


def _changed(mask: MaskRecord, what: str) -> UsageError:
    return UsageError(
        f"video {printable(mask.video)} changed since it was labelled: it {what}; restore it, or name its source with "
        "--source"
    )
