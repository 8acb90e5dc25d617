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
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from f2f.engine.errors import UsageError


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
    """every class that occurs, sorted: the channel order"""
    train: tuple[TaggedImage, ...]
    val: tuple[TaggedImage, ...]

    def tags(self, image: TaggedImage) -> Tensor:
        """[C] float, 1 where the image shows the class."""
        return torch.tensor([float(name in image.classes) for name in self.classes])


def read_tagged_images(folder: Path) -> TaggedImages:
    """Read tags and lists; refuses a folder where one is missing or empty."""
    tags = _read_tags(folder / "tags.csv")
    lists = {name: _read_list(folder / "ImageSets" / "Segmentation" / f"{name}.txt", tags) for name in ("train", "val")}
    images = {name: tuple(_image(folder, id_, tags[id_]) for id_ in ids) for name, ids in lists.items()}
    classes = tuple(sorted({name for image in images["train"] for name in image.classes}))
    if not classes:
        raise UsageError(f"{folder} tags no training image with a class; give a folder written by `f2f synth`")
    return TaggedImages(classes, images["train"], images["val"])


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


def read_image(path: Path) -> Tensor:
    """[3,H,W] RGB 0..1."""
    with Image.open(path) as image:
        pixels: NDArray[np.uint8] = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


class TrainingImages(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops; the same index gives the same crop on every run."""

    def __init__(
        self, images: TaggedImages, crop_hw: tuple[int, int], side_range_px: tuple[int, int], seed: int
    ) -> None:
        self.images, self.crop_hw, self.side_range_px, self.seed = images, crop_hw, side_range_px, seed

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Crop [3,h,w] RGB 0..1 and tags [C]."""
        count = len(self.images.train)
        order = np.random.default_rng((self.seed, index // count)).permutation(count)
        chosen = self.images.train[int(order[index % count])]
        rng = np.random.default_rng((self.seed, 1, index))
        return augment_image(read_image(chosen.path), self.crop_hw, self.side_range_px, rng), self.images.tags(chosen)


def augment_image(
    image: Tensor, crop_hw: tuple[int, int], side_range_px: tuple[int, int], rng: np.random.Generator
) -> Tensor:
    """Resize the short side into a range, pad, crop, mirror, change colours: [3,H,W] -> [3,h,w]."""
    image = T.resize(image, [int(rng.integers(side_range_px[0], side_range_px[1] + 1))], antialias=True)
    pad_y, pad_x = (max(0, wanted - given) for wanted, given in zip(crop_hw, image.shape[-2:], strict=True))
    image = T.pad(image, [pad_x // 2, pad_y // 2, pad_x - pad_x // 2, pad_y - pad_y // 2])
    top, left = (int(rng.integers(given - wanted + 1)) for wanted, given in zip(crop_hw, image.shape[-2:], strict=True))
    crop = image[:, top : top + crop_hw[0], left : left + crop_hw[1]]
    if rng.random() < 0.5:
        crop = crop.flip(-1)
    for change in (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation):
        crop = change(crop, float(rng.uniform(0.7, 1.3)))
    return crop
