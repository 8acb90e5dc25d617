"""Pascal VOC 2012 and folders laid out like it, with the output of `f2f synth` and `f2f label` among them.

JPEGImages/<id>.jpg, SegmentationClass/<id>.png, SegmentationClassAug/<id>.png, Annotations/<id>.xml (boxes: the tags),
ImageSets/Segmentation/{train,val,…}.txt, and labels.txt (background first) where the classes are not VOC's.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from f2f.engine.errors import UsageError
from f2f.training.segmentation.image_lists import ListedImage, read_image_list
from f2f.training.segmentation.images import LabelledImage, LabelledSet, read_class_names

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""class c has label c + 1 in every mask"""
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
"""in order: VOC's own masks are the finer ones"""
LISTS = Path("ImageSets", "Segmentation")


def voc_root(path: Path) -> Path:
    """The folder with JPEGImages: `path` itself, or VOC2012 or VOCdevkit/VOC2012 in it.

    Raises:
        UsageError: there is none.
    """
    candidates = (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012")
    for candidate in candidates:
        if (candidate / "JPEGImages").is_dir():
            return candidate
    raise UsageError(
        f"{path} holds no JPEGImages; accepted: the folder VOC2012, or one with VOC2012 or VOCdevkit/VOC2012 in it; "
        "give the unpacked VOCtrainval_11-May-2012.tar"
    )


def read_voc(path: Path, split: str = "train") -> LabelledSet:
    """The images of a list, with the masks that there are and the classes of their boxes as tags.

    Args:
        path: the data set; see `voc_root`.
        split: a list in ImageSets/Segmentation (train, val, trainval, trainaug, test), or the path of a list file.

    Raises:
        UsageError: the folder, the list, an annotation, or a mask that the list names is missing or broken.
    """
    root = voc_root(path)
    classes = voc_classes(root)
    images = read_image_list(list_file(root, split))
    return LabelledSet(f"{root}, list {split}", classes, tuple(_labelled(root, one, classes) for one in images))


def voc_classes(root: Path) -> tuple[str, ...]:
    """The classes of `labels.txt`; VOC's where there is none."""
    names = root / "labels.txt"
    return read_class_names(names) if names.exists() else VOC_CLASSES


def list_file(root: Path, split: str) -> Path:
    """The file of a list.

    Raises:
        UsageError: there is none; the message names those that there are.
    """
    path = root / LISTS / f"{split}.txt"
    if path.is_file():
        return path
    if split.endswith(".txt") and Path(split).is_file():
        return Path(split)
    there = sorted(path.stem for path in (root / LISTS).glob("*.txt"))
    advice = "; make it with `f2f data voc-aug`" if split == "trainaug" else ""
    raise UsageError(
        f"{root} has no list {split!r} in {LISTS}; accepted: {', '.join(there) or 'none is there'}, or the path of a "
        f".txt file{advice}"
    )


def mask_file(root: Path, id_: str) -> Path | None:
    """The mask of an image: VOC's own, else that of SBD; None where there is none."""
    candidates = (root / folder / f"{id_}.png" for folder in MASK_FOLDERS)
    return next((path for path in candidates if path.is_file()), None)


def _labelled(root: Path, listed: ListedImage, classes: tuple[str, ...]) -> LabelledImage:
    labels = mask_file(root, listed.id) if listed.labels is None else root / listed.labels
    if labels is not None and not labels.is_file():
        raise UsageError(f"the list names {labels}, which is not there; add the file, or correct the list")
    tags = read_box_tags(root / "Annotations" / f"{listed.id}.xml", classes)
    return LabelledImage(listed.id, root / "JPEGImages" / f"{listed.id}.jpg", labels, tags)


class _Builder(ElementTree.TreeBuilder):
    """Refuses document types: only they declare entities, which may expand without end or name other files."""

    def doctype(self, name: str, *_: object) -> None:
        raise ValueError(f"it declares a document type {name}")


def read_box_tags(path: Path, classes: tuple[str, ...]) -> tuple[int, ...]:
    """The classes of an annotation's boxes, difficult ones too; none where there is no annotation.

    Raises:
        UsageError: the file is no annotation, or names a class that is not among `classes`.
    """
    if not path.exists():
        return ()
    try:
        tree = ElementTree.parse(path, ElementTree.XMLParser(target=_Builder()))  # noqa: S314 - see _Builder
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UsageError(f"{path} cannot be read ({error}); accepted: a VOC annotation; restore it") from error
    names = {(name.text or "").strip() for name in tree.getroot().iterfind("object/name")}
    strange = sorted(names - set(classes))
    if strange:
        raise UsageError(f"{path} has a box of class {strange[0]!r}; accepted: {', '.join(classes)}; correct it")
    return tuple(place for place, name in enumerate(classes) if name in names)
