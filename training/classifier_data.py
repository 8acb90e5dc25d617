"""The images that classifiers learn from and are measured on: Pascal VOC, or a folder with a tags.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from f2f.engine.errors import UsageError
from f2f.training.data import TaggedImage, read_tagged_images
from f2f.training.segmentation.images import LabelledImage, LabelledSet, read_class_names
from f2f.training.segmentation.voc import mask_file, read_voc


@dataclass(frozen=True)
class ClassifierImages:
    """Two lists of a data set, with one order of classes."""

    train: LabelledSet
    val: LabelledSet

    @property
    def classes(self) -> tuple[str, ...]:
        """The channel order."""
        return self.train.classes


def read_classifier_images(folder: Path, train: str = "train", val: str = "val") -> ClassifierImages:
    """Read two lists, by name or as files, with tags, and masks where there are any.

    Args:
        folder: VOC2012 or one laid out like it, where boxes are the tags; or one with a tags.csv, where an image may
            also show nothing, as `f2f synth` writes it.
        train: list to learn from.
        val: list to measure on.

    Raises:
        UsageError: a file or tag is missing or broken.
    """
    for root in (folder, folder / "images"):
        if (root / "tags.csv").is_file():
            return _with_tags_file(root, train, val)
    sets = (read_voc(folder, split).need_image_files().need_tags() for split in (train, val))
    return ClassifierImages(*sets)


def _with_tags_file(root: Path, train: str, val: str) -> ClassifierImages:
    listed = read_tagged_images(root, train, val)
    names = root / "labels.txt"
    stored = read_class_names(names) if names.is_file() else ()
    classes = tuple(sorted({*listed.classes, *stored}))

    def labelled(split: str, images: tuple[TaggedImage, ...]) -> LabelledSet:
        entries = tuple(_labelled(root, one, classes, masks=bool(stored)) for one in images)
        return LabelledSet(f"{root}, list {split}", classes, entries, stored or None).need_image_files()

    return ClassifierImages(labelled(train, listed.train), labelled(val, listed.val))


def _labelled(root: Path, image: TaggedImage, classes: tuple[str, ...], masks: bool) -> LabelledImage:
    strange = [name for name in image.classes if name not in classes]
    if strange:
        raise UsageError(
            f"{root} tags {image.id} {strange[0]!r}, which no image of the training list shows; accepted: "
            f"{', '.join(classes)}; correct tags.csv, or take the image out of its list"
        )
    labels = mask_file(root, image.id) if masks else None  # without names, labels mean nothing
    return LabelledImage(image.id, image.path, labels, tuple(sorted(map(classes.index, image.classes))))
