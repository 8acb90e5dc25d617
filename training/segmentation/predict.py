"""Masks of a list of images by a trained segmenter: one file each, never made twice.

OUT/masks/<id>.png   what the network says of the images
OUT/masks.json       which network made them, and how: masks of another one are not gone on with
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from f2f.engine.errors import RunMismatchError, UsageError, VideoError
from f2f.engine.files import write_aside
from f2f.engine.segmenter import Segmenter
from f2f.engine.types import ImageArray
from f2f.training.imagenet import load_weights
from f2f.training.segmentation.adaptation_options import SegmenterPrediction
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.deeplab import FullSize, segmenter
from f2f.training.segmentation.images import LabelledImage, LabelledSet
from f2f.training.segmentation.inference import SegmenterInMemory, as_trained, device_of, read_pixels
from f2f.training.segmentation.sources import read_images
from f2f.training.segmentation.train import need_classes

OnImage = Callable[[object, int], None]
"""is told of every image whose mask is there, and how many images there are"""


def predict_masks(
    options: SegmenterPrediction,
    content: Mapping[str, Any],
    *,
    tags: bool,
    mirror: bool = True,
    on_image: OnImage = lambda *_: None,
) -> CueFolder:
    """Predict all images of a list into OUT/masks; masks that are there already stay.

    Args:
        options: the images, and how they are looked at.
        content: what `options.checkpoint` holds.
        tags: a mask has no class but its image's tags.
        mirror: look at the mirror image too.
        on_image: see `OnImage`.

    Raises:
        UsageError: the images, their tags or the network cannot be used, or OUT holds something else.
        MachineError: the disk does not take the masks.
    """
    images = _images(options, content, tags)
    looks = as_trained(content["training"], options.scales)
    inference = replace(looks, flip=mirror, pool="logits", crf=options.crf)
    _claim(options, {"tags": tags, "inference": asdict(inference)})
    folder = CueFolder.create(options.out / "masks", images.classes)
    predict = Segmenter(_network(options, content), inference)
    for image in images.images:
        if not folder.has(image.id):
            folder.write(image.id, _mask(image, predict, options, tags))
        on_image(image, len(images.images))
    return folder


def _images(options: SegmenterPrediction, content: Mapping[str, Any], tags: bool) -> LabelledSet:
    images = read_images(options.images, options.list).need_image_files()
    need_classes(content, images.classes, options.checkpoint)
    return images.need_tags() if tags else images


def _network(options: SegmenterPrediction, content: Mapping[str, Any]) -> SegmenterInMemory:
    network = segmenter(content["name"], content["classes"], content["width"])
    load_weights(network, content["state_dict"], options.checkpoint)
    return SegmenterInMemory(FullSize(network), device_of(options.accelerator))


def _mask(image: LabelledImage, predict: Segmenter, options: SegmenterPrediction, tags: bool) -> ImageArray:
    """Labels [H, W] of an image."""
    pixels = read_pixels(image.image)
    try:
        return predict(pixels, image.tags if tags else None)
    except VideoError as error:
        raise UsageError(
            f"--checkpoint {options.checkpoint} predicts nothing for {image.image} ({error.detail}); give the "
            "network.pt of a training that succeeded"
        ) from error


def _claim(options: SegmenterPrediction, how: Mapping[str, Any]) -> None:
    """Make OUT the place of these masks, or see that it is.

    Raises:
        RunMismatchError: it holds others, or another training.
    """
    record, last = options.out / "masks.json", options.out / "last.ckpt"
    digest = hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()
    wanted = json.dumps({"network_sha256": digest, **how}, indent=1).encode()
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
