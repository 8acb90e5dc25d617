"""V: what `f2f label` wrote, as a set to train on.

The tags of a mask are its window's label set (column `classes` of labels.parquet), also where the mask has no pixel of
a class. Nothing is read that a name or a link would take from outside the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from f2f.engine.errors import UsageError
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
    table, names = out / "labels.parquet", out / "voc" / "labels.txt"
    for path in (table, names):
        if not path.is_file():
            raise UsageError(
                f"{out} has no {path.relative_to(out)}; accepted: the --out folder of `f2f label`; give one, or run "
                "`f2f label` again to its end"
            )
    classes = read_class_names(names)
    images = tuple(_labelled(out, row, classes) for row in _read_rows(table))
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


def _labelled(out: Path, row: _Row, classes: Sequence[str]) -> LabelledImage:
    strange = [name for name in row.classes if name not in classes]
    if strange:
        raise UsageError(f"{out} gives {row.id} the class {strange[0]!r}; accepted: those of voc/labels.txt")
    paths = {
        folder: _inside(out, out / "voc" / folder, f"{row.id}{suffix}")
        for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png"), ("Confidence", ".png"))
    }
    labels, confidence = paths["SegmentationClass"], paths["Confidence"]
    if not labels.is_file():
        raise UsageError(
            f"{labels} is missing, which {out / 'labels.parquet'} lists; run `f2f label` into a new folder"
        )
    return LabelledImage(
        id=row.id,
        image=paths["JPEGImages"],
        labels=labels,
        tags=tuple(sorted(classes.index(name) for name in row.classes)),
        weight=row.quality,
        confidence=confidence if confidence.is_file() else None,
    )


def _inside(out: Path, folder: Path, name: str) -> Path:
    path = folder / name
    if not is_plain_name(name) or not path.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{folder} / {name!r} leads out of {out}; accepted: files inside it; copy them there")
    return path
