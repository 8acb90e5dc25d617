"""Options of predicting with a trained segmenter, and of training on what it predicts. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from f2f.training.options import Accelerator, Precision, require
from f2f.training.segmentation.training_options import Fit

SCORES = "scores.json"
"""what an evaluation leaves in OUT beside its masks"""


@dataclass(frozen=True, kw_only=True)
class SegmenterPrediction:
    """How a segmenter looks at the images of a list."""

    checkpoint: Path
    """network.pt of `f2f train segmenter`, `f2f adapt` or `f2f retrain`"""
    images: Path
    """VOC2012 or a folder laid out like it, or the images of `f2f synth`, of the network's classes"""
    out: Path
    """folder for masks/<id>.png and scores.json; give it again to go on"""
    list: str = "train"
    """list of the images: train, trainaug, … in ImageSets/Segmentation, or a list file"""
    scales: tuple[float, ...] = (0.75, 1.0, 1.25)
    """sizes at which an image and its mirror image are looked at, as factors of that of the network's training: squares
    of 241, 321 and 401 px for 321 px, or the image's own size for a network trained on crops; their logits are added"""
    crf: bool = True
    """let a dense CRF follow the image's edges"""
    accelerator: Accelerator = "auto"
    """where to compute"""
    resume: bool = True
    """go on with what there is in OUT, if it is of the same network and options"""

    def __post_init__(self) -> None:
        require(
            len(self.scales) > 0 and all(0 < scale <= 4 for scale in self.scales),
            f"scales is {self.scales}; accepted: one or more factors above 0 and up to 4",
        )


@dataclass(frozen=True, kw_only=True)
class SegmenterEvaluation(SegmenterPrediction):
    """Predict the images of a list with a segmenter, and score what it predicts."""

    list: str = "val"
    """list of the images, or a list file; those of a list without masks, such as test, are only predicted"""
    mirror: bool = True
    """look at the mirror image too"""


@dataclass(frozen=True, kw_only=True)
class SegmenterAdaptation(SegmenterPrediction):
    """Predict masks of tagged images with a segmenter, then train it on them at a reduced rate."""

    checkpoint: Path
    """network.pt of `f2f train segmenter`; optimiser, side and network are as in its training"""
    out: Path
    """folder for masks/<id>.png, checkpoints, logs and the adapted network (network.pt); give it again to go on"""
    tags: bool = True
    """an image's mask has no class but its tags"""
    rate_factor: float = 0.01
    """the learning rate begins with this share of the one that the network's training began with"""
    fit: Fit = "warp"
    """train on warp: whole images, labels at the network's cells; crop: parts of the images, labels of single pixels"""
    steps: int = 2000
    """optimiser steps, in which the learning rate falls as (1 - step/STEPS)^0.9"""
    stop_at_step: int = 0
    """stop after this step, though the schedule goes on to STEPS; running again goes on from there (0: at the end)"""
    batch_size: int = 20
    """pictures per step"""
    checkpoint_steps: int = 200
    """steps between checkpoints; an interrupted run goes on from the last one"""
    seed: int = 0
    """random seed of order and augmentation"""
    workers: int = 2
    """processes that load images (0: none beside the main one)"""
    precision: Precision = "fp32"
    """of the convolutions in training; losses and weights are float32 in any case"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rate_factor > 0, f"rate-factor is {self.rate_factor}; accepted: a number above 0")


@dataclass(frozen=True, kw_only=True)
class SegmenterRetraining(SegmenterAdaptation):
    """Predict masks of tagged images with a segmenter, then train it on them anew: DSRG's second step."""

    rate_factor: float = 2.0
    """the learning rate begins with this share of the one that the network's training began with (1e-3 for DSRG)"""
    fit: Fit = "crop"
    """train on warp: whole images, labels at the network's cells; crop: parts of the images, labels of single pixels"""
    steps: int = 20000
    """optimiser steps, in which the learning rate falls as (1 - step/STEPS)^0.9"""
    batch_size: int = 10
    """pictures per step"""
