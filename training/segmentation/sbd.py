"""The list `trainaug` and its masks, made of Pascal VOC 2012 and the Semantic Boundaries Dataset (Hariharan 2011).

trainaug = (VOC train + SBD train + SBD val) without VOC val: 10,582 images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from f2f.engine.errors import UsageError
from f2f.engine.files import machine_errors, write_aside
from f2f.engine.types import ImageArray
from f2f.engine.write import encode_mask
from f2f.training.segmentation.image_lists import read_image_list
from f2f.training.segmentation.images import check_labels, check_size, image_size_hw, listed
from f2f.training.segmentation.voc import LISTS, VOC_CLASSES, list_file, voc_root

_AUG = "SegmentationClassAug"


@dataclass(frozen=True)
class AugSummary:
    """What became of the list."""

    images: int
    """lines of trainaug.txt"""
    written: int
    """masks that were converted or copied"""
    kept: int
    """masks that were there"""
    path: Path
    """trainaug.txt"""


def make_trainaug(voc: Path, sbd: Path, on_image: Callable[[object, int], None] = lambda *_: None) -> AugSummary:
    """Write ImageSets/Segmentation/trainaug.txt and the missing masks of SegmentationClassAug into the VOC tree.

    A mask is VOC's own where there is one, else SBD's. Running it again goes on where it stopped. `on_image`
    gets every image and their number.

    Raises:
        UsageError: a list, an image or a mask is missing or broken.
        MachineError: the disk does not take it.
    """
    root, sbd_folder = voc_root(voc), sbd_root(sbd)
    ids = trainaug_ids(root, sbd_folder)
    missing = [id_ for id_ in ids if not (root / "JPEGImages" / f"{id_}.jpg").is_file()]
    if missing:
        raise UsageError(f"{root} lacks {len(missing)} of {len(ids)} images ({listed(missing)}); add the JPEG files")
    with machine_errors(root / _AUG):
        (root / _AUG).mkdir(exist_ok=True)
    written = 0
    for id_ in ids:
        written += _write_mask(root, sbd_folder, id_)
        on_image(id_, len(ids))
    path = root / LISTS / "trainaug.txt"
    write_aside(path, "".join(f"{id_}\n" for id_ in ids).encode())
    return AugSummary(len(ids), written, len(ids) - written, path)


def trainaug_ids(root: Path, sbd_folder: Path) -> list[str]:
    """The ids of trainaug, sorted."""
    voc = {split: {one.id for one in read_image_list(list_file(root, split))} for split in ("train", "val")}
    sbd = {one.id for split in ("train", "val") for one in read_image_list(sbd_folder / f"{split}.txt")}
    return sorted((voc["train"] | sbd) - voc["val"])


def sbd_root(path: Path) -> Path:
    """The folder with cls/: `path` itself, or dataset or benchmark_RELEASE/dataset in it."""
    for candidate in (path, path / "dataset", path / "benchmark_RELEASE" / "dataset"):
        if (candidate / "cls").is_dir():
            return candidate
    raise UsageError(
        f"{path} holds no cls folder; accepted: benchmark_RELEASE, its folder dataset, or the folder above; give the "
        "unpacked benchmark.tgz"
    )


def read_sbd_labels(path: Path) -> ImageArray:
    """The label map [H,W] of an SBD .mat file (GTcls.Segmentation)."""
    from scipy.io import loadmat

    try:
        labels = np.asarray(loadmat(path, squeeze_me=True, struct_as_record=False)["GTcls"].Segmentation)
    except Exception as error:  # scipy raises whatever a broken file leads it to
        raise UsageError(
            f"{path} cannot be read ({type(error).__name__}: {error}); accepted: a .mat file of SBD's cls with "
            "GTcls.Segmentation; restore it"
        ) from error
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise UsageError(f"{path} holds {labels.dtype} {labels.shape}; accepted: uint8 [H,W]; restore it")
    check_labels(path, labels, len(VOC_CLASSES))
    return labels


def _write_mask(root: Path, sbd_folder: Path, id_: str) -> bool:
    """Write the mask of an image; False where it is there."""
    target, own = root / _AUG / f"{id_}.png", root / "SegmentationClass" / f"{id_}.png"
    if target.is_file():
        return False
    if own.is_file():
        write_aside(target, own.read_bytes())
        return True
    source, image = sbd_folder / "cls" / f"{id_}.mat", root / "JPEGImages" / f"{id_}.jpg"
    labels = read_sbd_labels(source)
    check_size(source, labels.shape, image, image_size_hw(image))
    write_aside(target, encode_mask(labels))
    return True
