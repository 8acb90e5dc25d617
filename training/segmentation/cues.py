"""Cues: what is surely known of a tagged image, on a coarse grid (M_I of the paper's Algorithm 1).

A cell is a tagged class where its activation exceeds `theta` times its peak (SEC: 0.2), of several classes the one
that covers less; by a FickleNet where any of many random passes says so (0.35), of several classes the one that all
passes together put highest. It is background where no class is and nothing is salient; else unknown. Letters: P tags,
H, W image size, gh, gw grid.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from f2f.engine.background import Saliency, open_saliency
from f2f.engine.cam import MultiScaleCams, soften
from f2f.engine.classify import to_tensor
from f2f.engine.files import write_aside
from f2f.engine.picture import open_image
from f2f.engine.resize import resize
from f2f.engine.types import BACKGROUND, IGNORE, Frame, ImageArray, Window
from f2f.training.checkpoint import read_classifier
from f2f.training.classifier_files import CHECKPOINT_SUFFIX, channels_of, open_classifier
from f2f.training.data import derived_seed
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.ficklenet import FickleNet, Localisation
from f2f.training.segmentation.images import LabelledImage, LabelledSet
from f2f.training.segmentation.sources import read_images
from f2f.training.segmentation.training_options import CueOptions

CAM_THETA, FICKLENET_THETA = 0.2, 0.35
_DECISIVE = ("theta", "passes", "seed", "grid", "max_side", "scales")
"""options that decide what a cue is, beside networks and thresholds of theirs"""
ClassCells = Callable[[LabelledImage, ImageArray], ImageArray]
"""an image, its pixels [H,W,3] -> labels uint8 [gh,gw]: a tag + 1, or 255 where no class is known"""


def make_cues(options: CueOptions, on_image: Callable[[object, int], None] = lambda *_: None) -> CueFolder:
    """Write the cues of all images of a list; what `f2f cues` does. `on_image` is told of every image and their number.

    Cues that are there stay, if OUT/cues.json says that they were made by the same networks and options.

    Raises:
        UsageError: the images, their tags or the classifier cannot be used.
        MachineError: the disk does not take the cues.
    """
    images = read_images(options.images, options.list).need_image_files().need_tags()
    torch.set_num_threads(options.runtimes.thread_count)
    class_cells = _open(options, images.classes)
    saliency = open_saliency(options.saliency, options.theta_b, options.runtimes)
    folder = CueFolder.create(options.out, images.classes)
    _begin(options, saliency, folder, images)
    for image in images.images:
        if not folder.has(image.id):
            pixels = _pixels(image, options.max_side)
            folder.write(image.id, with_background(class_cells(image, pixels), pixels, saliency))
        on_image(image, len(images.images))
    return folder


def _begin(options: CueOptions, saliency: Saliency, folder: CueFolder, images: LabelledSet) -> None:
    """Remove cues of the images that were made otherwise, and note how they are made now."""
    given = {name: value for name, value in vars(options).items() if name in _DECISIVE}
    network = Path(options.classifier)
    digest = hashlib.sha256(network.read_bytes()).hexdigest() if network.is_file() else options.classifier
    made = {**given, "classifier": digest, "saliency": saliency.fingerprint, "theta_b": saliency.theta_b}
    record, wanted = options.out / "cues.json", json.dumps(made, indent=1).encode()
    if options.resume and record.is_file() and record.read_bytes() == wanted:
        return
    for image in images.images:
        folder.forget(image.id)
    write_aside(record, wanted)


def _open(options: CueOptions, classes: Sequence[str]) -> ClassCells:
    """How the classifier finds the classes, by its kind."""
    grid_hw = (options.grid, options.grid)
    if options.classifier.endswith(CHECKPOINT_SUFFIX):
        network, _ = read_classifier(Path(options.classifier))
        if isinstance(network, FickleNet):
            channels = channels_of(classes, network.classes)
            theta = FICKLENET_THETA if options.theta is None else options.theta
            return FickleCells(network, channels, grid_hw, theta, options.passes, options.seed)
    classifier = open_classifier(options.classifier, options.runtimes)
    cams = MultiScaleCams(classifier, options.scales)
    theta = CAM_THETA if options.theta is None else options.theta
    return CamCells(cams, channels_of(classes, classifier.info.classes), grid_hw, theta)


@dataclass(frozen=True)
class CamCells:
    """Classes by the activation of a CAM classifier."""

    cams: MultiScaleCams
    channels: Sequence[int]
    """of the images' classes"""
    grid_hw: tuple[int, int]
    theta: float

    def __call__(self, image: LabelledImage, pixels: ImageArray) -> ImageArray:
        """Labels [gh,gw] of the image's tags."""
        tag_of = {self.channels[tag]: tag for tag in image.tags}
        window = Window(0, 0, (Frame(0, 0, 0.0, pixels),), tuple(sorted(tag_of)), None)
        maps = resize(soften(self.cams, window).maps, self.grid_hw)[0]  # [P,gh,gw]
        return grid_labels(maps, [tag_of[channel] + 1 for channel in window.classes], self.theta)


@dataclass(frozen=True)
class FickleCells:
    """Classes by many passes of a FickleNet (Lee et al. 2019, §3.3), drawn by the seed and the image's id."""

    network: FickleNet
    channels: Sequence[int]
    """of the images' classes"""
    grid_hw: tuple[int, int]
    theta: float
    passes: int
    seed: int

    def __call__(self, image: LabelledImage, pixels: ImageArray) -> ImageArray:
        """Labels [gh,gw] of the image's tags."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, zlib.crc32(image.id.encode())))
        channels = [self.channels[tag] for tag in image.tags]
        found = self.network.localise(to_tensor([pixels]), self.passes, generator, channels=channels)  # [1,P,h,w]
        on_grid = Localisation(resize(found.peak, self.grid_hw), resize(found.mean, self.grid_hw))
        cells = on_grid.seeds(torch.ones(1, len(channels), dtype=torch.bool), self.theta)[0].numpy()  # [gh,gw]
        labels = np.full(IGNORE + 1, IGNORE, np.uint8)
        labels[1 : len(channels) + 1] = np.array(image.tags) + 1
        grid: ImageArray = labels[cells]
        return grid


def grid_labels(maps: Tensor, labels: Sequence[int], theta: float) -> ImageArray:
    """Activation [P,gh,gw] of the classes with `labels` -> labels uint8 [gh,gw], 255 where none is active."""
    peaks = maps.amax((1, 2), keepdim=True)
    active = (maps > theta * peaks) & (peaks > 0)  # [P,gh,gw]
    cells = torch.full(maps.shape[1:], IGNORE)
    for place in active.sum((1, 2)).argsort(descending=True, stable=True).tolist():  # the smaller one comes last
        cells[active[place]] = labels[place]
    return cells.numpy().astype(np.uint8)


def with_background(cells: ImageArray, pixels: ImageArray, saliency: Saliency) -> ImageArray:
    """Labels [gh,gw] with background where there was none and the image [H,W,3] is not salient."""
    if saliency.prior is None:
        return cells
    salient = resize(saliency.prior(to_tensor([pixels])), cells.shape)[0, 0].numpy()  # [gh,gw]
    return np.where((cells == IGNORE) & (salient < saliency.theta_b), np.uint8(BACKGROUND), cells)


def _pixels(image: LabelledImage, max_side: int) -> ImageArray:
    picture = open_image(image.image).convert("RGB")
    picture.thumbnail((max_side, max_side))
    return np.array(picture)
