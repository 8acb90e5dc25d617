"""Cues: a few cells of a coarse grid over the image that are known to show a class or background.

A folder of cues holds <id>.png, a palette PNG of labels (0 background, c+1 class c, 255 nothing known) of any size,
41×41 as a rule, and labels.txt (a class per line, background first).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from f2f.engine.errors import UsageError
from f2f.engine.files import write_aside
from f2f.engine.types import ImageArray
from f2f.engine.write import encode_mask
from f2f.training.segmentation.images import (
    LabelledSet,
    check_classes,
    is_plain_name,
    label_table,
    listed,
    read_class_names,
    read_label_map,
)

CUE_GRID_HW = (41, 41)
"""of SEC and DSRG: their networks make it of 321 by 321 px"""


@dataclass(frozen=True)
class CueFolder:
    """A folder of cues, and the order of the classes in its files."""

    folder: Path
    classes: tuple[str, ...]

    @classmethod
    def create(cls, folder: Path, classes: tuple[str, ...]) -> CueFolder:
        """Begin a folder, or go on in one of the same classes.

        Raises:
            UsageError: it holds cues of other classes.
            MachineError: the disk does not take it.
        """
        check_classes(str(folder), classes)
        names = folder / "labels.txt"
        if names.exists():
            found = cls.open(folder)
            if found.classes != classes:
                raise UsageError(
                    f"{folder} holds cues of {', '.join(found.classes)}; accepted: {', '.join(classes)}; give another "
                    "folder"
                )
            return found
        write_aside(names, "".join(f"{name}\n" for name in ("background", *classes)).encode())
        return cls(folder, classes)

    @classmethod
    def open(cls, folder: Path) -> CueFolder:
        """An existing folder.

        Raises:
            UsageError: it has no labels.txt.
        """
        return cls(folder, read_class_names(folder / "labels.txt"))

    def write(self, id_: str, cues: ImageArray) -> None:
        """Store the cues [gh,gw] of an image, labels by `classes`."""
        write_aside(self._file(id_), encode_mask(cues))

    def has(self, id_: str) -> bool:
        """Whether the cues of an image are there."""
        return self._file(id_).is_file()

    def forget(self, id_: str) -> None:
        """Remove the cues of an image, if they are there."""
        self._file(id_).unlink(missing_ok=True)

    def read(self, id_: str, classes: tuple[str, ...] | None = None) -> ImageArray:
        """The cues [gh,gw] of an image, labels by `classes` (default: the folder's own).

        Raises:
            UsageError: there are none, they are broken, or a class of the folder is not among `classes`.
        """
        cues = read_label_map(self._file(id_), len(self.classes))
        table = label_table(str(self.folder), self.classes, classes or self.classes)
        return table[cues]

    def need(self, images: LabelledSet) -> CueFolder:
        """Itself; refuses where an image has no cues, or the classes do not fit."""
        label_table(str(self.folder), self.classes, images.classes)
        missing = [one.id for one in images.images if not self.has(one.id)]
        if missing:
            raise UsageError(
                f"{self.folder} has no cues for {len(missing)} of {len(images.images)} images of {images.source} "
                f"({listed(missing)}); accepted: a PNG per image; make them, or shorten the list"
            )
        return self

    def _file(self, id_: str) -> Path:
        if not is_plain_name(id_):
            raise UsageError(f"{id_!r} is no image id; accepted: a file name without folders; correct the list")
        return self.folder / f"{id_}.png"
