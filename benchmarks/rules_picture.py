"""Draw what the rules do to masks, for quality.py: every video's IoU, and a window per class step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pictures import GRID, INK, open_pyplot, save_picture

from f2f.engine.evaluate import overlap
from f2f.engine.picture import contact_sheet, overlay
from f2f.engine.types import ImageArray
from f2f.training.synth import CLASSES

_DOCS = Path(__file__).parents[1] / "docs"
_LOOKS = {
    "single frame": ("one frame's activation", "#9a9a9a", "o"),
    "rule paper": ("--rule paper", "#3d6a8a", "s"),
    "rule f2f": ("--rule f2f", "#d1495b", "D"),
}
_TITLES = {"real": "Nine real videos", "synthetic": "Synthetic web"}
_STEPS = {
    "single frame": "single frame",
    "rule paper": "rule paper",
    "soft gated union": "soft gated union",
    "soft gated union, motion": "... by motion",
    "rule f2f": "... CRF = rule f2f",
}
_SHEET_COLOURS = 128


@dataclass(frozen=True)
class Example:
    """A window: its last frame, and the masks of its query's class."""

    name: str
    """the class"""
    image: ImageArray
    """uint8 [H, W, 3] RGB"""
    masks: Mapping[str, npt.NDArray[np.bool_]]
    """by rule, bool [H, W]"""
    true: npt.NDArray[np.bool_]
    """bool [H, W]"""


def draw_rules(world: str, rows: Sequence[Mapping[str, str]]) -> None:
    """docs/rules_<world>.png: a line per video with the IoU of each rule, best rule f2f first."""
    plt = open_pyplot()
    by_rule = {rule: {row["video"]: float(row["iou"]) for row in rows if row["rule"] == rule} for rule in _LOOKS}
    videos = sorted(by_rule["rule f2f"], key=by_rule["rule f2f"].__getitem__)
    figure, axes = plt.subplots(figsize=(7, 1.1 + 0.27 * len(videos)), dpi=130, layout="constrained")
    for place, video in enumerate(videos):
        ious = [by_rule[rule][video] for rule in _LOOKS]
        axes.plot([min(ious), max(ious)], [place, place], color=GRID, linewidth=5, zorder=1)
    for rule, (label, colour, marker) in _LOOKS.items():
        mean = np.mean(list(by_rule[rule].values()))
        ious = [by_rule[rule][video] for video in videos]
        axes.scatter(
            ious, range(len(videos)), color=colour, marker=marker, s=34, zorder=2, label=f"{label}: {mean:.3f}"
        )
    names = _shown(sorted(videos))
    axes.set_yticks(range(len(videos)), [names[video] for video in videos])
    axes.set(xlim=(0, 0.9), xlabel="mean IoU of the video's masks")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(_LOOKS), columnspacing=1.4)
    axes.set_title(_TITLES[world], color=INK, fontsize=10.5, fontweight="bold", loc="left", pad=26)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    save_picture(figure, _DOCS / f"rules_{world}.png")


def draw_steps(examples: Sequence[Example]) -> None:
    """docs/steps.png: a row per example, a column per step, IoU below; the truth last."""
    headings = ["last frame", *_STEPS.values(), "truth"]
    sheet = contact_sheet(headings, [_cells(one) for one in examples], [_caption(one) for one in examples], 214)
    sheet.quantize(_SHEET_COLOURS).save(_DOCS / "steps.png", optimize=True)


def _cells(example: Example) -> list[ImageArray]:
    label = np.uint8(CLASSES.index(example.name) + 1)
    masks = [*(example.masks[rule] for rule in _STEPS), example.true]
    return [example.image, *(overlay(example.image, np.where(mask, label, np.uint8(0))) for mask in masks)]


def _caption(example: Example) -> str:
    ious = {words: overlap(example.masks[rule], example.true).iou for rule, words in _STEPS.items()}
    return f"{example.name}   IoU: " + ",   ".join(f"{words} {iou:.2f}" for words, iou in ious.items())


def _shown(videos: Sequence[str]) -> dict[str, str]:
    """Names as short as they can be: a query's only video by the query, several of them numbered."""
    queries = [video.partition("/")[0] for video in videos]
    return {
        video: query if queries.count(query) == 1 else f"{query} {queries[: place + 1].count(query)}"
        for place, (video, query) in enumerate(zip(videos, queries, strict=True))
    }
