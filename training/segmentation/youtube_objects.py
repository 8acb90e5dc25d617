"""YouTube-Objects v1 with the masks of Jain and Grauman (2014): 126 clips of 10 classes, every tenth frame annotated.

ROOT/youtube_masks/<class>/data/<video>/shots/<shot>/labels/00001.jpg, and, where the frames are there too,
ROOT/v1/<class>/data/<video>/shots/<shot>/frame0001.jpg (or without v1); both count the frames from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from f2f.engine.errors import UsageError
from f2f.engine.picture import open_image

YOUTUBE_CLASSES = ("aeroplane", "bird", "boat", "car", "cat", "cow", "dog", "horse", "motorbike", "train")
"""all of them Pascal VOC's"""
MASK_LEVEL = 127
"""a pixel is the object where the mask, a JPEG, is above this: the middle, as compression moves both sides alike"""


@dataclass(frozen=True)
class AnnotatedFrame:
    """A frame that has a mask."""

    tag: str
    """the class that its video was found with, which the mask means"""
    video: str
    shot: str
    number: int
    """from 1"""
    mask: Path

    @property
    def sequence(self) -> str:
        """The clip that it belongs to."""
        return f"{self.tag}/{self.video}/{self.shot}"

    @property
    def path(self) -> Path:
        """The frame's path below ROOT/v1, without suffix; where its prediction lies in a folder of predictions."""
        return Path(self.tag, "data", self.video, "shots", self.shot, f"frame{self.number:04d}")


def read_youtube_objects(root: Path) -> tuple[AnnotatedFrame, ...]:
    """All annotated frames, by class, video, shot and number.

    Raises:
        UsageError: there are none, or a class folder is not one of the ten.
    """
    masks = root / "youtube_masks" if (root / "youtube_masks").is_dir() else root
    frames = tuple(sorted(_frames(masks), key=lambda frame: frame.path.parts))
    if not frames:
        raise UsageError(
            f"{root} holds no masks; accepted: youtube_masks/<class>/data/<video>/shots/<shot>/labels/00001.jpg; give "
            "the folder above youtube_masks"
        )
    strange = sorted({frame.tag for frame in frames} - set(YOUTUBE_CLASSES))
    if strange:
        raise UsageError(f"{masks} has a class {strange[0]!r}; accepted: {', '.join(YOUTUBE_CLASSES)}; remove it")
    return frames


def frame_file(root: Path, frame: AnnotatedFrame) -> Path:
    """The image of a frame.

    Raises:
        UsageError: it is not there.
    """
    candidates = [folder / f"{frame.path}.jpg" for folder in (root / "v1", root)]
    for path in candidates:
        if path.is_file():
            return path
    raise UsageError(f"{candidates[0]} is not there; accepted: the frames of YouTube-Objects v1 in ROOT/v1; add them")


def read_object_mask(path: Path) -> NDArray[np.bool_]:
    """[H,W], where the object is."""
    return np.array(open_image(path).convert("L")) > MASK_LEVEL


def _frames(masks: Path) -> Iterator[AnnotatedFrame]:
    for path in masks.glob("*/data/*/shots/*/labels/*.jpg"):
        if not path.stem.isdecimal():
            raise UsageError(f"{path} is no frame's mask; accepted: names like 00001.jpg; take it out")
        tag, _, video, _, shot, _, _ = path.relative_to(masks).parts
        yield AnnotatedFrame(tag, video, shot, int(path.stem), path)
