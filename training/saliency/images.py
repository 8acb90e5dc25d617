"""Images with masks of what is salient: folders of masks as the field has them, or label maps of any classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from f2f.engine.errors import UsageError
from f2f.engine.picture import open_image
from f2f.engine.types import IGNORE, ImageArray
from f2f.training.segmentation.image_lists import read_image_list
from f2f.training.segmentation.images import LabelledImage, LabelledSet, check_size, image_size_hw, listed
from f2f.training.segmentation.sources import read_images

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MASK_SUFFIXES = (".png", ".bmp")
HELD_OUT_EVERY = 20
"""images by name, of a folder without lists"""


@dataclass(frozen=True)
class SalientImages:
    """Images with masks, in a fixed order."""

    source: str
    """where they come from, for messages"""
    images: tuple[LabelledImage, ...]
    labelled: LabelledSet | None = None
    """whose labels their masks are; None: a mask is grey, salient above 127"""

    def __post_init__(self) -> None:
        if not self.images:
            raise UsageError(f"{self.source} holds no images; accepted: one or more; give another folder or list")

    def mask(self, image: LabelledImage) -> ImageArray:
        """uint8 [H,W] of one of the images: 0 ground, 1 salient, 255 unknown.

        Raises:
            UsageError: it cannot be read, or its size is not the image's.
        """
        if self.labelled is not None:
            labels = self.labelled.labels(image)
            return np.where(labels == IGNORE, np.uint8(IGNORE), labels > 0).astype(np.uint8)
        assert image.labels is not None
        grey = np.array(open_image(image.labels).convert("L"))
        check_size(image.labels, grey.shape, image.image, image_size_hw(image.image))
        return (grey > 127).astype(np.uint8)


def read_salient(folder: Path, masks: Path | None, split: str | None) -> SalientImages:
    """The images of a list, or of a folder with a folder of masks.

    Args:
        folder: images; or a data set of label maps where there is no folder of masks.
        masks: grey masks with the images' names.
        split: list, by name or as a file; None: `val`, or all images with `masks`.

    Raises:
        UsageError: a folder, list, image or mask is missing or broken.
    """
    if masks is None:
        labelled = read_images(folder, split or "val").need_image_files().need_labels()
        return SalientImages(labelled.source, labelled.images, labelled)
    return _chosen(_pairs(folder, masks), split)


def read_for_training(
    folder: Path, masks: Path | None, train: str | None, val: str | None
) -> tuple[SalientImages, SalientImages]:
    """What is learnt from and what is held out; see `SaliencyTraining`."""
    if masks is None:
        return read_salient(folder, None, train or "train"), read_salient(folder, None, val)
    pairs = _pairs(folder, masks)
    held_out = _chosen(pairs, val) if val else SalientImages(pairs.source, pairs.images[::HELD_OUT_EVERY])
    if train:
        return _chosen(pairs, train), held_out
    names = {image.id for image in held_out.images}
    rest = tuple(image for image in pairs.images if image.id not in names)
    return SalientImages(f"{pairs.source} without the held-out images", rest), held_out


def _pairs(folder: Path, masks: Path) -> SalientImages:
    """Images and masks of one name, in order of their names."""
    same = folder.resolve() == masks.resolve()
    found = _by_name(folder, [suffix for suffix in IMAGE_SUFFIXES if not (same and suffix in MASK_SUFFIXES)])
    grey = _by_name(masks, MASK_SUFFIXES)
    missing = [name for name in found if name not in grey]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(found)} images in {folder} have no mask in {masks} ({listed(missing)}); accepted: "
            f"<name>{' or '.join(MASK_SUFFIXES)} for each; add what is missing, or take the images out"
        )
    images = tuple(LabelledImage(name, path, grey[name]) for name, path in found.items())
    return SalientImages(f"{folder} ({', '.join(IMAGE_SUFFIXES)})", images)


def _by_name(folder: Path, suffixes: tuple[str, ...] | list[str]) -> Mapping[str, Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error.strerror}); give a folder of images") from error
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise UsageError(
                f"{found[path.stem]} and {path.name} have one name; accepted: one file of each; remove one"
            )
        found[path.stem] = path
    return found


def _chosen(pairs: SalientImages, split: str | None) -> SalientImages:
    """Those of a list file, in its order."""
    if split is None:
        return pairs
    if not Path(split).is_file():
        raise UsageError(f"the list {split} is no file; accepted beside --masks: a file with a name per line")
    there = {image.id: image for image in pairs.images}
    names = [line.id for line in read_image_list(Path(split))]
    strange = [name for name in names if name not in there]
    if strange:
        raise UsageError(f"{split} lists {listed(strange)}; {pairs.source} has no such image; correct the list")
    return SalientImages(f"{pairs.source}, list {split}", tuple(there[name] for name in names))
