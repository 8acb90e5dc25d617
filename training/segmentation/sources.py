"""Where training finds its images: told apart by what a folder holds."""

from __future__ import annotations

from pathlib import Path

from f2f.training.segmentation.images import LabelledSet
from f2f.training.segmentation.synthetic import read_synthetic_images
from f2f.training.segmentation.voc import read_voc


def read_images(folder: Path, split: str) -> LabelledSet:
    """Images with tags: of `f2f synth` where the folder has a tags.csv, else of Pascal VOC."""
    synthetic = any((root / "tags.csv").is_file() for root in (folder, folder / "images"))
    if synthetic and split in {"train", "val"}:
        return read_synthetic_images(folder, "train" if split == "train" else "val")
    return read_voc(folder, split)
