"""YouTube-Objects by the two protocols in use, as papers that report a class mean rarely say which one they took.

Frame by frame (video object segmentation): IoU of a frame's object, mean over a clip, over a class, over classes.
Pooled: one IoU over all pixels of a class, mean over classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from f2f.engine.types import BACKGROUND, IGNORE, ImageArray
from f2f.training.segmentation.youtube_objects import YOUTUBE_CLASSES, AnnotatedFrame

OTHER = len(YOUTUBE_CLASSES) + 1
"""label of a class that is none of the ten, in predictions by YOUTUBE_CLASSES"""


@dataclass(frozen=True)
class YoutubeRow:
    """Scores of a class, or their means."""

    frame_iou: float
    """frame by frame, of the pixels predicted as the video's tag; 1 where neither mask has a pixel. To restrict the
    prediction to the tag (other classes become background) changes nothing here"""
    frame_iou_any: float
    """the same where any class counts as the tag: foreground against background"""
    pooled_iou: float
    """pooled, of the prediction as it is: the class predicted in videos of other tags counts as wrong"""
    pooled_iou_tag: float
    """pooled, of the prediction restricted to each video's tag"""
    pooled_iou_any: float
    """pooled, where any class counts as the tag"""


@dataclass(frozen=True)
class YoutubeScores:
    """Everything that was measured."""

    mean: YoutubeRow
    """over the classes"""
    per_class: dict[str, YoutubeRow]
    frames: int
    sequences: int


@dataclass(frozen=True)
class FrameCounts:
    """Pixels of one frame."""

    frame: AnnotatedFrame
    true: int
    predicted: NDArray[np.int64]
    """[10]: per class of YOUTUBE_CLASSES"""
    right: int
    """predicted as the tag and true"""
    any: int
    """predicted as any class, also one that is none of the ten"""
    any_right: int


def count_frame(frame: AnnotatedFrame, predicted: ImageArray, truth: NDArray[np.bool_]) -> FrameCounts:
    """Count a frame: labels [H,W] by YOUTUBE_CLASSES (OTHER for another class, 255 for none), and its mask."""
    assert predicted.shape == truth.shape, (predicted.shape, truth.shape)
    foreground = (predicted != BACKGROUND) & (predicted != IGNORE)
    tagged = predicted == YOUTUBE_CLASSES.index(frame.tag) + 1
    return FrameCounts(
        frame=frame,
        true=int(truth.sum()),
        predicted=np.bincount(predicted.ravel(), minlength=IGNORE + 1)[1 : len(YOUTUBE_CLASSES) + 1],
        right=int((tagged & truth).sum()),
        any=int(foreground.sum()),
        any_right=int((foreground & truth).sum()),
    )


def youtube_scores(counts: Sequence[FrameCounts]) -> YoutubeScores:
    """Both protocols over all frames."""
    assert counts, "there are frames"
    everywhere = np.sum([one.predicted for one in counts], axis=0)  # [10]
    tags = [name for name in YOUTUBE_CLASSES if any(one.frame.tag == name for one in counts)]
    per_class = {name: _row([one for one in counts if one.frame.tag == name], everywhere) for name in tags}
    rows = [asdict(row) for row in per_class.values()]
    means = {field.name: float(np.mean([row[field.name] for row in rows])) for field in fields(YoutubeRow)}
    return YoutubeScores(YoutubeRow(**means), per_class, len(counts), len({one.frame.sequence for one in counts}))


def _row(counts: Sequence[FrameCounts], everywhere: NDArray[np.int64]) -> YoutubeRow:
    """Scores of one class; `everywhere` [10] is what all frames predict."""
    place = YOUTUBE_CLASSES.index(counts[0].frame.tag)
    right, any_right = sum(one.right for one in counts), sum(one.any_right for one in counts)
    true, tagged = sum(one.true for one in counts), sum(int(one.predicted[place]) for one in counts)
    return YoutubeRow(
        frame_iou=_clip_mean((one, _iou(one.right, one.true, int(one.predicted[place]))) for one in counts),
        frame_iou_any=_clip_mean((one, _iou(one.any_right, one.true, one.any)) for one in counts),
        pooled_iou=_iou(right, true, int(everywhere[place])),
        pooled_iou_tag=_iou(right, true, tagged),
        pooled_iou_any=_iou(any_right, true, sum(one.any for one in counts)),
    )


def _iou(both: int, true: int, predicted: int) -> float:
    either = true + predicted - both
    return both / either if either else 1.0


def _clip_mean(scored: Iterable[tuple[FrameCounts, float]]) -> float:
    """Mean over the frames of a clip, then over clips."""
    clips: dict[str, list[float]] = {}
    for counts, iou in scored:
        clips.setdefault(counts.frame.sequence, []).append(iou)
    return float(np.mean([np.mean(values) for values in clips.values()]))
