"""Lists of images as they are passed around: one per line, in three spellings that may be mixed.

2008_007028                                                      an id (Pascal VOC, IRN)
/JPEGImages/2008_007028.jpg /SegmentationClassAug/2008_007028.png     image and labels (DeepLab, PSA)
2008_007028.jpg 17                                               image and its number in a file of cues (SEC, DSRG)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from f2f.engine.errors import UsageError
from f2f.training.segmentation.images import is_plain_name

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_FOLDER = "JPEGImages"
_ACCEPTED = f"an id, `/{_FOLDER}/<id>.jpg /<folder>/<id>.png` or `<id>.jpg <number>`"


@dataclass(frozen=True)
class ListedImage:
    """A line."""

    id: str
    labels: PurePosixPath | None = None
    """its label map, relative to the root of the data set"""
    number: int | None = None
    """its number in a file of cues"""


def read_image_list(path: Path) -> tuple[ListedImage, ...]:
    """The lines of a list file; see `parse_image_list`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list {path} cannot be read ({error}); accepted: lines with {_ACCEPTED}") from error
    return parse_image_list(text, str(path))


def parse_image_list(text: str, source: str) -> tuple[ListedImage, ...]:
    """The lines of a list; empty ones are passed over.

    Raises:
        UsageError: it is empty, has an id twice, or a line that is none of the three spellings.
    """
    lines = {number: line.split() for number, line in enumerate(text.splitlines(), 1) if line.strip()}
    images = tuple(_parse_line(fields, f"{source}, line {number}") for number, fields in lines.items())
    if not images:
        raise UsageError(f"{source} lists no image; accepted: lines with {_ACCEPTED}")
    seen: set[str] = set()
    for image in images:
        if image.id in seen:
            raise UsageError(f"{source} lists {image.id} twice; accepted: every image once; remove a line")
        seen.add(image.id)
    return images


def _parse_line(fields: list[str], where: str) -> ListedImage:
    id_ = _id(fields[0])
    if id_ is not None and len(fields) == 1:
        return ListedImage(id_)
    if id_ is not None and len(fields) == 2:
        if fields[1].isdecimal():
            return ListedImage(id_, number=int(fields[1]))
        labels = PurePosixPath(fields[1].lstrip("/"))
        if labels.suffix == ".png" and ".." not in labels.parts:
            return ListedImage(id_, labels)
    raise UsageError(f"{where} is {' '.join(fields)!r}; accepted: {_ACCEPTED}; correct the line")


def _id(field: str) -> str | None:
    """The id that a first field means."""
    path = PurePosixPath(field)
    name = path.stem if path.suffix.lower() in _SUFFIXES else path.name
    ok = is_plain_name(name) and path.parent.name in {"", _FOLDER} and ".." not in path.parts
    return name if ok else None
