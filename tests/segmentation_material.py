"""Tiny segmentation data sets on disk: Pascal VOC, SBD, YouTube-Objects, cues as SEC released them, output of a run."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

from f2f.engine.types import ImageArray
from f2f.engine.write import encode_mask, voc_palette
from f2f.training.segmentation.voc import VOC_CLASSES

HW = (24, 34)
DOG, PERSON = VOC_CLASSES.index("dog"), VOC_CLASSES.index("person")


def made_up_labels(number: int, tags: Sequence[int], hw: tuple[int, int] = HW) -> ImageArray:
    """Boxes of the tags' classes on background, each with an unlabelled border; somewhere else for every number."""
    labels = np.zeros(hw, np.uint8)
    rng = np.random.default_rng(number)
    for place, tag in enumerate(tags):
        left = place * hw[1] // len(tags)
        top, height, width = int(rng.integers(1, hw[0] // 3)), hw[0] // 3, hw[1] // len(tags) - 4
        labels[top - 1 : top + height + 1, left : left + width + 2] = 255
        labels[top : top + height, left + 1 : left + width + 1] = tag + 1
    return labels


def coloured(labels: ImageArray) -> ImageArray:
    """The picture [H,W,3] whose colours are those of the labels."""
    return np.array(voc_palette(), np.uint8).reshape(256, 3)[labels]


def save(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def save_image(path: Path, pixels: ImageArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def annotation(tags: Sequence[int], head: str = "") -> str:
    """A box per tag, and a box of a part, which is no tag."""
    part = "<part><name>head</name></part>"
    boxes = "".join(
        f"<object><name>{VOC_CLASSES[tag]}</name><difficult>{int(tag % 2)}</difficult>{part}</object>" for tag in tags
    )
    return f"{head}<annotation>{boxes}</annotation>"


VOC_TAGS: dict[str, tuple[int, ...]] = {
    **{f"2007_{number:06d}": (number % 20,) for number in range(1, 4)},
    **{f"2008_{number:06d}": (DOG, PERSON) for number in range(1, 4)},
    **{f"2009_{number:06d}": (number,) for number in range(1, 4)},
}
TRAIN = ("2007_000001", "2007_000002", "2008_000001")
VAL = ("2007_000003", "2008_000002")
SBD_TRAIN = ("2008_000001", "2008_000003", "2009_000001", "2007_000003")
SBD_VAL = ("2009_000002", "2008_000002")


def write_voc(root: Path) -> Path:
    """VOCdevkit/VOC2012 below `root`; VOC's own masks for train and val. Returns VOC2012."""
    folder = root / "VOCdevkit" / "VOC2012"
    for number, (id_, tags) in enumerate(VOC_TAGS.items()):
        labels = made_up_labels(number, tags)
        save_image(folder / "JPEGImages" / f"{id_}.jpg", coloured(labels))
        save(folder / "Annotations" / f"{id_}.xml", annotation(tags))
        if id_ in TRAIN + VAL:
            save(folder / "SegmentationClass" / f"{id_}.png", encode_mask(labels))
    for name, ids in (("train", TRAIN), ("val", VAL), ("trainval", TRAIN + VAL), ("test", ("2009_000003",))):
        save(folder / "ImageSets" / "Segmentation" / f"{name}.txt", "".join(f"{id_}\n" for id_ in ids))
    return folder


def write_sbd(root: Path) -> Path:
    """benchmark_RELEASE/dataset below `root`: a mask of its own for every image, class `bus` all over."""
    folder = root / "benchmark_RELEASE" / "dataset"
    (folder / "cls").mkdir(parents=True)
    for name, ids in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        save(folder / f"{name}.txt", "\n".join(ids) + "\n")
        for id_ in ids:
            fields = {"Segmentation": np.full(HW, 6, np.uint8), "Boundaries": np.zeros((20, 1), object)}
            savemat(folder / "cls" / f"{id_}.mat", {"GTcls": fields})
    return root


def write_predictions(folder: Path, maps: Mapping[str, ImageArray]) -> Path:
    for name, labels in maps.items():
        save(folder / f"{name}.png", encode_mask(labels))
    return folder


def write_youtube_objects(root: Path, masks: Mapping[str, ImageArray]) -> Path:
    """`masks`: <class>/<video>/<shot>/<number> -> 0 or 1; the numbers count from 1. Frames are black."""
    for name, mask in masks.items():
        tag, video, shot, number = name.split("/")
        clip = Path(tag, "data", video, "shots", shot)
        save_image(root / "youtube_masks" / clip / "labels" / f"{int(number):05d}.jpg", 255 * mask)
        save_image(root / "v1" / clip / f"frame{int(number):04d}.jpg", np.zeros((*mask.shape, 3), np.uint8))
    return root


def write_sec_cues(root: Path, cues: Mapping[str, ImageArray], tags: Mapping[str, Sequence[int]]) -> tuple[Path, Path]:
    """The pickle and the list; the numbers count from 5. Tags from 0."""
    entries: dict[str, object] = {}
    lines = []
    for number, (id_, grid) in enumerate(cues.items(), 5):
        rows, columns = np.nonzero(grid != 255)
        entries[f"{number}_cues"] = np.stack([grid[rows, columns], rows, columns]).astype(np.int64)
        entries[f"{number}_labels"] = np.array(tags[id_], np.int64) + 1
        lines.append(f"{id_}.jpg {number}\n")
    pickled = pickle.dumps(entries, protocol=3)
    listed = save(root / "input_list.txt", "".join(lines))
    return save(root / "localization_cues.pickle.gz", gzip.compress(pickled)), listed


def write_run(out: Path, classes: Sequence[str], rows: Sequence[Mapping[str, object]]) -> Path:
    """What training reads of a run of `f2f label`: a row is id, classes, and quality where it has one."""
    save(out / "voc" / "labels.txt", "".join(f"{name}\n" for name in ("background", *classes)))
    for number, row in enumerate(rows):
        tags = [list(classes).index(name) for name in row["classes"]]  # type: ignore[attr-defined]
        labels = made_up_labels(number, tags)
        save_image(out / "voc" / "JPEGImages" / f"{row['id']}.jpg", coloured(labels))
        save(out / "voc" / "SegmentationClass" / f"{row['id']}.png", encode_mask(labels))
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), out / "labels.parquet")
    return out


def write_synthetic(folder: Path, tags: Mapping[str, Sequence[str]], classes: Sequence[str]) -> Path:
    """OUT of `f2f synth`: the last image is for validation."""
    images = folder / "images"
    for number, (id_, names) in enumerate(tags.items()):
        labels = made_up_labels(number, [list(classes).index(name) for name in names])
        save_image(images / "JPEGImages" / f"{id_}.jpg", coloured(labels))
        save(images / "SegmentationClass" / f"{id_}.png", encode_mask(labels))
    save(images / "tags.csv", "id,classes\n" + "".join(f"{id_},{' '.join(names)}\n" for id_, names in tags.items()))
    save(images / "labels.txt", "".join(f"{name}\n" for name in ("background", *classes)))
    *training, held_out = tags
    save(images / "ImageSets" / "Segmentation" / "train.txt", "".join(f"{id_}\n" for id_ in training))
    save(images / "ImageSets" / "Segmentation" / "val.txt", f"{held_out}\n")
    save(folder / "truth" / "classes.json", json.dumps(list(classes)))
    return folder
