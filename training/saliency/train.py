"""Train DSS: `f2f train saliency`. Needs the `train` extra."""

from __future__ import annotations

from pathlib import Path

import torch

from f2f.engine.background import Saliency
from f2f.training.fit import PRECISIONS, fit, require_extra, shaping_facts
from f2f.training.imagenet import load_backbone
from f2f.training.saliency.evaluate import score_saliency
from f2f.training.saliency.files import PAPER_THETA_B, SaliencyMap, save_saliency
from f2f.training.saliency.images import read_for_training
from f2f.training.saliency.network import SaliencyNetwork
from f2f.training.saliency.options import SaliencyTraining
from f2f.training.saliency.samples import SalientSamples


def train_saliency(options: SaliencyTraining) -> Path:
    """Train DSS on images with masks; returns OUT/network.pt. Goes on from the last checkpoint.

    Raises:
        UsageError: an image, mask, list or weight file is missing or does not fit.
        F2FError: the loss became infinite or no number.
    """
    require_extra()
    from f2f.training.loops import Samples
    from f2f.training.saliency.loop import SaliencyLoop

    options = options.settled()
    images, held_out = read_for_training(options.images, options.masks, options.list, options.val_list)
    torch.manual_seed(options.seed)
    network = _new_network(options)
    samples = SalientSamples(images, options.side_px, options.colour_jitter, options.seed)
    data = {"train_images": len(images.images)}
    fit(SaliencyLoop(network, options), Samples(samples, options), options, PRECISIONS[options.precision], data=data)
    prior = torch.inference_mode()(SaliencyMap(network.eval(), options.side_px))
    scores = score_saliency(Saliency(prior, PAPER_THETA_B, "the trained network", "trained"), held_out)
    path = options.out / "network.pt"
    save_saliency(path, network, options.side_px, shaping_facts(options) | data | {"held_out": scores.as_facts()})
    return path


def _new_network(options: SaliencyTraining) -> SaliencyNetwork:
    assert options.width is not None
    network = SaliencyNetwork(options.width, options.network)
    if options.weights is not None:
        load_backbone(network.backbone, options.weights)
    return network
