"""Tagged still images for the classifier: reading, and augmentation drawn by (seed, index) alone.

A folder of images holds JPEGImages/<id>.jpg, tags.csv (columns id, classes; classes separated by spaces) and
ImageSets/Segmentation/{train,val}.txt. Letters: C classes, H, W image size, h, w crop size.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.v2.functional as T
from torch import Tensor
from torch.utils.data import Dataset

from f2f.engine.errors import UsageError
from f2f.engine.picture import open_image
from f2f.engine.tars import ImageFile
from f2f.training.segmentation.images import LabelledImage, LabelledSet


@dataclass(frozen=True)
class TaggedImage:
    """A still image and what it shows."""

    id: str
    path: Path
    classes: tuple[str, ...]


@dataclass(frozen=True)
class TaggedImages:
    """A folder of tagged images, read."""

    classes: tuple[str, ...]
    """every class that a training image shows, sorted"""
    train: tuple[TaggedImage, ...]
    val: tuple[TaggedImage, ...]


def read_tagged_images(folder: Path, train: str = "train", val: str = "val") -> TaggedImages:
    """Read tags and two lists, by name or as files; refuses a folder where one is missing or empty."""
    tags = _read_tags(folder / "tags.csv")
    lists = (_read_list(_list_file(folder, name), tags) for name in (train, val))
    training, held_out = (tuple(_image(folder, id_, tags[id_]) for id_ in ids) for ids in lists)
    classes = tuple(sorted({name for image in training for name in image.classes}))
    if not classes:
        raise UsageError(f"{folder} tags no training image with a class; give a folder written by `f2f synth`")
    return TaggedImages(classes, training, held_out)


def _list_file(folder: Path, name: str) -> Path:
    path = folder / "ImageSets" / "Segmentation" / f"{name}.txt"
    return Path(name) if name.endswith(".txt") and not path.is_file() else path


def _read_tags(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["id"]: tuple(row["classes"].split()) for row in csv.DictReader(file)}
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a folder written by `f2f synth`") from error
    except (KeyError, AttributeError) as error:
        raise UsageError(
            f"{path} has no columns `id` and `classes`; accepted: id,classes with spaces between"
        ) from error


def _read_list(path: Path, tags: dict[str, tuple[str, ...]]) -> list[str]:
    try:
        ids = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a folder written by `f2f synth`") from error
    unknown = [id_ for id_ in ids if id_ not in tags]
    if not ids or unknown:
        raise UsageError(f"{path} lists {unknown[0] if unknown else 'nothing'}; accepted: ids that stand in tags.csv")
    return ids


def _image(folder: Path, id_: str, classes: tuple[str, ...]) -> TaggedImage:
    return TaggedImage(id_, folder / "JPEGImages" / f"{id_}.jpg", classes)


def read_image(path: ImageFile) -> Tensor:
    """[3,H,W] RGB 0..1."""
    pixels = np.array(open_image(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def derived_seed(*numbers: int) -> int:
    """A seed that depends on all of the numbers, each 0 or more: of a step, an image, …"""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def tag_vector(image: LabelledImage, class_count: int) -> Tensor:
    """[C] float, 1 where the image shows the class."""
    tags = torch.zeros(class_count)
    tags[list(image.tags)] = 1.0
    return tags


@dataclass(frozen=True)
class CropOptions:
    """How a crop is drawn from an image."""

    size_hw: tuple[int, int]
    """of the crop, px"""
    side_range_px: tuple[int, int]
    """what the image's short side is resized to"""
    colour_jitter: float = 0.3
    """brightness, contrast and saturation change by factors of up to 1 ± this"""
    hue_jitter: float = 0.0
    """hue turns by up to this share of a circle"""


class TrainingImages(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops; the same index gives the same crop on every run."""

    def __init__(self, images: LabelledSet, crop: CropOptions, seed: int) -> None:
        self.images, self.crop, self.seed = images, crop, seed

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Crop [3,h,w] RGB 0..1 and tags [C]."""
        count = len(self.images.images)
        order = np.random.default_rng((self.seed, index // count)).permutation(count)
        chosen = self.images.images[int(order[index % count])]
        rng = np.random.default_rng((self.seed, 1, index))
        return augment_image(read_image(chosen.image), self.crop, rng), tag_vector(chosen, len(self.images.classes))


def augment_image(image: Tensor, options: CropOptions, rng: np.random.Generator) -> Tensor:
    """Resize the short side into a range, pad, crop, mirror, change colours: [3,H,W] -> [3,h,w]."""
    crop_hw, (least, most) = options.size_hw, options.side_range_px
    image = T.resize(image, [int(rng.integers(least, most + 1))], antialias=True)
    pad_y, pad_x = (max(0, wanted - given) for wanted, given in zip(crop_hw, image.shape[-2:], strict=True))
    image = T.pad(image, [pad_x // 2, pad_y // 2, pad_x - pad_x // 2, pad_y - pad_y // 2])
    top, left = (int(rng.integers(given - wanted + 1)) for wanted, given in zip(crop_hw, image.shape[-2:], strict=True))
    crop = image[:, top : top + crop_hw[0], left : left + crop_hw[1]]
    if rng.random() < 0.5:
        crop = crop.flip(-1)
    return _recolour(crop, options, rng)


def _recolour(crop: Tensor, options: CropOptions, rng: np.random.Generator) -> Tensor:
    for change in (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation):
        crop = change(crop, float(rng.uniform(1 - options.colour_jitter, 1 + options.colour_jitter)))
    if options.hue_jitter:
        crop = T.adjust_hue(crop, float(rng.uniform(-options.hue_jitter, options.hue_jitter)))
    return crop
