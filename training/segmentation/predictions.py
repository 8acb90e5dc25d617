"""Predicted label maps in a folder: read for evaluation, and packed for Pascal VOC's test server."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from f2f.engine.errors import UsageError
from f2f.engine.files import write_aside
from f2f.engine.tars import ImageFile
from f2f.engine.types import IGNORE, ImageArray
from f2f.engine.write import encode_mask
from f2f.training.segmentation.images import (
    LabelledSet,
    check_size,
    image_size_hw,
    listed,
    read_class_names,
    read_label_map,
)
from f2f.training.segmentation.voc import VOC_CLASSES


@dataclass(frozen=True)
class Predictions:
    """A folder of label maps <name>.png, palette or grey."""

    folder: Path
    classes: tuple[str, ...]
    """label c+1 means classes[c]"""

    @classmethod
    def open(cls, path: Path, classes: tuple[str, ...] = VOC_CLASSES) -> Predictions:
        """A folder of label maps, or the output folder of `f2f segment`.

        The classes are those of a labels.txt in it or in the folder above, `classes` where there is none.

        Raises:
            UsageError: it is no folder, or its labels.txt cannot be read.
        """
        if not path.is_dir():
            raise UsageError(f"--pred {path} is no folder; accepted: a folder of label maps, or OUT of `f2f segment`")
        folder = path / "masks" if (path / "masks").is_dir() else path
        names = next((file for file in (folder / "labels.txt", folder.parent / "labels.txt") if file.is_file()), None)
        return cls(folder, read_class_names(names) if names else classes)

    def read(self, name: Path) -> ImageArray:
        """The label map [H,W] of a name."""
        return read_label_map(self.file(name), len(self.classes))

    def file(self, name: Path) -> Path:
        """Where it lies."""
        return self.folder / f"{name}.png"

    def need(self, names: Sequence[Path]) -> Predictions:
        """Itself; refuses where a label map is missing."""
        missing = [str(name) for name in names if not self.file(name).is_file()]
        if missing:
            raise UsageError(
                f"{self.folder} lacks the predictions of {len(missing)} of {len(names)} images ({listed(missing)}); "
                f"accepted: a palette or grey PNG each, such as {self.file(names[0])}; predict what is missing"
            )
        return self


def write_submission(
    predictions: Predictions,
    images: LabelledSet,
    split: str,
    path: Path,
    on_image: Callable[[object, int], None] = lambda *_: None,
) -> None:
    """Pack predictions as the test server wants them: results/VOC2012/Segmentation/comp6_<split>_cls/<id>.png.

    The same predictions give the same bytes. `on_image` gets every image and their number.

    Raises:
        UsageError: a prediction is missing, ill-sized or leaves pixels open, or the classes are not VOC's.
        MachineError: the disk does not take it.
    """
    if predictions.classes != VOC_CLASSES or images.classes != VOC_CLASSES:
        raise UsageError(f"{predictions.folder} or {images.source} has other classes than VOC's, in its order")
    predictions.need([Path(one.id) for one in images.images])
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for one in images.images:
            labels = _complete(predictions, one.id, one.image)
            _add(archive, f"results/VOC2012/Segmentation/comp6_{split}_cls/{one.id}.png", labels)
            on_image(one, len(images.images))
    write_aside(path, packed.getvalue())


def _complete(predictions: Predictions, id_: str, image: ImageFile) -> ImageArray:
    """A prediction of the image's size that leaves no pixel open."""
    labels = predictions.read(Path(id_))
    check_size(predictions.file(Path(id_)), labels.shape, image, image_size_hw(image))
    if (labels == IGNORE).any():
        raise UsageError(
            f"{predictions.file(Path(id_))} leaves {np.mean(labels == IGNORE):.1%} of its pixels open (255); accepted "
            "by the server: background or a class everywhere; predict without a threshold"
        )
    return labels


def _add(archive: tarfile.TarFile, name: str, labels: ImageArray) -> None:
    data = encode_mask(labels)
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    archive.addfile(entry, io.BytesIO(data))
