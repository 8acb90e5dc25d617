"""Clips of the user's own videos, which networks in less than float32 are calibrated and judged on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from f2f.engine.classify import to_tensor
from f2f.engine.options import DecodeOptions, SourceOptions
from f2f.engine.pool import DecodePool
from f2f.engine.runtimes.network import CONTRACTS, Kind
from f2f.engine.source import read_source
from f2f.engine.types import Frame, VideoEnd
from f2f.training.options import PrecisionOptions

CLIP_FRAMES = 3
Clip = tuple[Frame, ...]


def clips_of(options: PrecisionOptions) -> list[Clip]:
    """Clips of consecutive sampled frames of one shot, as many from each of as many videos as there are."""
    rows = [row for row in read_source(options.calibrate, SourceOptions()) if not row.problem]
    chosen = rows[:: max(1, len(rows) // options.calibrate_clips)]
    wanted = -(-options.calibrate_clips // max(1, len(chosen)))
    found: dict[int, list[Clip]] = {}
    with DecodePool(DecodeOptions(max_side=options.calibrate_max_side)) as pool:
        for clip in _clips(pool.frames(enumerate(chosen))):
            mine = found.setdefault(clip[0].video, [])
            mine += [clip] if len(mine) < wanted else []
            if len(mine) == wanted:
                pool.cancel(clip[0].video)
    return [clip for video in sorted(found) for clip in found[video]][: options.calibrate_clips]


def _clips(frames: Iterator[Frame | VideoEnd]) -> Iterator[Clip]:
    """Runs of frames of one shot that show something, none twice."""
    runs: dict[int, list[Frame]] = {}
    for item in frames:
        if isinstance(item, VideoEnd) or item.blank:
            continue
        run = runs.setdefault(item.video, [])
        if run and (run[-1].shot, run[-1].size_hw) != (item.shot, item.size_hw):
            run.clear()
        run.append(item)
        if len(run) == CLIP_FRAMES:
            yield tuple(run)
            run.clear()


def inputs_of(kind: Kind, clips: Sequence[Clip]) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """What goes into a network of a kind, clip by clip."""
    for clip in clips:
        images = to_tensor([frame.image for frame in clip])  # [K, 3, H, W]
        yield {CONTRACTS[kind].input: (images[None] if kind == "flow" else images).numpy()}
