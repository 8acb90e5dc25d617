"""Show: how a mask of a run came about, frame by frame, as a picture (paper Fig. 7).

Nothing of it is stored: the window goes through the stages of the run's rule once more, its first one, two, … K
frames by themselves.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from f2f.engine.aggregate import aggregate
from f2f.engine.cam import Activation, MultiScaleCams, activate, activate_softly, soften
from f2f.engine.errors import UsageError
from f2f.engine.evidence import weigh
from f2f.engine.files import write_aside
from f2f.engine.flow import follow, follow_both_ways
from f2f.engine.flow_picture import flow_row
from f2f.engine.options import FlowOptions
from f2f.engine.picture import contact_sheet, heat, open_image, overlay
from f2f.engine.records import MaskRecord
from f2f.engine.replay import Replay, replay
from f2f.engine.stage import StageClock
from f2f.engine.types import End, ImageArray, MovingSoftWindow, MovingWindow, VideoEnd, Window
from f2f.kernels import compose_labels

Item = TypeVar("Item")

_CELL_PX = 300


@dataclass(frozen=True)
class _Rows:
    """What the rule did: rows of K pictures each, and what they are called."""

    pictures: tuple[list[ImageArray], ...]
    captions: tuple[str, ...]


def show_mask(
    run: Path,
    mask: str,
    *,
    out: Path | None = None,
    source: str | None = None,
    classifier: str | None = None,
    flow: str | None = None,
) -> Path:
    """Draw how a mask came about; what `f2f show` does. Returns the path of the picture.

    Args:
        run: an output folder of `label`, finished or not.
        mask: the mask's id, or the beginning of it.
        out: the PNG file; None: `<run>/show/<id>.png`.
        source: what was labelled; this and the networks are where the run found them unless they are given.
        classifier: the run's classifier.
        flow: the run's flow.

    Raises:
        UsageError: no such run or mask, or the video cannot be found or has changed.
        RunMismatchError: a network is not the run's.
    """
    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} is not accepted; accepted: a file name that ends in .png; give one")
    again = replay(run, mask, {"source": source, "classifier": classifier, "flow": flow})
    path = out or run / "show" / f"{again.mask.id}.png"
    stream = io.BytesIO()
    _draw(again).save(stream, "PNG")
    write_aside(path, stream.getvalue())
    return path


def _draw(again: Replay) -> Image.Image:
    """One column per frame, and one for the mask as it is on disk."""
    mask, window, rule = again.mask, again.window, again.options.aggregation.rule
    cams = MultiScaleCams(again.networks.classifier, again.options.cam.scales)
    rows = _rows_by_evidence(again, cams) if rule == "f2f" else _rows_by_the_paper(again, cams)
    frames = [frame.image for frame in window.frames]
    labels = open_image(again.layout.find(mask.id, "mask"))
    last = [np.asarray(labels.convert("RGB")), None, None, overlay(frames[-1], np.asarray(labels))]
    headings = [f"{number}:  {frame.pts_seconds:.2f} s" for number, frame in enumerate(window.frames, 1)]
    cells = [[*row, end] for row, end in zip([frames, *rows.pictures], last, strict=True)]
    captions = ["frames, the last of which has the mask", *rows.captions]
    return contact_sheet([*headings, "mask as written"], cells, captions, _CELL_PX, _title(mask, rule))


def _rows_by_the_paper(again: Replay, cams: MultiScaleCams) -> _Rows:
    window, networks, clock = again.window, again.networks, StageClock()
    active = activate(_video(window), Activation(cams, networks.theta_f), clock)
    (moving,) = _results(follow(active, networks.flow, FlowOptions(), clock))
    parts = [
        MovingWindow(part, moving.bits[:count], moving.flow_xy_px[: count - 1])
        for count, part in enumerate(_beginnings(window), 1)
    ]
    unions = [united.bits for united in _results(aggregate(_video(*parts), clock))]  # K of [N, H, W]
    heats = _heats(window, soften(cams, window).maps)
    single, united = _labels(moving.bits, window), _labels(torch.stack(unions), window)  # [K, H, W] each
    flows, flow_caption = flow_row(moving)
    return _Rows(
        (
            [overlay(picture, labels, opacity=0) for picture, labels in zip(heats, single, strict=True)],
            flows,
            [overlay(frame.image, labels) for frame, labels in zip(window.frames, united, strict=True)],
        ),
        (
            f"activation of each frame alone; outlined: above {networks.theta_f:g} of its class's peak",
            flow_caption,
            "union of the outlined regions so far, carried along the flow; right: the mask",
        ),
    )


def _rows_by_evidence(again: Replay, cams: MultiScaleCams) -> _Rows:
    window, networks, clock = again.window, again.networks, StageClock()
    soft = activate_softly(_video(window), cams, clock)
    (moving,) = _results(follow_both_ways(soft, networks.flow, FlowOptions(), clock))
    parts = [
        MovingSoftWindow(part, moving.maps[:count], moving.flow_xy_px[: count - 1], moving.return_xy_px[: count - 1])
        for count, part in enumerate(_beginnings(window), 1)
    ]
    evidence = [evident.evidence for evident in _results(weigh(_video(*parts), clock))]  # K of [P, H, W]
    flows, flow_caption = flow_row(moving)
    return _Rows(
        (_heats(window, moving.maps), flows, _heats(window, torch.stack(evidence))),
        (
            "activation of each frame alone",
            flow_caption,
            "evidence so far: activation carried along the flow, weighed by motion of its own; right: the mask",
        ),
    )


def _video(*items: Item) -> Iterator[Item | VideoEnd]:
    """What stages take: the items of a video and its end."""
    yield from items
    yield VideoEnd(0)


def _results(items: Iterator[Item | End]) -> list[Item]:
    """What came out of the stages, without ends."""
    results = list[Item]()
    for item in items:
        if not isinstance(item, End):
            results.append(item)
        elif isinstance(item, VideoEnd) and item.failure:
            raise UsageError(f"{item.failure.stage}: {item.failure.detail}; the mask cannot be made again")
    return results


def _beginnings(window: Window) -> list[Window]:
    """The window's first frame, its first two, … all of them, each as a window."""
    return [replace(window, frames=window.frames[:count]) for count in range(1, len(window.frames) + 1)]


def _heats(window: Window, maps: Tensor) -> list[ImageArray]:
    """The frames under maps [K, P, H, W], the strongest of the classes at each pixel."""
    strongest = maps.amax(dim=1).numpy()  # [K, H, W]
    return [heat(frame.image, strength) for frame, strength in zip(window.frames, strongest, strict=True)]


def _labels(bits: Tensor, window: Window) -> ImageArray:
    """Bit planes [K, N, H, W] as labels [K, H, W], background where no class is."""
    nothing = torch.zeros(len(bits), 1, *window.size_hw)  # [K, 1, H, W]
    classes = torch.tensor([window.classes] * len(bits))  # [K, P]
    labels: ImageArray = compose_labels(bits, classes, nothing, 1.0).numpy()
    return labels


def _title(mask: MaskRecord, rule: str) -> tuple[str, str]:
    total = mask.width_px * mask.height_px / 100
    names = [f"{name} {area / total:.1f} %" for name, area in zip(mask.classes, mask.areas_px, strict=True)]
    areas = [*names, f"background {mask.background_px / total:.1f} %", f"ignored {mask.ignore_px / total:.1f} %"]
    estimate = "" if mask.quality is None else f"estimated IoU {mask.quality:.2f};  "
    return (
        _drawable(f"{mask.query}:  {mask.video}   (mask {mask.id})"),
        _drawable(f"rule {rule};  {estimate}{',  '.join(areas)}"),
    )


def _drawable(text: str) -> str:
    """`text` in the letters that the picture's font has."""
    apart = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in apart if not unicodedata.combining(letter)).encode("ascii", "replace").decode()
