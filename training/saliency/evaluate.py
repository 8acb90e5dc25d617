"""What `f2f eval saliency` does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from f2f.engine.background import Saliency
from f2f.engine.classify import to_tensor
from f2f.engine.errors import NetworkError
from f2f.engine.picture import open_image
from f2f.engine.resize import resize
from f2f.training.saliency.files import open_method
from f2f.training.saliency.images import SalientImages, read_salient
from f2f.training.saliency.options import SaliencyEvaluation
from f2f.training.saliency.scores import SaliencyScores, SaliencyTally
from f2f.training.segmentation.images import LabelledImage

MAX_SIDE_PX = 500
OnImage = Callable[[object, int], None]
"""is told of every image that is done, and how many there are"""


def evaluate_saliency(options: SaliencyEvaluation, on_image: OnImage = lambda *_: None) -> SaliencyScores:
    """Measure a method on the images of a list.

    Raises:
        UsageError: the method, an image or a mask is missing or broken.
        NetworkError: a network file breaks its contract.
    """
    torch.set_num_threads(options.runtimes.thread_count)
    images = read_salient(options.images, options.masks, options.list)
    method = open_method(options.model, options.theta_b, options.runtimes)
    return score_saliency(method, images, options.max_side, on_image)


def score_saliency(
    method: Saliency, images: SalientImages, max_side_px: int = MAX_SIDE_PX, on_image: OnImage = lambda *_: None
) -> SaliencyScores:
    """Run a method over images; its maps are brought to the masks' size.

    Raises:
        UsageError: an image or mask cannot be read.
        NetworkError: a map is not within 0..1.
    """
    tally = SaliencyTally(method.theta_b)
    for image in images.images:
        mask = images.mask(image)
        tally.add(_map(method, image, max_side_px, mask.shape), mask)
        on_image(image, len(images.images))
    return tally.scores()


def _map(method: Saliency, image: LabelledImage, max_side_px: int, size_hw: tuple[int, ...]) -> NDArray[np.float32]:
    """The map [H,W] of an image, which the method sees at `max_side_px` at most."""
    picture = open_image(image.image).convert("RGB")
    picture.thumbnail((max_side_px, max_side_px))
    assert method.prior is not None
    found = method.prior(to_tensor([np.array(picture)]))  # [1,1,h,w]
    if not bool(((found >= 0) & (found <= 1)).all()):
        raise NetworkError(
            f"the saliency of {image.id} reaches from {found.min():g} to {found.max():g}; accepted: 0 to 1; export the "
            "network with a last layer that keeps to it"
        )
    height, width = size_hw
    return resize(found, (height, width)).clamp(0, 1)[0, 0].numpy()
