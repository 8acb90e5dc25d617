"""V: what `f2f label` wrote, in folders or tars, as a set to train on.

The tags of a mask are its window's label set (column `classes` of labels.parquet), also where the mask has no pixel of
a class. Nothing is read that a name or a link would take from outside the folder, and of tars nothing but their plain
files, where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from f2f.engine.errors import UsageError
from f2f.engine.layout import SUFFIXES, Part
from f2f.engine.tars import ImageFile, find_members
from f2f.training.segmentation.images import LabelledImage, LabelledSet, is_plain_name, read_class_names

_COLUMNS = ("id", "classes")
_QUALITY = "quality"


@dataclass(frozen=True)
class _Row:
    """A mask as labels.parquet has it."""

    id: str
    classes: tuple[str, ...]
    quality: float


def read_engine_output(out: Path) -> LabelledSet:
    """The masks of a run, in the order of their ids; the column `quality`, where there is one, weighs them.

    Raises:
        UsageError: `out` holds no finished run, or a file is missing, broken or lies elsewhere.
    """
    table, in_tars = out / "labels.parquet", (out / "webdataset").is_dir()
    names = out / ("webdataset" if in_tars else "voc") / "labels.txt"
    for path in (table, names):
        if not path.is_file():
            raise UsageError(
                f"{out} has no {path.relative_to(out)}; accepted: the --out folder of `f2f label`; give one, or run "
                "`f2f label` again to its end"
            )
    classes = read_class_names(names)
    files = _files_in_tars(out) if in_tars else partial(_files_in_folders, out)
    images = tuple(_labelled(out, row, classes, files) for row in _read_rows(table))
    return LabelledSet(str(out), classes, images).need_image_files()


def _read_rows(path: Path) -> list[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(path).names
        missing = [name for name in _COLUMNS if name not in there]
        if missing:
            raise ValueError(f"the column {missing[0]} is missing")
        rows = pq.read_table(path, columns=[*_COLUMNS, *({_QUALITY} & set(there))]).to_pylist()
        return [_row(entry) for entry in rows]
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); accepted: the table of `f2f label`; run it again to write it anew"
        ) from error


def _row(entry: dict[str, Any]) -> _Row:
    quality = entry.get(_QUALITY)  # rule paper gives none
    return _Row(str(entry["id"]), tuple(map(str, entry["classes"])), 1.0 if quality is None else float(quality))


def _labelled(
    out: Path, row: _Row, classes: Sequence[str], files: Callable[[str], Mapping[Part, ImageFile]]
) -> LabelledImage:
    strange = [name for name in row.classes if name not in classes]
    if strange:
        raise UsageError(f"{out} gives {row.id} the class {strange[0]!r}; accepted: those of labels.txt")
    found = files(row.id)
    return LabelledImage(
        id=row.id,
        image=found["frame"],
        labels=found["mask"],
        tags=tuple(sorted(classes.index(name) for name in row.classes)),
        weight=row.quality,
        confidence=found.get("confidence"),
    )


def _files_in_folders(out: Path, id_: str) -> dict[Part, ImageFile]:
    """The files of a mask: its frame, the mask, and its confidence where there is one."""
    voc = out / "voc"
    found: dict[Part, ImageFile] = {
        "frame": _inside(out, voc / "JPEGImages", f"{id_}.jpg"),
        "mask": _inside(out, voc / "SegmentationClass", f"{id_}.png"),
        "confidence": _inside(out, voc / "Confidence", f"{id_}.png"),
    }
    if not found["mask"].is_file():
        raise _missing(out, str(found["mask"]))
    if not found["confidence"].is_file():
        del found["confidence"]
    return found


def _files_in_tars(out: Path) -> Callable[[str], dict[Part, ImageFile]]:
    """The same for masks in tars, whose members are looked up once."""
    tars = [_inside(out, out / "webdataset", path.name) for path in sorted((out / "webdataset").glob("[0-9]*.tar"))]
    members = {name: member for tar in tars for name, member in find_members(tar).items()}

    def files(id_: str) -> dict[Part, ImageFile]:
        names = {part: f"{id_}{suffix}" for part, suffix in SUFFIXES.items()}
        if names["mask"] not in members or names["frame"] not in members:
            raise _missing(out, f"{names['mask']} or its frame in the tars of {out / 'webdataset'}")
        return {part: members[name] for part, name in names.items() if name in members}

    return files


def _missing(out: Path, what: str) -> UsageError:
    return UsageError(f"{what} is missing, which {out / 'labels.parquet'} lists; run `f2f label` into a new folder")


def _inside(out: Path, folder: Path, name: str) -> Path:
    path = folder / name
    if not is_plain_name(name) or not path.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{folder} / {name!r} leads out of {out}; accepted: files inside it; copy them there")
    return path
