"""Layout: where the files of a run's masks lie, and how a shard's files get there.

voc         OUT/voc/JPEGImages/<id>.jpg SegmentationClass/<id>.png Confidence/<id>.png, ImageSets/…, labels.txt
webdataset  OUT/webdataset/000000.tar with <id>.jpg <id>.png <id>.confidence.png <id>.json of every mask, labels.txt

Either way they are first written into OUT/.staging/000000 and get to their place when their shard is committed; what
lies there and no record names, of a shard or of a part of a video (parts.py), is removed when the run goes on.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from f2f.engine.errors import UsageError
from f2f.engine.files import digest, machine_errors, make_folder, open_aside
from f2f.engine.tars import ImageFile, TarMember, find_members

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
    def publish(self, shard: int, ids: Sequence[str]) -> dict[str, str]:
        """Put the staged files of a shard in place; its record, written next, is the commit.

        Files of masks `ids` that are not staged are in place since the shard was committed before, and stay.

        Returns:
            sha256 of the files it put in place, by their path below OUT.
        """

    @abstractmethod
    def files(self, shard: int, ids: Sequence[str]) -> list[Path]:
        """The files in place of a committed shard that holds masks `ids`."""

    @abstractmethod
    def members(self, shard: int, ids: Sequence[str]) -> Mapping[str, ImageFile]:
        """What lies in place of a committed shard that holds masks `ids`, by id and suffix.

        Raises:
            UsageError: its tar cannot be read.
        """

    @abstractmethod
    def others(self, committed: Mapping[int, Sequence[str]], foreign: Mapping[int, Collection[str]]) -> list[Path]:
        """Files in place that are not of the `committed` shards' masks.

        Those of `foreign` shards do not count: another process may be about to commit them. Their masks' ids begin so.
        """

    @abstractmethod
    def find(self, id_: str, part: Part) -> Path | TarMember:
        """The file of a mask, to be opened."""

    @abstractmethod
    def lists(self, ids: Sequence[str], classes: Sequence[str]) -> dict[Path, bytes]:
        """The lists of masks and classes, and where they lie."""

    def remove_others(self, committed: Mapping[int, Sequence[str]], foreign: Mapping[int, Collection[str]]) -> None:
        """Remove what `others` finds."""
        with machine_errors(self.masks):
            for path in self.others(committed, foreign):
                path.unlink()

    def stage(self, shard: int, id_: str, files: Mapping[Part, bytes]) -> dict[str, str]:
        """Write a mask's files aside, those that the layout has; their sha256 by their names."""
        digests = {}
        for part in self.parts:
            path = self._staged(shard, id_, part)
            with machine_errors(path):
                make_folder(path.parent)
                path.write_bytes(files[part])
            digests[path.name] = hashlib.sha256(files[part]).hexdigest()
        return digests

    def drop(self, shard: int, id_: str) -> None:
        """Remove a mask's staged files."""
        for part in self.parts:
            path = self._staged(shard, id_, part)
            with machine_errors(path):
                path.unlink(missing_ok=True)

    def clear_staging(self, shard: int, keep: Collection[str] = ()) -> None:
        """Remove the staged files of a shard, but for those with the names to `keep`."""
        if keep:
            with suppress(OSError):
                for path in self.staging(shard).iterdir():
                    if path.name not in keep:
                        path.unlink(missing_ok=True)
            return
        shutil.rmtree(self.staging(shard), ignore_errors=True)
        with suppress(OSError):  # other shards are staged there too
            self.staging(shard).parent.rmdir()

    def staging(self, shard: int) -> Path:
        """The folder of a shard's staged files."""
        return self.out / ".staging" / f"{shard:06d}"

    def staged_shards(self) -> list[int]:
        """Numbers of the shards that have staged files."""
        return sorted(int(folder.name) for folder in (self.out / ".staging").glob("[0-9]*"))

    def staged_names(self, id_: str) -> set[str]:
        """Names of a mask's staged files."""
        return {f"{id_}{SUFFIXES[part]}" for part in self.parts}

    def _staged(self, shard: int, id_: str, part: Part) -> Path:
        return self.staging(shard) / f"{id_}{SUFFIXES[part]}"


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

    def publish(self, shard: int, ids: Sequence[str]) -> dict[str, str]:
        """Rename a shard's files into their folders."""
        digests = {}
        for part in self.parts:
            folder = self.out / "voc" / self._places[part][0]
            with machine_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for id_ in ids:
                    staged, place = self._staged(shard, id_, part), self.find(id_, part)
                    if staged.exists():
                        digests[place.relative_to(self.out).as_posix()] = digest(staged)
                        staged.replace(place)
        return digests

    def files(self, shard: int, ids: Sequence[str]) -> list[Path]:
        """Those of every mask."""
        return [self.find(id_, part) for id_ in ids for part in self.parts]

    def members(self, shard: int, ids: Sequence[str]) -> dict[str, ImageFile]:
        """Those of every mask that are there."""
        places = {f"{id_}{SUFFIXES[part]}": self.find(id_, part) for id_ in ids for part in self.parts}
        return {name: path for name, path in places.items() if path.is_file()}

    def others(self, committed: Mapping[int, Sequence[str]], foreign: Mapping[int, Collection[str]]) -> list[Path]:
        """The files of other masks."""
        named = {id_ for ids in committed.values() for id_ in ids}
        spared = {prefix for prefixes in foreign.values() for prefix in prefixes}
        found = [path for folder, _ in self._places.values() for path in (self.out / "voc" / folder).glob("*")]
        return [path for path in found if path.stem not in named and path.stem.rpartition("-")[0] not in spared]

    def find(self, id_: str, part: Part) -> Path:
        """Its path."""
        folder, suffix = self._places[part]
        return self.out / "voc" / folder / f"{id_}{suffix}"

    def lists(self, ids: Sequence[str], classes: Sequence[str]) -> dict[Path, bytes]:
        """train.txt and labels.txt."""
        voc = self.out / "voc"
        return {
            voc / "ImageSets" / "Segmentation" / "train.txt": "".join(f"{id_}\n" for id_ in ids).encode(),
            voc / "labels.txt": _class_lines(classes),
        }


class TarLayout(Layout):
    """A tar per shard, as WebDataset reads them: a mask's files are adjacent and share their name up to the dot.

    Tars hold no time and no owner, and their masks are sorted by id. A shard without masks has none.
    """

    accepts = frozenset(SUFFIXES)

    @property
    def masks(self) -> Path:
        """The folder of the tars."""
        return self.out / "webdataset"

    def publish(self, shard: int, ids: Sequence[str]) -> dict[str, str]:
        """Write a shard's tar aside and rename it."""
        path = self._tar(shard)
        if not ids:
            with machine_errors(path):
                path.unlink(missing_ok=True)
            return {}
        before = find_members(path) if path.exists() else {}
        with open_aside(path) as stream:
            tar = tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - its end is ours
            for id_ in sorted(ids):
                for part in self.parts:
                    _append(tar, self._staged(shard, id_, part), before)
            tar.close()
        return {path.relative_to(self.out).as_posix(): digest(path)}

    def files(self, shard: int, ids: Sequence[str]) -> list[Path]:
        """Its tar, where it has masks."""
        return [self._tar(shard)] if ids else []

    def members(self, shard: int, ids: Sequence[str]) -> dict[str, TarMember]:
        """All that its tar holds."""
        return find_members(self._tar(shard)) if ids else {}

    def others(self, committed: Mapping[int, Sequence[str]], foreign: Mapping[int, Collection[str]]) -> list[Path]:
        """The tars of other shards, and parts of tars."""
        named = {self._tar(shard).name for shard, ids in committed.items() if ids}
        spared = {self._tar(shard).name for shard in foreign}
        spared |= {f".{name}.part" for name in spared}
        found = [*self.masks.glob("*.tar"), *self.masks.glob(".*.tar.part")]
        return [path for path in found if path.name not in named | spared]

    def _tar(self, shard: int) -> Path:
        return self.masks / f"{shard:06d}.tar"

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

    def lists(self, ids: Sequence[str], classes: Sequence[str]) -> dict[Path, bytes]:
        """labels.txt; the tars are the list of masks."""
        return {self.masks / "labels.txt": _class_lines(classes)}


LAYOUTS: Mapping[str, type[Layout]] = {"voc": VocLayout, "webdataset": TarLayout}


def layout_of(out: Path, options: Mapping[str, Any]) -> Layout:
    """The layout of a run in `out` that pins these `options`."""
    return LAYOUTS[options.get("format", "voc")](out, bool(options.get("confidence")))


def _append(tar: tarfile.TarFile, staged: Path, before: Mapping[str, TarMember]) -> None:
    """Add a staged file, or where there is none the member of that name that the tar held `before`."""
    content = staged if staged.exists() else before[staged.name]
    entry = tarfile.TarInfo(staged.name)  # which has mode 0644, and 0 for time and owner
    with content.open("rb") as stream:
        entry.size = stream.seek(0, 2)
        stream.seek(0)
        tar.addfile(entry, stream)


def _class_lines(classes: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in ["background", *classes]).encode()
