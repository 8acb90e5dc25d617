"""Images with tags and label maps: what every reader of a data set makes, checked where it is made.

A label map is uint8 [H,W]: 0 background, c+1 class c, 255 unlabelled. Letters: H, W image size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from f2f.engine.errors import UsageError
from f2f.engine.options import MAX_CLASSES
from f2f.engine.picture import BAD_IMAGE
from f2f.engine.tars import ImageFile
from f2f.engine.types import IGNORE, ImageArray


@dataclass(frozen=True)
class LabelledImage:
    """An image and what is known of it."""

    id: str
    """file name without suffix, by which its cues and predictions are found"""
    image: ImageFile
    labels: ImageFile | None = None
    """its label map, a palette or grey PNG; None: it has none"""
    tags: tuple[int, ...] = ()
    """classes that it shows, from 0"""
    weight: float = 1.0
    """how much it counts in training, 0 or more"""
    confidence: ImageFile | None = None
    """grey PNG of the probability of every label, 255 = certain; None: it has none"""

    def __post_init__(self) -> None:
        if not is_plain_name(self.id):
            raise UsageError(f"{self.id!r} is no image id; accepted: a file name without folders; correct the list")
        if not 0 <= self.weight < float("inf"):
            raise UsageError(f"the weight of {self.id} is {self.weight}; accepted: 0 or more; correct it")


@dataclass(frozen=True)
class LabelledSet:
    """The images of a data set, in a fixed order."""

    source: str
    """where it comes from, for messages"""
    classes: tuple[str, ...]
    """names without background: tag c and label c+1 mean classes[c]"""
    images: tuple[LabelledImage, ...]
    stored: tuple[str, ...] | None = None
    """the class order of the files with label maps, where it is another one"""

    def __post_init__(self) -> None:
        check_classes(self.source, self.classes)
        if not self.images:
            raise UsageError(f"{self.source} holds no images; accepted: one or more; give another list or folder")
        seen: set[str] = set()
        for image in self.images:
            if image.id in seen:
                raise UsageError(f"{self.source} has {image.id} twice; accepted: every id once; remove one")
            seen.add(image.id)
            if not all(0 <= tag < len(self.classes) for tag in image.tags):
                raise UsageError(
                    f"{self.source} tags {image.id} with classes {image.tags}; accepted: 0 to {len(self.classes) - 1}, "
                    f"as there are {len(self.classes)} classes; correct the tags"
                )
        label_table(self.source, self.stored or self.classes, self.classes)

    def labels(self, image: LabelledImage) -> ImageArray:
        """The label map [H,W] of one of the images, of the image's size.

        Raises:
            UsageError: it has none, it cannot be read, its size differs, or it holds labels without a class.
        """
        labels = self.true_labels(image)
        assert image.labels is not None
        check_size(image.labels, labels.shape, image.image, image_size_hw(image.image))
        return labels

    def true_labels(self, image: LabelledImage) -> ImageArray:
        """The same without a look at the image, for evaluation where only masks are at hand."""
        if image.labels is None:
            raise UsageError(f"{image.id} of {self.source} has no label map; accepted: a PNG per image; add it")
        stored = self.stored or self.classes
        return label_table(self.source, stored, self.classes)[read_label_map(image.labels, len(stored))]

    def arranged(self, classes: Sequence[str]) -> LabelledSet:
        """The same images with tags and labels by another order of classes, which may hold more of them.

        Raises:
            UsageError: one of this set's classes is not among them.
        """
        table = label_table(self.source, self.classes, classes)
        images = (replace(one, tags=tuple(sorted(int(table[tag + 1]) - 1 for tag in one.tags))) for one in self.images)
        return LabelledSet(self.source, tuple(classes), tuple(images), self.stored or self.classes)

    def need_image_files(self) -> LabelledSet:
        """Itself; refuses where an image's file is missing."""
        self._refuse(lambda one: not one.image.is_file(), "no image file", "an image per line of the list")
        return self

    def need_labels(self) -> LabelledSet:
        """Itself; refuses where an image has no label map."""
        self._refuse(lambda one: one.labels is None, "no label map", "a PNG of labels per image")
        return self

    def need_tags(self) -> LabelledSet:
        """Itself; refuses where an image shows no class: the losses on tags have nothing to say of it."""
        self._refuse(lambda one: not one.tags, "no tag", "at least one class per image")
        return self

    def _refuse(self, lacks: Callable[[LabelledImage], bool], what: str, accepted: str) -> None:
        found = [one.id for one in self.images if lacks(one)]
        if found:
            raise UsageError(
                f"{len(found)} of {len(self.images)} images of {self.source} have {what} ({listed(found)}); accepted: "
                f"{accepted}; add what is missing, or take them out of the list"
            )


def is_plain_name(name: str) -> bool:
    """Whether a name from a file can be joined to a folder without leaving it."""
    return name not in {"", ".", ".."} and not set(name) & {"/", "\\", "\0"}


def listed(names: Sequence[str], shown: int = 3) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")


def check_classes(source: str, classes: Sequence[str]) -> None:
    """Refuse a list of classes that label maps of 8 bits cannot mean."""
    if not 1 <= len(classes) <= MAX_CLASSES or len(set(classes)) < len(classes):
        raise UsageError(
            f"{source} has the classes {listed(classes)} ({len(classes)}); accepted: 1 to {MAX_CLASSES} different names"
        )


def read_class_names(path: Path) -> tuple[str, ...]:
    """The classes of a `labels.txt`: a name per line, background first, which is left out."""
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); accepted: a class per line, background first") from error
    if not names or names[0] != "background":
        raise UsageError(
            f"{path} begins with {names[0] if names else 'nothing'!r}; accepted: a class per line, background first"
        )
    check_classes(str(path), names[1:])
    return tuple(names[1:])


def label_table(source: str, stored: Sequence[str], classes: Sequence[str]) -> NDArray[np.uint8]:
    """[256]: label by the order `stored` -> label by the order `classes`; unlabelled stays so.

    Raises:
        UsageError: a stored class is not among `classes`.
    """
    strange = [name for name in stored if name not in classes]
    if strange:
        raise UsageError(f"{source} has the class {strange[0]!r}; accepted: {', '.join(classes)}; give another source")
    table = np.full(256, IGNORE, np.uint8)
    table[: len(stored) + 1] = [0, *(classes.index(name) + 1 for name in stored)]
    return table


def read_label_map(path: ImageFile, class_count: int) -> ImageArray:
    """The labels [H,W] of a palette or grey PNG.

    Raises:
        UsageError: the file is no such picture, or holds labels above `class_count` other than 255.
    """
    labels = _read_picture(path, ("P", "L"), "a palette or grey PNG of 8-bit labels")
    check_labels(path, labels, class_count)
    return labels


def check_labels(path: ImageFile, labels: ImageArray, class_count: int) -> None:
    """Refuse labels that mean no class."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
    strange = [label for label in range(class_count + 1, IGNORE) if counts[label]]
    if strange:
        raise UsageError(
            f"{path} holds the labels {listed([*map(str, strange)])}; accepted: 0 to {class_count} (the number of "
            "classes) and 255; give the list of classes that it was made with, or mend the file"
        )


def read_confidence(image: LabelledImage) -> ImageArray:
    """The confidence map [H,W] of an image that has one; 255 = certain."""
    assert image.confidence is not None
    confidence = _read_picture(image.confidence, ("L",), "a grey PNG")
    check_size(image.confidence, confidence.shape, image.image, image_size_hw(image.image))
    return confidence


def image_size_hw(path: ImageFile) -> tuple[int, int]:
    """Height and width in px, read from the head of the file."""
    try:
        with _bombs_as_errors(), path.open("rb") as stream, Image.open(stream) as image:
            return image.height, image.width
    except BAD_IMAGE as error:
        raise UsageError(f"{path} cannot be read as an image ({error}); restore it, or take it out") from error


def check_size(labels: ImageFile, labels_hw: Iterable[int], image: ImageFile, image_hw: Iterable[int]) -> None:
    """Refuse a label map that is not of its image's size, naming both."""
    (given_h, given_w), (wanted_h, wanted_w) = labels_hw, image_hw
    if (given_h, given_w) != (wanted_h, wanted_w):
        raise UsageError(
            f"{labels} is {given_w}x{given_h} px and {image} is {wanted_w}x{wanted_h} px; accepted: two files of one "
            "size; give those that belong together"
        )


def _bombs_as_errors() -> warnings.catch_warnings[None]:
    return warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning)


def _read_picture(path: ImageFile, modes: tuple[str, ...], accepted: str) -> ImageArray:
    try:
        with _bombs_as_errors(), path.open("rb") as stream, Image.open(stream) as image:
            mode, pixels = image.mode, np.array(image) if image.mode in modes else None
    except BAD_IMAGE as error:
        raise UsageError(f"{path} cannot be read ({error}); accepted: {accepted}; restore it") from error
    if pixels is None:
        raise UsageError(f"{path} is a picture of mode {mode}; accepted: {accepted}; convert it")
    return pixels
