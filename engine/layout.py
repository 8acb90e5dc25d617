"""Layout: where the files of a run's masks lie, and how a shard's files get there.

voc         OUT/voc/JPEGImages/<id>.jpg SegmentationClass/<id>.png Confidence/<id>.png, ImageSets/…, labels.txt
webdataset  OUT/webdataset/000000.tar with <id>.jpg <id>.png <id>.confidence.png <id>.json of every mask, labels.txt

Either way they are first written into OUT/.staging/000000 and get to their place when their shard is committed; what
lies there and no record names is removed when the run goes on.
"""

from __future__ import annotations

import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from f2f.engine.errors import UsageError
from f2f.engine.files import machine_errors, open_aside, write_aside
from f2f.engine.tars import TarMember, find_members

Part = Literal["frame", "mask", "confidence", "record"]

SUFFIXES: Mapping[Part, str] = {"frame": ".jpg", "mask": ".png", "confidence": ".confidence.png", "record": ".json"}
"""of staged files and members of a tar; ids hold no dot"""


class Layout(ABC):
    """Where a run's masks lie and what belongs to them."""

    def __init__(self, out: Path, confidence: bool) -> None:
        """`confidence`: a map of it belongs to every mask."""
        self.out = out
        self.parts = tuple(part for part in SUFFIXES if part in self.accepts and (confidence or part != "confidence"))

    accepts: frozenset[Part]
    """parts of a mask that the layout has a place for"""

    @property
    @abstractmethod
    def masks(self) -> Path:
        """The folder of the masks."""

    @abstractmethod
    def publish(self, shard: int, ids: Sequence[str]) -> None:
        """Put the staged files of a shard in place; its record, written next, is the commit."""

    @abstractmethod
    def remove_others(self, committed: Mapping[int, Sequence[str]]) -> None:
        """Remove files that are not of the `committed` shards' masks."""

    @abstractmethod
    def find(self, id_: str, part: Part) -> Path | TarMember:
        """The file of a mask, to be opened."""

    @abstractmethod
    def write_lists(self, ids: Sequence[str], classes: Sequence[str]) -> None:
        """Write the lists of masks and classes anew."""

    def stage(self, shard: int, id_: str, files: Mapping[Part, bytes]) -> None:
        """Write a mask's files aside, those that the layout has."""
        for part in self.parts:
            path = self._staged(shard, id_, part)
            with machine_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files[part])

    def drop(self, shard: int, id_: str) -> None:
        """Remove a mask's staged files."""
        for part in self.parts:
            self._staged(shard, id_, part).unlink(missing_ok=True)

    def clear_staging(self, shard: int | None = None) -> None:
        """Remove the staged files of a shard, or of all."""
        shutil.rmtree(self._staging(shard), ignore_errors=True)

    def _staging(self, shard: int | None) -> Path:
        return self.out / ".staging" / ("" if shard is None else f"{shard:06d}")

    def _staged(self, shard: int, id_: str, part: Part) -> Path:
        return self._staging(shard) / f"{id_}{SUFFIXES[part]}"


class VocLayout(Layout):
    """Pascal VOC's folders."""

    accepts = frozenset({"frame", "mask", "confidence"})
    _places: Mapping[Part, tuple[str, str]] = {
        "frame": ("JPEGImages", ".jpg"),
        "mask": ("SegmentationClass", ".png"),
        "confidence": ("Confidence", ".png"),
    }

    @property
    def masks(self) -> Path:
        """The folder SegmentationClass."""
        return self.out / "voc" / self._places["mask"][0]

    def publish(self, shard: int, ids: Sequence[str]) -> None:
        """Rename a shard's files into their folders."""
        for part in self.parts:
            folder = self.out / "voc" / self._places[part][0]
            with machine_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for id_ in ids:
                    self._staged(shard, id_, part).replace(self.find(id_, part))

    def remove_others(self, committed: Mapping[int, Sequence[str]]) -> None:
        """Remove the files of other masks."""
        named = {id_ for ids in committed.values() for id_ in ids}
        for folder, _ in self._places.values():
            for path in (self.out / "voc" / folder).glob("*"):
                if path.stem not in named:
                    path.unlink()

    def find(self, id_: str, part: Part) -> Path:
        """Its path."""
        folder, suffix = self._places[part]
        return self.out / "voc" / folder / f"{id_}{suffix}"

    def write_lists(self, ids: Sequence[str], classes: Sequence[str]) -> None:
        """Write train.txt and labels.txt."""
        voc = self.out / "voc"
        write_aside(voc / "ImageSets" / "Segmentation" / "train.txt", "".join(f"{id_}\n" for id_ in ids).encode())
        write_aside(voc / "labels.txt", _class_lines(classes))


class TarLayout(Layout):
    """A tar per shard, as WebDataset reads them: a mask's files are adjacent and share their name up to the dot.

    Tars hold no time and no owner, and their masks are sorted by id. A shard without masks has none.
    """

    accepts = frozenset(SUFFIXES)

    @property
    def masks(self) -> Path:
        """The folder of the tars."""
        return self.out / "webdataset"

    def publish(self, shard: int, ids: Sequence[str]) -> None:
        """Write a shard's tar aside and rename it."""
        if not ids:
            return
        files = [self._staged(shard, id_, part) for id_ in sorted(ids) for part in self.parts]
        with open_aside(self.masks / f"{shard:06d}.tar") as stream:
            tar = tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - its end is ours
            for path in files:
                entry = tarfile.TarInfo(path.name)  # which has mode 0644, and 0 for time and owner
                entry.size = path.stat().st_size
                with path.open("rb") as content:
                    tar.addfile(entry, content)
            tar.close()

    def remove_others(self, committed: Mapping[int, Sequence[str]]) -> None:
        """Remove the tars of other shards, and parts of tars."""
        named = {f"{shard:06d}.tar" for shard, ids in committed.items() if ids}
        for path in [*self.masks.glob("*.tar"), *self.masks.glob(".*.tar.part")]:
            if path.name not in named:
                path.unlink()

    def find(self, id_: str, part: Part) -> TarMember:
        """Its place in its shard's tar; raises UsageError where it is in none."""
        name = f"{id_}{SUFFIXES[part]}"
        if name not in self._members:
            raise UsageError(f"no tar in {self.masks} holds {name}; restore it, or run `f2f label` into a new folder")
        return self._members[name]

    @cached_property
    def _members(self) -> dict[str, TarMember]:
        """Every file of every tar."""
        tars = sorted(self.masks.glob("[0-9]*.tar"))
        return {name: member for tar in tars for name, member in find_members(tar).items()}

    def write_lists(self, ids: Sequence[str], classes: Sequence[str]) -> None:
        """Write labels.txt; the tars are the list of masks."""
        write_aside(self.masks / "labels.txt", _class_lines(classes))


LAYOUTS: Mapping[str, type[Layout]] = {"voc": VocLayout, "webdataset": TarLayout}


def layout_of(out: Path, options: Mapping[str, Any]) -> Layout:
    """The layout of a run in `out` that pins these `options`."""
    return LAYOUTS[options.get("format", "voc")](out, bool(options.get("confidence")))


def _class_lines(classes: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in ["background", *classes]).encode()
