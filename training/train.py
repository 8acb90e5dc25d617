"""Train the two networks the engine runs first: the CAM classifier and PWC-Net. Needs the `train` extra.

The bundled networks (engine/networks/) come from these commands, in this order; an interrupted one goes on when it is
given again:

    f2f synth runs/web --videos 0 --images 1000 --seed 100
    f2f train classifier runs/web/images --out runs/classifier --steps 3000 --learning-rate 3e-3
    f2f train flow --out runs/flow --steps 4000 --learning-rate 6e-4 --stop-at-step 2400
    f2f export classifier --checkpoint runs/classifier/network.pt --tau 0.5 --out engine/networks/demo_classifier.onnx
    f2f export flow --checkpoint runs/flow/network.pt --out engine/networks/demo_flow.onnx
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from f2f.engine.errors import UsageError
from f2f.training.checkpoint import OWN_DEFAULTS, read_network, save_network
from f2f.training.classifier import CamClassifier
from f2f.training.data import TaggedImages, TrainingImages, read_image, read_tagged_images
from f2f.training.evaluate import evaluate_classifier, evaluate_flow, flow_predictor
from f2f.training.imagenet import load_weights
from f2f.training.layers import layer_pairs
from f2f.training.options import ClassifierTraining, FlowTraining
from f2f.training.pairs import PairDataset, fill_cache, load_pair, scene_pairs
from f2f.training.pwcnet import FlowNetwork, PWCNet, give_unit_variance, standardise

if TYPE_CHECKING:
    from f2f.training.loops import Samples

PRECISIONS: dict[str, Literal["bf16-mixed", "32-true"]] = {"bf16": "bf16-mixed", "fp32": "32-true"}
"""our names and Lightning's"""
PAIRS_PER_SCENE = 4
HELD_OUT_SCENES = 24
HELD_OUT_SEED = 1_000_003
"""added to the seed: scenes that training never sees"""


def train_classifier(options: ClassifierTraining) -> Path:
    """Train a CAM classifier on tagged images; returns OUT/network.pt. Goes on from the last checkpoint."""
    _require_extra()
    from f2f.training.loops import ClassifierLoop, Samples

    images = read_tagged_images(options.images)
    torch.manual_seed(options.seed)
    network = CamClassifier(images.classes, options.width, options.dropout)
    crop_hw = (options.crop_height_px, options.crop_width_px)
    samples = TrainingImages(images, crop_hw, (options.min_side_px, options.max_side_px), options.seed)
    _fit(ClassifierLoop(network, options), Samples(samples, options), options, PRECISIONS["fp32"])
    quality = evaluate_classifier(network.eval(), _held_out(images), OWN_DEFAULTS["tau"]).as_dict()
    facts = _facts(options) | {"held_out": quality, "train_images": len(images.train)}
    path = options.out / "network.pt"
    save_network(path, "classifier", network, classes=list(images.classes), width=options.width, training=facts)
    return path


def _held_out(images: TaggedImages) -> Any:
    return ((read_image(image.path), images.tags(image)) for image in images.val)


def train_flow(options: FlowTraining) -> Path:
    """Train PWC-Net on pairs with exact flow; returns OUT/network.pt. Goes on from the last checkpoint."""
    _require_extra()
    from f2f.training.loops import FlowLoop, Samples

    dataset, held_out = _flow_data(options)
    torch.manual_seed(options.seed)
    network = PWCNet(options.width, options.dense, options.reach)
    if options.start_from is not None:
        load_weights(network, read_network(options.start_from, "flow")["state_dict"], options.start_from)
    elif not _resumed_from(options):
        frames = torch.stack([dataset[number][0] for number in range(options.batch_size)]).flip(2)  # [B,2,3,h,w] BGR
        give_unit_variance(network, standardise(frames[:, 0]), standardise(frames[:, 1]))
    network.to(memory_format=torch.channels_last)
    _fit(FlowLoop(network, options), Samples(dataset, options), options, PRECISIONS[options.precision])
    predict = flow_predictor(FlowNetwork(network.eval()))
    quality = evaluate_flow(predict, map(load_pair, held_out), with_dis=False).as_dict()
    facts = _facts(options) | {"held_out_epe_px": {name: value for name, value in quality.items() if value == value}}
    path = options.out / "network.pt"
    shape = {"width": options.width, "dense": options.dense, "reach": options.reach}
    save_network(path, "flow", network, **shape, training=facts)
    return path


def _flow_data(options: FlowTraining) -> tuple[PairDataset, list[Path]]:
    """Draw what the cache lacks: training pairs, and files of held-out pairs."""
    cache = options.cache or options.out / "pairs"
    scenes = options.scenes if options.layer_share < 1 else 0
    layers = -(-options.layer_pairs // PAIRS_PER_SCENE) if options.layer_share > 0 else 0
    rendered = fill_cache(
        cache / f"scenes-{options.seed}", scene_pairs, options.seed, scenes, PAIRS_PER_SCENE, options.workers
    )
    layered = fill_cache(
        cache / f"layers-{options.seed}", layer_pairs, options.seed, layers, PAIRS_PER_SCENE, options.workers
    )
    seed = options.seed + HELD_OUT_SEED
    source = scene_pairs if scenes else layer_pairs
    name = f"held-out-{seed}" if scenes else f"held-out-layers-{seed}"
    held_out = fill_cache(cache / name, source, seed, HELD_OUT_SCENES if scenes else 2, 2, options.workers)
    crop_hw = (options.crop_height_px, options.crop_width_px)
    return PairDataset(rendered, layered, options.layer_share, crop_hw, options.seed), held_out


def _require_extra() -> None:
    try:
        import lightning  # noqa: F401
    except ImportError as error:
        raise UsageError("training needs Lightning, which is not installed; pip install 'f2f[train]'") from error


def _fit(
    loop: Any, samples: Samples, options: ClassifierTraining | FlowTraining, precision: Literal["bf16-mixed", "32-true"]
) -> None:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = Trainer(
        accelerator=options.accelerator,
        devices=1,
        precision=precision,
        max_steps=options.stop_at_step or options.steps,
        max_epochs=1,
        gradient_clip_val=20.0,
        logger=CSVLogger(options.out, name="logs", version=""),
        log_every_n_steps=20,
        callbacks=[_checkpoints(options)],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")  # advice on workers, logging intervals, old folders
        trainer.fit(loop, samples, ckpt_path=_resumed_from(options), weights_only=True)


def _resumed_from(options: ClassifierTraining | FlowTraining) -> Path | None:
    """The checkpoint that an interrupted run goes on from."""
    last = options.out / "last.ckpt"
    return last if options.resume and last.exists() else None


def _checkpoints(options: ClassifierTraining | FlowTraining) -> Any:
    from lightning.pytorch.callbacks import ModelCheckpoint

    every = options.checkpoint_steps
    return ModelCheckpoint(options.out, "last", every_n_train_steps=every, enable_version_counter=False, save_top_k=1)


def _facts(options: ClassifierTraining | FlowTraining) -> dict[str, Any]:
    """What the exported network says about its training: the options that shape it, no paths."""
    shaping = {
        name: value for name, value in vars(options).items() if isinstance(value, (int, float)) and name != "resume"
    }
    return {"options": shaping, "torch": str(torch.__version__)}
