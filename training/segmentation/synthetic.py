"""The synthetic web: its tagged images with exact masks, and exact masks for what the engine made of its videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from f2f.engine.errors import UsageError
from f2f.engine.evaluate import truth_file
from f2f.engine.records import read_shards
from f2f.training.data import TaggedImage, read_tagged_images
from f2f.training.segmentation.engine_output import read_engine_output
from f2f.training.segmentation.images import LabelledImage, LabelledSet, read_class_names
from f2f.training.synth.classes import CLASSES


def read_synthetic_images(folder: Path, split: Literal["train", "val"]) -> LabelledSet:
    """The images of a list, with the tags of tags.csv, and with exact masks where there are any.

    Args:
        folder: OUT of `f2f synth`, OUT/images, or tagged images that are laid out like these.
        split: which list.

    Raises:
        UsageError: a file is missing or broken.
    """
    root = folder if (folder / "tags.csv").exists() else folder / "images"
    classes = read_class_names(root / "labels.txt")
    listed = read_tagged_images(root)
    images = tuple(_labelled(root, one, classes) for one in (listed.train if split == "train" else listed.val))
    return LabelledSet(f"{root}, list {split}", classes, images).need_image_files()


def with_exact_masks(out: Path, truth: Path) -> LabelledSet:
    """What the engine made of rendered videos, each frame with its exact mask: what V is at best.

    Args:
        out: --out folder of `f2f label`, run on the videos of `f2f synth`.
        truth: OUT/truth of `f2f synth`.

    Raises:
        UsageError: a folder is not what it should be, or a frame has no exact mask.
    """
    found = read_engine_output(out)
    shards = read_shards(out)
    videos = {video.id: video for shard in shards for video in shard.videos}
    masks = {mask.id: truth_file(truth, mask, videos[mask.input]) for shard in shards for mask in shard.masks}
    images = tuple(replace(one, labels=masks.get(one.id), confidence=None, weight=1.0) for one in found.images)
    return replace(found, source=f"{out} with {truth}", images=images, stored=CLASSES).need_labels()


def _labelled(root: Path, image: TaggedImage, classes: tuple[str, ...]) -> LabelledImage:
    strange = [name for name in image.classes if name not in classes]
    if strange:
        raise UsageError(f"{root} tags {image.id} {strange[0]!r}; accepted: {', '.join(classes)}; correct tags.csv")
    labels = root / "SegmentationClass" / f"{image.id}.png"
    tags = tuple(sorted(classes.index(name) for name in image.classes))
    return LabelledImage(image.id, image.path, labels if labels.is_file() else None, tags)
