"""Options of training, export and evaluation of saliency. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.training.options import Accelerator, Optimisation, Precision, require

Style = Literal["u2net", "isnet", "birefnet"]
_POSITIVE = ("steps", "batch_size", "checkpoint_steps", "learning_rate", "width")


@dataclass(frozen=True, kw_only=True)
class SaliencyTraining:
    """Train DSS, a saliency network, on images with masks of what is salient."""

    images: Positional[Path]
    """a folder of images, with --masks; or VOC2012, a folder laid out like it, or the images of `f2f synth`, of which
    everything labelled is salient"""
    out: Path
    """folder for checkpoints, logs and the trained network (network.pt)"""
    masks: Path | None = None
    """folder of grey masks with the images' names, salient above 127, as MSRA-B and DUTS have them (it may be IMAGES
    itself: then .png are masks)"""
    list: str | None = None
    """list of the images: train, trainaug, … in ImageSets/Segmentation, or a list file (default: train; with --masks
    all but those of VAL_LIST)"""
    val_list: str | None = None
    """list of the images that the trained network is measured on (default: val; with --masks every 20th by name)"""
    network: Literal["small", "vgg16"] = "small"
    """what the side outputs stand on: small is for CPUs; vgg16 is the paper's"""
    weights: Path | None = None
    """weights of the backbone: torchvision's vgg16, .safetensors or .pth, or network.pt of `f2f train classifier` with
    the same backbone and width, or demo for the bundled classifier's, small of width 0.75 (default: random ones)"""
    width: float | None = None
    """channel multiplier of the network (default: 0.75 for small, else 1)"""
    loss: Literal["plain", "balanced"] = "plain"
    """cross-entropy of all seven outputs; plain: all pixels count the same, as published; balanced: salient and other
    pixels of an image count as much together, which finds small objects"""
    steps: int = 1500
    """optimiser steps"""
    stop_at_step: int = 0
    """stop after this step, though the schedule goes on to STEPS; running again goes on from there (0: at the end)"""
    batch_size: int = 10
    """images per step"""
    side_px: int = 256
    """height and width that images are warped to, px; so are those that the exported network sees"""
    colour_jitter: float = 0.3
    """brightness, contrast and saturation change by factors of up to 1 ± this, hue by a third of it, 0 to below 1"""
    optimiser: Optimisation = "adamw"
    """sgd: the authors', momentum 0.9, biases at twice the rate, the convolutions that give maps at a tenth; adamw: for
    training from scratch"""
    learning_rate: float | None = None
    """peak of the one-cycle schedule; what the others begin with (default: 2e-3 for adamw, 1e-3 for sgd)"""
    schedule: Literal["one-cycle", "poly", "step"] | None = None
    """of the learning rate; step: a tenth from 5/8 of STEPS on, the authors'; poly: (1 - step/STEPS)^0.9 (default:
    one-cycle for adamw, step for sgd)"""
    weight_decay: float | None = None
    """of weights, not of biases or normalisation (default: 1e-2 for adamw, 5e-4 for sgd)"""
    checkpoint_steps: int = 100
    """steps between checkpoints; an interrupted run goes on from the last one"""
    seed: int = 0
    """random seed of weights, order and augmentation"""
    workers: int = 2
    """processes that load images (0: none beside the main one)"""
    accelerator: Accelerator = "auto"
    """where to train"""
    precision: Precision = "fp32"
    """of the convolutions; losses and weights are float32 in any case"""
    resume: bool = True
    """go on from the last checkpoint in OUT, if there is one"""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            require(value is None or value > 0, f"{name.replace('_', '-')} is {value}; accepted: a number above 0")
        stop = self.stop_at_step
        require(0 <= stop <= self.steps, f"stop-at-step is {stop}; accepted: 0 (at the end) to {self.steps} (steps)")
        require(self.side_px >= 32, f"side-px is {self.side_px}; accepted: 32 or more px")
        jitter, decay = self.colour_jitter, self.weight_decay
        require(0 <= jitter < 1, f"colour-jitter is {jitter}; accepted: 0 (none) to below 1")
        require(decay is None or decay >= 0, f"weight-decay is {decay}; accepted: 0 (none) or more")
        require(self.seed >= 0, f"seed is {self.seed}; accepted: 0 or more")

    def settled(self) -> SaliencyTraining:
        """Itself, with every default that depends on another option filled in, but for the lists."""
        adam = self.optimiser == "adamw"
        defaults = {
            "learning_rate": 2e-3 if adam else 1e-3,
            "schedule": "one-cycle" if adam else "step",
            "weight_decay": 1e-2 if adam else 5e-4,
            "width": 0.75 if self.network == "small" else 1.0,
        }
        left: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **left)


@dataclass(frozen=True, kw_only=True)
class SaliencyExport:
    """Write a saliency network by contract: `image` -> `saliency`. Give --checkpoint or --onnx."""

    out: Path
    """file to write: .onnx (opset 18; of --onnx that of the file) or .pt2 (of --checkpoint alone)"""
    checkpoint: Path | None = None
    """network.pt of `f2f train saliency`"""
    onnx: Path | None = None
    """a released network in the manner of U²-Net: an image [1,3,h,w] in, maps [1,1,h,w] out; what it wants done to
    images and maps goes into the file. It is not part of f2f; mind its licence"""
    style: Style = "u2net"
    """--onnx: what it wants. u2net (also u2netp, silueta, BASNet): image over its maximum, ImageNet's mean and
    deviation; isnet: image over its maximum, less 0.5; birefnet: ImageNet's mean and deviation, a sigmoid on the map"""
    output: str | None = None
    """--onnx: name of the output that is the map (default: the first)"""
    stretch: bool = True
    """--onnx: bring every map to the range 0..1, but for one that stays below 0.05"""
    side_px: int | None = None
    """height and width that images are warped to inside the file, px; 0: as large as they come, of --checkpoint alone
    (default: those of the training; of --onnx what the file asks for, else 320)"""
    theta_b: float | None = None
    """saliency below which a pixel of no class is background, 0..1; stored as the network's default (default: that at
    which at most 4 % of the held-out objects were lost in training; of --onnx none, which means 0.12)"""
    half: bool = False
    """convolutions in float16, for GPUs, where that changes little of what the network says of generated frames; else
    it stays in float32, and the reason is told. Images and maps are float32 in any case"""
    engine: bool = False
    """also build a TensorRT engine, OUT with the suffix .engine, for the GPU of this machine (needs f2f[gpu])"""
    engines: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        require(
            (self.checkpoint is None) != (self.onnx is None),
            f"--checkpoint is {self.checkpoint} and --onnx is {self.onnx}; give exactly one of the two",
        )
        least = 0 if self.onnx is None else 1
        side, theta = self.side_px, self.theta_b
        require(side is None or side >= least, f"side-px is {side}; accepted: {least} or more px")
        require(theta is None or 0 <= theta <= 1, f"theta-b is {theta}; accepted: 0 to 1")


@dataclass(frozen=True, kw_only=True)
class SaliencyEvaluation:
    """Measure saliency beside exact masks."""

    model: Positional[str]
    """what is measured: classical, a network file (.onnx, .pt2), or network.pt of `f2f train saliency`"""
    images: Positional[Path]
    """a folder of images, with --masks; or VOC2012, a folder laid out like it, or the images of `f2f synth`, of which
    everything labelled is salient"""
    masks: Path | None = None
    """folder of grey masks with the images' names, salient above 127"""
    list: str | None = None
    """list of the images: train, val, … in ImageSets/Segmentation, or a list file (default: val; with --masks all)"""
    max_side: int = 500
    """longer side in px at which a method sees an image, as in `f2f label`; larger ones are scaled down"""
    theta_b: float | None = None
    """saliency below which a pixel of no class is background, 0..1 (default: the method's own, else 0.12)"""
    runtimes: RuntimeOptions = field(default_factory=RuntimeOptions)

    def __post_init__(self) -> None:
        theta = self.theta_b
        require(self.max_side >= 16, f"max-side is {self.max_side}; accepted: 16 or more px")
        require(theta is None or 0 <= theta <= 1, f"theta-b is {theta}; accepted: 0 to 1")
