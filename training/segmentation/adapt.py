"""Train a segmenter on its own predictions: domain adaptation (paper §3.4) and DSRG's second step.

OUT/masks/<id>.png   what the network says of the images, restricted to their tags; a mask is never made twice
OUT/masks.json       which network made them, and how: masks of another one are not gone on with
OUT/…                the training, that of `f2f train segmenter --method labels --cues OUT/masks`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from f2f.engine.errors import UsageError
from f2f.training.checkpoint import read_network
from f2f.training.fit import require_extra
from f2f.training.segmentation.adaptation_options import SegmenterAdaptation
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.predict import OnImage, predict_masks
from f2f.training.segmentation.train import train_segmenter
from f2f.training.segmentation.training_options import SegmenterTraining

_SHARED = {field.name for field in fields(SegmenterAdaptation)} & {field.name for field in fields(SegmenterTraining)}
"""options that adaptation hands on as they are"""


def adapt_segmenter(options: SegmenterAdaptation, on_image: OnImage = lambda *_: None) -> Path:
    """Predict, then train; what `f2f adapt` and `f2f retrain` do. Returns OUT/network.pt. Goes on where it stopped.

    Raises:
        UsageError: the images, their tags or the network cannot be used, or OUT holds something else.
        MachineError: the disk does not take the masks.
        F2FError: the loss became infinite or no number.
    """
    make_masks(options, on_image)
    return train_on_masks(options)


def make_masks(options: SegmenterAdaptation, on_image: OnImage = lambda *_: None) -> CueFolder:
    """The masks of all images, in OUT/masks; those that are there already stay. Raises as `adapt_segmenter`."""
    require_extra()
    content = read_network(options.checkpoint, "segmenter")
    training_options(options, content)  # what it refuses is refused before the work
    return predict_masks(options, content, tags=options.tags, on_image=on_image)


def train_on_masks(options: SegmenterAdaptation) -> Path:
    """Train on the masks of `make_masks`; returns OUT/network.pt. Raises as `adapt_segmenter`."""
    return train_segmenter(training_options(options, read_network(options.checkpoint, "segmenter")))


def training_options(options: SegmenterAdaptation, content: Mapping[str, Any]) -> SegmenterTraining:
    """The training on the masks: of the same network, with the optimiser and the pictures' size of its first one."""
    first = _first_training(content, options.checkpoint)
    given: dict[str, Any] = {name: value for name, value in vars(options).items() if name in _SHARED}
    return SegmenterTraining(
        cues=options.out / "masks",
        method="labels",
        network=content["name"],
        width=content["width"],
        start_from=options.checkpoint,
        learning_rate=options.rate_factor * first["learning_rate"],
        schedule="poly",
        optimiser=first["optimiser"],
        weight_decay=first["weight_decay"],
        side_px=first["side_px"],
        flip=first["flip"],
        **given,
    )


def _first_training(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The options that the network was trained with, as its file tells them."""
    told: dict[str, Any] = content.get("training", {}).get("options", {})
    missing = [name for name in ("learning_rate", "optimiser", "weight_decay", "side_px", "flip") if name not in told]
    if missing:
        raise UsageError(
            f"--checkpoint {path} does not say the {', '.join(missing)} of its training; give the network.pt of "
            "`f2f train segmenter`"
        )
    return told
