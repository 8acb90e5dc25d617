"""Cues: what is surely known of a tagged image, on a coarse grid (M_I of the paper's Algorithm 1).

A cell is a tagged class where its activation exceeds `theta` times its peak (SEC: 0.2), of several classes the one
that covers less; background where no class is and nothing is salient; else unknown. Letters: P tags, H, W image size,
gh, gw grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from f2f.engine.background import Saliency, open_saliency
from f2f.engine.cam import MultiScaleCams, soften
from f2f.engine.classify import Classifier, to_tensor
from f2f.engine.errors import UsageError
from f2f.engine.picture import open_image
from f2f.engine.resize import resize
from f2f.engine.types import BACKGROUND, IGNORE, Frame, ImageArray, Window
from f2f.training.segmentation.cue_files import CueFolder
from f2f.training.segmentation.images import LabelledImage
from f2f.training.segmentation.sources import read_images
from f2f.training.segmentation.training_options import CueOptions


def make_cues(options: CueOptions, on_image: Callable[[object, int], None] = lambda *_: None) -> CueFolder:
    """Write the cues of all images of a list; what `f2f cues` does. `on_image` is told of every image and their number.

    Raises:
        UsageError: the images, their tags or the classifier cannot be used.
        MachineError: the disk does not take the cues.
    """
    images = read_images(options.images, options.list).need_image_files().need_tags()
    classifier = Classifier.open(options.classifier, options.runtimes)
    channels = _channels(images.classes, classifier.info.classes)
    saliency = open_saliency(options.saliency, options.theta_b, options.runtimes)
    cams = MultiScaleCams(classifier, options.scales)
    folder = CueFolder.create(options.out, images.classes)
    for image in images.images:
        folder.write(image.id, _cues(image, channels, cams, saliency, options))
        on_image(image, len(images.images))
    return folder


def _channels(classes: Sequence[str], known: Sequence[str]) -> list[int]:
    missing = [name for name in classes if name not in known]
    if missing:
        raise UsageError(
            f"the classifier does not know {', '.join(missing)}; its classes: {', '.join(known)}; give one of the "
            "images' classes"
        )
    return [known.index(name) for name in classes]


def _cues(
    image: LabelledImage, channels: Sequence[int], cams: MultiScaleCams, saliency: Saliency, options: CueOptions
) -> ImageArray:
    """Labels [gh, gw] of one image."""
    pixels = _pixels(image, options.max_side)
    tag_of = {channels[tag]: tag for tag in image.tags}
    window = Window(0, 0, (Frame(0, 0, 0.0, pixels),), tuple(sorted(tag_of)), None)
    grid_hw = (options.grid, options.grid)
    maps = resize(soften(cams, window).maps, grid_hw)[0]  # [P, gh, gw]
    prior = saliency.prior(to_tensor([pixels])) if saliency.prior else None  # [1, 1, H, W]
    salient = None if prior is None else resize(prior, grid_hw)[0, 0]  # [gh, gw]
    labels = [tag_of[channel] + 1 for channel in window.classes]
    return grid_labels(maps, labels, options.theta, salient, saliency.theta_b)


def grid_labels(
    maps: Tensor, labels: Sequence[int], theta: float, salient: Tensor | None = None, theta_b: float = 0.0
) -> ImageArray:
    """Activation [P, gh, gw] of the classes with `labels`, saliency [gh, gw] or none -> labels uint8 [gh, gw]."""
    peaks = maps.amax((1, 2), keepdim=True)
    active = (maps > theta * peaks) & (peaks > 0)  # [P, gh, gw]
    cues = torch.full(maps.shape[1:], IGNORE)
    if salient is not None:
        cues[salient < theta_b] = BACKGROUND
    for place in active.sum((1, 2)).argsort(descending=True, stable=True).tolist():  # the smaller one comes last
        cues[active[place]] = labels[place]
    return cues.numpy().astype(np.uint8)


def _pixels(image: LabelledImage, max_side: int) -> ImageArray:
    picture = open_image(image.image).convert("RGB")
    picture.thumbnail((max_side, max_side))
    return np.array(picture)
