"""Train a segmenter: `f2f train segmenter` (paper §3.4, §4.1). Needs the `train` extra."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from f2f.engine.errors import UsageError
from f2f.training.checkpoint import read_network, save_network
from f2f.training.fit import PRECISIONS, fit, require_extra, shaping_facts
from f2f.training.imagenet import load_backbone, load_weights, read_weights
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.deeplab import Segmenter, segmenter
from f2f.training.segmentation.engine_output import read_engine_output
from f2f.training.segmentation.images import LabelledSet
from f2f.training.segmentation.sampling import (
    DSRG,
    RETRAINING,
    Augmentation,
    SegmentationSamples,
    Source,
    check_shares,
)
from f2f.training.segmentation.sources import read_images
from f2f.training.segmentation.training_options import SegmenterTraining
from f2f.training.segmentation.vgg_head import load_fully_connected

if TYPE_CHECKING:
    from f2f.training.segmentation.validation import Validation

SOURCES = ("images", "videos")


def train_segmenter(options: SegmenterTraining) -> Path:
    """Train a segmenter; returns OUT/network.pt. Goes on from the last checkpoint.

    Raises:
        UsageError: a source, cue or weight file is missing or does not fit.
        F2FError: the loss became infinite or no number; the batch is kept.
    """
    require_extra()
    from f2f.training.segmentation.loop import SegmenterLoop, StepSamples

    named = sources(options)
    samples = SegmentationSamples(list(named.values()), _augmentation(options), options.seed, options.least_confidence)
    check_shares(options.batch_size, len(named), options.devices)
    torch.manual_seed(options.seed)
    network = _network(options, samples.sources[0].images.classes)
    loop = SegmenterLoop(network, options, tuple(named))
    validation = _validation(options, network.classes)
    sizes = {f"train_{name}": size for name, size in zip(named, samples.sizes, strict=True)}
    fit(
        loop,
        StepSamples(samples, options),
        options,
        PRECISIONS[options.precision],
        data={"classes": list(network.classes), "norm_is_frozen": options.norm_is_frozen, **sizes},
        callbacks=[validation] if validation else [],
        devices=options.devices,
    )
    facts = shaping_facts(options) | sizes
    if validation:
        facts["held_out"] = validation.final_scores(network)
    path = options.out / "network.pt"
    save_network(
        path,
        "segmenter",
        network,
        name=options.network,
        classes=list(network.classes),
        width=options.width,
        training=facts,
    )
    return path


def _augmentation(options: SegmenterTraining) -> Augmentation:
    """DSRG's: of its first step, or of its second where pictures are crops."""
    base = RETRAINING if options.fit == "crop" else DSRG
    return replace(base, size_hw=(options.side_px, options.side_px), grid_hw=options.grid_hw, flip=options.flip)


def _validation(options: SegmenterTraining, classes: tuple[str, ...]) -> Validation | None:
    if options.val is None:
        return None
    from f2f.training.segmentation.validation import HeldOut, Validation

    held_out = read_images(options.val, options.val_list).arranged(classes)
    return Validation(HeldOut(held_out, options.side_px), options.val_steps, options.workers)


def sources(options: SegmenterTraining) -> dict[str, Source]:
    """I, then V, where they are given; both by the images' order of classes."""
    found: dict[str, Source] = {}
    if options.images is not None:
        images = read_images(options.images, options.list)
        cues = CueFolder.open(options.cues) if options.cues else None
        found["images"] = Source(images if options.method == "labels" else images.need_tags(), cues)
    if options.videos:
        classes = found["images"].images.classes if found else None
        videos = _joined([_good(read_engine_output(out), options) for out in options.videos], classes)
        found["videos"] = Source(_drawn(videos, options))
    return found


def _good(found: LabelledSet, options: SegmenterTraining) -> LabelledSet:
    kept = tuple(image for image in found.images if image.weight >= options.least_quality)
    if not kept:
        best = max(image.weight for image in found.images)
        raise UsageError(
            f"least-quality is {options.least_quality}; the best mask of {found.source} has {best}; give at most that"
        )
    return replace(found, images=kept)


def _drawn(found: LabelledSet, options: SegmenterTraining) -> LabelledSet:
    """As many masks as are asked for, in their order."""
    there, wanted = len(found.images), options.video_masks or len(found.images)
    if wanted > there:
        raise UsageError(f"video-masks is {wanted}; {found.source} has {there} masks; give at most that, or 0 for all")
    chosen = np.sort(np.random.default_rng((options.seed, 2)).permutation(there)[:wanted])
    return replace(found, images=tuple(found.images[number] for number in chosen))


def _joined(sets: list[LabelledSet], classes: tuple[str, ...] | None) -> LabelledSet:
    """Runs with one order of classes, as one set."""
    arranged = [one.arranged(classes or sets[0].classes) for one in sets]
    if len({one.stored for one in arranged}) > 1:
        raise UsageError(
            f"the runs {', '.join(one.source for one in sets)} have different classes; label with one network"
        )
    images = tuple(image for one in arranged for image in one.images)
    return replace(arranged[0], source=", ".join(one.source for one in arranged), images=images)


def _network(options: SegmenterTraining, classes: tuple[str, ...]) -> Segmenter:
    network = segmenter(options.network, classes, options.width)
    if options.weights is not None:
        load_backbone(network.backbone, options.weights)
        if options.network.startswith("vgg16"):
            _load_head(network, options.weights)
    if options.start_from is not None:
        content = read_network(options.start_from, "segmenter")
        need_classes(content, classes, options.start_from)
        load_weights(network, content["state_dict"], options.start_from)
    return network


def need_classes(content: Mapping[str, Any], classes: Sequence[str], path: Path) -> None:
    """Refuse a network, read from `path`, of other classes than the data's."""
    if tuple(content["classes"]) != tuple(classes):
        raise UsageError(
            f"the network {path} has the classes {', '.join(content['classes'])}; accepted: {', '.join(classes)}, "
            "those of the data; give another network"
        )


def _load_head(network: Segmenter, path: Path) -> None:
    if not load_fully_connected(network, read_weights(path)):
        sys.stderr.write(f"{path} has no classifier.0 and classifier.3 of VGG-16: fc6 and fc7 start from random ones\n")
