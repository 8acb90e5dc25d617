"""The cues that SEC's authors released (localization_cues.pickle.gz with input_list.txt), read without running code.

The file is a Python 2 pickle of {"<number>_cues": int [3,N], rows class, y, x on 41×41; "<number>_labels": int [T],
the tags from 1}; the list says which image a number is. It becomes a folder of cues and a table of tags.
"""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from f2f.engine.errors import UsageError
from f2f.engine.files import write_aside
from f2f.engine.types import IGNORE, ImageArray
from f2f.training.segmentation.cue_files import CUE_GRID_HW, CueFolder
from f2f.training.segmentation.image_lists import ListedImage, read_image_list
from f2f.training.segmentation.voc import VOC_CLASSES

_ACCEPTED = "localization_cues.pickle or .pickle.gz as SEC's authors released it"
_GLOBALS = {
    (module, name)
    for module, name in (
        *(("numpy", name) for name in ("ndarray", "dtype")),
        *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    )
}
"""all that a pickle of arrays needs"""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays do not need: nothing was run")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def import_sec_cues(
    cues: Path, image_list: Path, out: Path, on_image: Callable[[object, int], None] = lambda *_: None
) -> int:
    """Write the released cues as a folder of cues, with tags.csv (id, classes); returns the number of images.

    `on_image` gets every image and their number.

    Raises:
        UsageError: a file is not what it should be, or an image of the list has no cues.
        MachineError: the disk does not take it.
    """
    numbered = read_image_list(image_list)
    entries = _read_arrays(cues)
    folder = CueFolder.create(out, VOC_CLASSES)
    rows = ["id,classes"]
    for image in numbered:
        folder.write(image.id, _cue_map(_entry(entries, image, "cues", cues, image_list), f"{cues}, {image.id}"))
        tags = _entry(entries, image, "labels", cues, image_list)
        on_image(image, len(numbered))
        rows.append(f"{image.id},{' '.join(_class_names(tags, f'{cues}, {image.id}'))}")
    write_aside(out / "tags.csv", ("\n".join(rows) + "\n").encode())
    return len(numbered)


def _read_arrays(path: Path) -> Mapping[str, object]:
    try:
        with _opened(path) as stream:
            content = _ArraysOnly(stream, encoding="latin1").load()
    except Exception as error:  # a broken pickle leads to whatever it likes
        raise UsageError(f"{path} cannot be read ({error}); accepted: {_ACCEPTED}; fetch it again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}; accepted: {_ACCEPTED}; fetch it again")
    return content


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _entry(
    entries: Mapping[str, object], image: ListedImage, what: str, cues: Path, image_list: Path
) -> NDArray[np.int64]:
    if image.number is None:
        raise UsageError(f"{image_list} gives {image.id} no number; accepted: `{image.id}.jpg <number>`; correct it")
    key = f"{image.number}_{what}"
    if key not in entries:
        raise UsageError(f"{cues} has no {key} ({image.id} of {image_list}); give the list that belongs to the file")
    values = np.asarray(entries[key])
    if values.dtype.kind not in "iu" and values.size:
        raise UsageError(f"{cues} holds {values.dtype} under {key}; accepted: integers; fetch it again")
    return values.astype(np.int64)


def _cue_map(cues: NDArray[np.int64], where: str) -> ImageArray:
    """Rows class, y, x [3,N] -> labels [41,41]."""
    if cues.ndim != 2 or cues.shape[0] != 3:
        raise UsageError(f"{where}: cues {cues.shape}; accepted: [3, N], rows class, y, x; fetch the file again")
    limits = np.array([[len(VOC_CLASSES) + 1], [CUE_GRID_HW[0]], [CUE_GRID_HW[1]]])
    if ((cues < 0) | (cues >= limits)).any():
        raise UsageError(f"{where}: cues beyond {limits.ravel().tolist()} (classes, y, x); fetch the file again")
    labels, rows, columns = cues
    grid = np.full(CUE_GRID_HW, IGNORE, np.uint8)
    grid[rows, columns] = labels
    if (grid[rows, columns] != labels).any():
        raise UsageError(f"{where}: a cell is cued for two classes; accepted: one at most; fetch the file again")
    return grid


def _class_names(tags: NDArray[np.int64], where: str) -> Iterator[str]:
    for tag in sorted(tags.ravel().tolist()):
        if not 1 <= tag <= len(VOC_CLASSES):
            raise UsageError(f"{where}: tag {tag}; accepted: 1 to {len(VOC_CLASSES)}; fetch the file again")
        yield VOC_CLASSES[tag - 1]
