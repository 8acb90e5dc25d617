"""Train a segmenter on its own predictions: domain adaptation (paper §3.4) and DSRG's second step.

OUT/masks/<id>.png   what the network says of the images, restricted to their tags; a mask is never made twice
OUT/masks.json       which network made them, and how: masks of another one are not gone on with
OUT/…                the training, that of `f2f train segmenter --method labels --cues OUT/masks`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from f2f.engine.errors import RunMismatchError, UsageError, VideoError
from f2f.engine.files import write_aside
from f2f.engine.options import InferenceOptions
from f2f.engine.segmenter import Segmenter
from f2f.engine.types import ImageArray
from f2f.training.checkpoint import read_network
from f2f.training.fit import require_extra
from f2f.training.imagenet import load_weights
from f2f.training.segmentation.adaptation_options import SegmenterAdaptation
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.deeplab import FullSize, segmenter
from f2f.training.segmentation.images import LabelledImage, LabelledSet
from f2f.training.segmentation.inference import SegmenterInMemory, as_trained, device_of, read_pixels
from f2f.training.segmentation.sources import read_images
from f2f.training.segmentation.train import need_classes, train_segmenter
from f2f.training.segmentation.training_options import SegmenterTraining

_SHARED = {field.name for field in fields(SegmenterAdaptation)} & {field.name for field in fields(SegmenterTraining)}
"""options that adaptation hands on as they are"""
OnImage = Callable[[object, int], None]
"""is told of every image whose mask is there, and how many images there are"""


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
    images = _images(options, content)
    inference = replace(as_trained(content["training"], options.scales), flip=True, pool="logits", crf=options.crf)
    _claim(options, inference)
    folder = CueFolder.create(options.out / "masks", images.classes)
    predict = Segmenter(_network(options, content), inference)
    for image in images.images:
        if not folder.has(image.id):
            folder.write(image.id, _mask(image, predict, options))
        on_image(image, len(images.images))
    return folder


def train_on_masks(options: SegmenterAdaptation) -> Path:
    """Train on the masks of `make_masks`; returns OUT/network.pt. Raises as `adapt_segmenter`."""
    return train_segmenter(training_options(options, read_network(options.checkpoint, "segmenter")))


def _images(options: SegmenterAdaptation, content: Mapping[str, Any]) -> LabelledSet:
    images = read_images(options.images, options.list).need_image_files()
    need_classes(content, images.classes, options.checkpoint)
    return images.need_tags() if options.tags else images


def _network(options: SegmenterAdaptation, content: Mapping[str, Any]) -> SegmenterInMemory:
    network = segmenter(content["name"], content["classes"], content["width"])
    load_weights(network, content["state_dict"], options.checkpoint)
    return SegmenterInMemory(FullSize(network), device_of(options.accelerator))


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


def _mask(image: LabelledImage, predict: Segmenter, options: SegmenterAdaptation) -> ImageArray:
    """Labels [H, W] of an image."""
    pixels = read_pixels(image.image)
    try:
        return predict(pixels, image.tags if options.tags else None)
    except VideoError as error:
        raise UsageError(
            f"--checkpoint {options.checkpoint} predicts nothing for {image.image} ({error.detail}); give the "
            "network.pt of a training that succeeded"
        ) from error


def _claim(options: SegmenterAdaptation, inference: InferenceOptions) -> None:
    """Make OUT the place of these masks, or see that it is.

    Raises:
        RunMismatchError: it holds others, or another training.
    """
    record, last = options.out / "masks.json", options.out / "last.ckpt"
    digest = hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()
    made = {"network_sha256": digest, "tags": options.tags, "inference": asdict(inference)}
    wanted = json.dumps(made, indent=1).encode()
    masks = [*(options.out / "masks").glob("*.png")]
    ours = record.is_file()
    if ours and options.resume and record.read_bytes() == wanted:
        return
    own_place = options.checkpoint.resolve().parent == options.out.resolve()  # its network.pt would be replaced
    foreign = not ours and (masks or last.exists() or (options.out / "network.pt").exists())
    if own_place or foreign or (ours and options.resume):
        raise RunMismatchError(
            f"--out {options.out} holds masks or a training of another network or other options; accepted: a folder "
            f"without them; give one{', or --no-resume to begin anew in it' if ours and not own_place else ''}"
        )
    for path in (*masks, last):
        path.unlink(missing_ok=True)
    write_aside(record, wanted)
