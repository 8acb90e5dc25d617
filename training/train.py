"""Train the two networks the engine runs first: the CAM classifier and PWC-Net. Needs the `train` extra.

The bundled networks (engine/networks/) come from such commands, in this order; an interrupted one goes on when it is
given again. Flow learns on small crops first, which is quick, then on large ones, whose coarsest level has more than
border, and last without the points that the other frame hides:

    f2f synth runs/web --videos 0 --images 1000 --seed 100
    f2f train classifier runs/web/images --out runs/classifier --steps 3000 --learning-rate 3e-3
    f2f train flow --out runs/flow --workers 1
    f2f train flow --out runs/large --start-from runs/flow/network.pt --steps 4500 --learning-rate 5e-4 --batch-size 1
        --layer-pairs 640 --layer-height-px 480 --crop-height-px 384 --crop-width-px 640
    f2f train flow --out runs/seen --start-from runs/large/network.pt --steps 2000 --no-hidden …the same as before
    f2f export classifier --checkpoint runs/classifier/network.pt --tau 0.5 --out engine/networks/demo_classifier.onnx
    f2f export flow --checkpoint runs/seen/network.pt --out engine/networks/demo_flow.onnx
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from f2f.engine.classify import to_tensor
from f2f.engine.flow import Clip, Flow
from f2f.training.checkpoint import (
    OWN_DEFAULTS,
    new_classifier,
    read_network,
    save_classifier,
    save_network,
    without_chance,
)
from f2f.training.classifier_data import read_classifier_images
from f2f.training.classifier_eval import score_classifier
from f2f.training.data import CropOptions, TrainingImages
from f2f.training.evaluate import evaluate_flow, flow_predictor
from f2f.training.fit import PRECISIONS, fit, require_extra, resumed_from, shaping_facts
from f2f.training.flow_datasets import FlowFolder, open_flow_dataset
from f2f.training.flow_eval import score_pairs
from f2f.training.flow_methods import ZeroFlow
from f2f.training.imagenet import load_weights
from f2f.training.layers import layer_pairs
from f2f.training.options import ClassifierTraining, FlowTraining
from f2f.training.pairs import CachedPairs, Draw, PairDataset, fill_cache, load_pair, scene_pairs
from f2f.training.pwcnet import FlowNetwork, PWCNet, give_unit_variance, standardise

PAIRS_PER_SCENE = 4
HELD_OUT_SCENES = 24
HELD_OUT_PAIRS = 200
"""of a public data set, at most"""
HELD_OUT_SEED = 1_000_003
"""added to the seed: scenes that training never sees"""


def train_classifier(options: ClassifierTraining) -> Path:
    """Train a CAM classifier on tagged images; returns OUT/network.pt. Goes on from the last checkpoint."""
    require_extra()
    from f2f.training.loops import ClassifierLoop, Samples

    options = options.settled()
    images = read_classifier_images(options.images, options.list, options.val_list)
    torch.manual_seed(options.seed)
    network = new_classifier(options, images.classes)
    samples = TrainingImages(images.train, _crop_options(options), options.seed)
    data = {"classes": list(images.classes), "train_images": len(images.train.images)}
    fit(ClassifierLoop(network, options), Samples(samples, options), options, PRECISIONS["fp32"], data=data)
    scores = score_classifier(without_chance(network.eval()), images.val, range(len(images.classes)), OWN_DEFAULTS)
    facts = shaping_facts(options) | {"held_out": scores.as_facts(), "train_images": len(images.train.images)}
    path = options.out / "network.pt"
    save_classifier(path, network, facts)
    return path


def _crop_options(options: ClassifierTraining) -> CropOptions:
    return CropOptions(
        (options.crop_height_px, options.crop_width_px),
        (options.min_side_px, options.max_side_px),
        options.colour_jitter,
        options.hue_jitter,
    )


def train_flow(options: FlowTraining) -> Path:
    """Train PWC-Net on pairs with exact flow; returns OUT/network.pt. Goes on from the last checkpoint."""
    require_extra()
    from f2f.training.loops import FlowLoop, Samples

    data = _flow_data(options)
    torch.manual_seed(options.seed)
    network = PWCNet(options.width, options.dense, options.reach)
    if options.start_from is not None:
        load_weights(network, read_network(options.start_from, "flow")["state_dict"], options.start_from)
    elif not resumed_from(options):
        samples = [data.training[number] for number in range(options.batch_size)]
        frames = torch.stack([frames for frames, _ in samples]).flip(2)  # [B,2,3,h,w] BGR
        give_unit_variance(network, standardise(frames[:, 0]), standardise(frames[:, 1]))
    network.to(memory_format=torch.channels_last)
    fit(FlowLoop(network, options), Samples(data.training, options), options, PRECISIONS[options.precision])
    facts = shaping_facts(options) | _flow_quality(FlowNetwork(network.eval()), data)
    path = options.out / "network.pt"
    shape = {"width": options.width, "dense": options.dense, "reach": options.reach}
    save_network(path, "flow", network, **shape, training=facts)
    return path


@dataclass(frozen=True)
class _FlowData:
    """What a flow training reads."""

    training: PairDataset
    rendered: list[Path]
    """pairs of the cache that training never sees"""
    folders: dict[str, FlowFolder]
    """pairs of the public data sets that training never sees"""


def _flow_data(options: FlowTraining) -> _FlowData:
    """Open the data sets, and draw what the cache lacks."""
    stored: dict[str, tuple[FlowFolder, FlowFolder]] = {}
    for name in sorted({*options.dataset} - {"generated"}):
        assert options.root is not None
        stored[name] = open_flow_dataset(name, options.root)
    draws: dict[str, Draw] = {name: folder.draw for name, (folder, _) in stored.items()}
    rendered: list[Path] = []
    if "generated" in options.dataset:
        cached, rendered = _generated_pairs(options)
        draws["generated"] = cached.draw
    crop_hw = (options.crop_height_px, options.crop_width_px)
    training = PairDataset([draws[name] for name in options.dataset], crop_hw, options.seed, options.hidden)
    return _FlowData(training, rendered, {name: held_out for name, (_, held_out) in stored.items()})


def _generated_pairs(options: FlowTraining) -> tuple[CachedPairs, list[Path]]:
    """Draw what the cache lacks: training pairs, and files of held-out pairs."""
    cache = options.cache or options.out / "pairs"
    scenes = options.scenes if options.layer_share < 1 else 0
    layers = -(-options.layer_pairs // PAIRS_PER_SCENE) if options.layer_share > 0 else 0
    rendered = fill_cache(
        cache / f"scenes-{options.seed}", scene_pairs, options.seed, scenes, PAIRS_PER_SCENE, options.workers
    )
    height = options.layer_height_px
    draw_layers = partial(layer_pairs, size_hw=(height, round(height * 16 / 9)))
    layered = fill_cache(
        cache / f"layers-{height}-{options.seed}", draw_layers, options.seed, layers, PAIRS_PER_SCENE, options.workers
    )
    seed = options.seed + HELD_OUT_SEED
    source = scene_pairs if scenes else draw_layers
    name = f"held-out-{seed}" if scenes else f"held-out-layers-{height}-{seed}"
    held_out = fill_cache(cache / name, source, seed, HELD_OUT_SCENES if scenes else 2, 2, options.workers)
    return CachedPairs(rendered, layered, options.layer_share), held_out


def _flow_quality(network: FlowNetwork, data: _FlowData) -> dict[str, Any]:
    """Errors on pairs that training has not seen."""
    facts: dict[str, Any] = {}
    if data.rendered:
        quality = evaluate_flow(flow_predictor(network), map(load_pair, data.rendered), with_dis=False).as_dict()
        facts["held_out_epe_px"] = {name: value for name, value in quality.items() if value == value}
    methods: dict[str, Flow] = {"network": _TrainedFlow(network), "zero": ZeroFlow()}
    for name, folder in data.folders.items():
        scores = score_pairs(name, methods, folder.spread(HELD_OUT_PAIRS))
        facts[f"held_out_{name}"] = {"pairs": scores[0].pairs} | {
            score.method: {"epe_px": round(score.epe_px, 3), "fl_percent": round(score.fl_percent, 3)}
            for score in scores
        }
    return facts


class _TrainedFlow:
    """A network in memory by the engine's contract of flow."""

    description = "the trained network"
    fingerprint = "trained"

    def __init__(self, network: FlowNetwork) -> None:
        self._network = network

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """B clips of K frames -> float32 [B,K-1,2,H,W] px."""
        frames = torch.stack([to_tensor(list(clip)) for clip in clips])  # [B,K,3,H,W]
        with torch.inference_mode():
            flow: Tensor = self._network(frames)
        return flow
