"""The demo's second half: images and labelled videos -> a segmenter -> a network file -> masks of videos it never saw.

OUT/web             I: tagged images, and videos that are held out
OUT/cues            what is surely known of the images
OUT/segmenter       the training, and segmenter.onnx
OUT/segmented       masks and films of the held-out videos
OUT/segmented.png   a frame of each, its mask, the exact one
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from f2f.engine.options import InferenceOptions, SegmentOptions
from f2f.engine.picture import contact_sheet, overlay
from f2f.engine.segment import segment
from f2f.engine.types import ImageArray
from f2f.training.export import export_segmenter
from f2f.training.segmentation.cues import make_cues
from f2f.training.segmentation.images import read_class_names
from f2f.training.segmentation.scores import Confusion
from f2f.training.segmentation.train import train_segmenter
from f2f.training.segmentation.training_options import CueOptions, SegmenterExport, SegmenterTraining
from f2f.training.synth import CLASSES, SynthOptions, synth

IMAGES, HELD_OUT_VIDEOS, HELD_OUT_SECONDS = 200, 6, 3.0
SIDE_PX = 161
"""of the squares that images are warped to"""
STEPS = 160
"""about a minute on two cores"""
_HEADINGS = ("frame of a held-out video", "segmenter", "exact mask")


@dataclass(frozen=True)
class Folders:
    """Where everything is, below the demo's folder."""

    out: Path

    @property
    def web(self) -> Path:
        """Images and held-out videos."""
        return self.out / "web"

    @property
    def cues(self) -> Path:
        """Label maps of the images."""
        return self.out / "cues"

    @property
    def training(self) -> Path:
        """Of the segmenter."""
        return self.out / "segmenter"

    @property
    def network(self) -> Path:
        """The deployed segmenter."""
        return self.training / "segmenter.onnx"

    @property
    def segmented(self) -> Path:
        """Output of `segment`."""
        return self.out / "segmented"


def render_web(folders: Folders, seed: int) -> None:
    """Images and held-out videos; beside its place and renamed, so that what was interrupted can be started again."""
    if not folders.web.exists():
        unfinished = folders.web.with_name("web.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        synth(SynthOptions(out=unfinished, videos=HELD_OUT_VIDEOS, images=IMAGES, seed=seed, seconds=HELD_OUT_SECONDS))
        unfinished.rename(folders.web)


def find_cues(folders: Folders) -> None:
    """Cues of the images, by the bundled classifier."""
    make_cues(CueOptions(images=folders.web / "images", out=folders.cues, classifier="demo"))


def train_and_export(folders: Folders, labels: Path) -> None:
    """A small segmenter on I + V, as a network file."""
    trained = train_segmenter(
        SegmenterTraining(
            images=folders.web / "images",
            cues=folders.cues,
            videos=(labels,),
            out=folders.training,
            weights=Path("demo"),
            width=0.75,
            side_px=SIDE_PX,
            batch_size=16,
            steps=STEPS,
            optimiser="adamw",
            schedule="one-cycle",
            learning_rate=1e-3,
        )
    )
    export_segmenter(SegmenterExport(checkpoint=trained, out=folders.network))


def segment_held_out(folders: Folders, console: Console) -> None:
    """Masks and films of the held-out videos, scored and drawn."""
    segment(
        SegmentOptions(
            model=str(folders.network),
            source=folders.web / "videos",
            out=folders.segmented,
            inference=InferenceOptions(flip=True),
        )
    )
    names = read_class_names(folders.segmented / "labels.txt")
    confusion = Confusion(names)
    rows, captions = [], []
    for masks in sorted(path for path in (folders.segmented / "masks").glob("*/*") if path.is_dir()):
        name = masks.relative_to(folders.segmented / "masks")
        pairs = [_pair(folders, name, mask, names) for mask in sorted(masks.glob("*.png"))]
        for found, exact in pairs:
            confusion.add(found, exact)
        middle = len(pairs) // 2
        frame = _frame(folders.web / "videos" / f"{name}.mp4", middle)
        rows.append([frame, *(overlay(frame, labels) for labels in pairs[middle])])
        captions.append(str(name))
    sheet = folders.out / "segmented.png"
    contact_sheet(_HEADINGS, rows, captions).save(sheet)
    scores = confusion.scores()
    console.print(f"    mean IoU {scores.mean_iou:.3f} on {scores.images} frames of {len(rows)} videos")
    console.print(f"network: {folders.network}\nfilms:   {folders.segmented / 'overlays'}", soft_wrap=True)
    console.print(f"picture: {sheet}", soft_wrap=True)


def _pair(folders: Folders, video: Path, mask: Path, names: Sequence[str]) -> tuple[ImageArray, ImageArray]:
    """Found and exact labels [H, W] of a frame, both by the segmenter's classes."""
    exact = np.asarray(Image.open(folders.web / "truth" / video / f"{int(mask.stem):05d}.png"))
    table = np.zeros(256, np.uint8)
    for place, name in enumerate(CLASSES):
        table[place + 1] = names.index(name) + 1
    return np.asarray(Image.open(mask)), table[exact]


def _frame(video: Path, number: int) -> ImageArray:
    """A frame, uint8 [H, W, 3] RGB."""
    import av

    with av.open(str(video)) as container:
        for place, frame in enumerate(container.decode(video=0)):
            if place == number:
                return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    raise AssertionError(f"{video} has no frame {number}")
