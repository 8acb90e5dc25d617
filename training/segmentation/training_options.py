"""Options of training and export of a segmenter. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from f2f.engine.options import EngineOptions, RuntimeOptions
from f2f.training.options import Accelerator, Precision, require

Method = Literal["sec", "dsrg", "labels"]
Fit = Literal["warp", "crop"]
SegmenterName = Literal["small", "vgg16-largefov", "vgg16-aspp", "resnet50-aspp", "resnet101-aspp"]
_POSITIVE = (
    "steps",
    "batch_size",
    "learning_rate",
    "width",
    "checkpoint_steps",
    "decay_steps",
    "decay",
    "val_steps",
    "devices",
)


@dataclass(frozen=True, kw_only=True)
class SegmenterTraining:
    """Train a segmenter on images (I), on what `f2f label` made of videos (V), or on both."""

    out: Path
    """folder for checkpoints, logs and the trained network (network.pt)"""
    images: Path | None = None
    """I: VOC2012 or a folder laid out like it, or the images of `f2f synth`"""
    list: str = "train"
    """list of the images: train, trainaug, … in ImageSets/Segmentation, or a list file"""
    cues: Path | None = None
    """what is known of the images: a folder of label maps <id>.png, 41x41 cues or masks (default: their own masks)"""
    videos: tuple[Path, ...] = ()
    """V: output folders of `f2f label`; half of every batch where images are given too"""
    video_masks: int = 0
    """as many masks of videos, drawn by the seed (0: all)"""
    least_quality: float = 0.0
    """masks of videos with a lower estimated IoU (column quality) are left out, 0..1"""
    weigh_quality: bool = False
    """let a video's mask count as much as its estimated IoU (column quality), beside the others of its batch"""
    least_confidence: float = 0.0
    """pixels of videos with a lower confidence (`f2f label --confidence`) count as unknown, 0..1"""
    method: Method = "dsrg"
    """sec: seed, expand, constrain; dsrg: balanced seed on growing seeds, boundary; labels: cross-entropy on label maps
    as they are, for exact masks and for retraining on predicted ones"""
    network: SegmenterName = "small"
    """small: for CPUs; vgg16-largefov: SEC's; vgg16-aspp: DSRG's; resnet…-aspp: DeepLab v2's"""
    width: float = 1.0
    """channel multiplier of the network"""
    weights: Path | None = None
    """weights of the backbone: torchvision's, .safetensors or .pth, or network.pt of `f2f train classifier` with the
    same backbone and width, or demo for the bundled classifier's, small of width 0.75 (default: random ones)"""
    start_from: Path | None = None
    """network.pt of another training, of the same network and classes"""
    freeze_norm: Literal["auto", "yes", "no"] = "auto"
    """whether batch norm keeps its statistics and factors, as DeepLab v2 has it for its small batches; auto: that of a
    ResNet does where --weights or --start-from is given"""
    steps: int = 8000
    """optimiser steps"""
    stop_at_step: int = 0
    """stop after this step, though the schedule goes on to STEPS; running again goes on from there (0: at the end)"""
    batch_size: int = 20
    """pictures per step"""
    side_px: int = 321
    """height and width of the pictures that are trained on, px"""
    fit: Fit = "warp"
    """warp: a picture is a whole image, whatever its shape, labelled at the network's cells; crop: a part of it at its
    own size, labelled pixel by pixel (method labels only: a part need not show what the image is tagged with)"""
    flip: bool = True
    """mirror every other picture"""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """sgd: momentum 0.9, last layers at ten times the rate, biases at twice; adamw: for training from scratch"""
    learning_rate: float = 5e-4
    """what the schedule begins with, or its peak for one-cycle"""
    schedule: Literal["step", "poly", "one-cycle"] = "step"
    """of the learning rate: step: times DECAY every DECAY_STEPS; poly: (1 - step/STEPS)^0.9; one-cycle: up and down"""
    decay: float = 0.33
    """factor of the step schedule"""
    decay_steps: int = 1000
    """steps between its decays"""
    weight_decay: float = 5e-4
    """of weights, not of biases or normalisation"""
    checkpoint_steps: int = 200
    """steps between checkpoints; an interrupted run goes on from the last one"""
    val: Path | None = None
    """held-out images with masks, as for --images, on which the mean IoU is measured: at SIDE_PX, without a CRF"""
    val_list: str = "val"
    """list of the held-out images"""
    val_steps: int = 1000
    """steps between these measurements; the last one, at the end, is kept in network.pt"""
    picture_steps: int = 500
    """steps between pictures of a batch, OUT/pictures/step-000500.png, …: images, seeds, what the method makes of them,
    prediction (0: none)"""
    seed: int = 0
    """random seed of weights, order, augmentation and dropout"""
    workers: int = 2
    """processes that load images, per device (0: none beside the main one)"""
    accelerator: Accelerator = "auto"
    """where to train"""
    devices: int = 1
    """GPUs, or processes of a CPU, that share every batch. Gradients are averaged over them, so that all losses are
    those of one device but for two: method labels weighs every device's pixels equally, however many are labelled on
    each, and batch norm that is not frozen takes its statistics per device"""
    precision: Precision = "fp32"
    """of the convolutions; losses and weights are float32 in any case"""
    resume: bool = True
    """go on from the last checkpoint in OUT, if there is one"""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            require(value > 0, f"{name.replace('_', '-')} is {value}; accepted: a number above 0")
        require(self.side_px >= 33, f"side-px is {self.side_px}; accepted: 33 or more px")
        require(self.picture_steps >= 0, f"picture-steps is {self.picture_steps}; accepted: 0 (none) or more")
        require(
            0 <= self.stop_at_step <= self.steps, f"stop-at-step is {self.stop_at_step}; accepted: 0 to {self.steps}"
        )
        require(self.video_masks >= 0, f"video-masks is {self.video_masks}; accepted: 0 (all) or more")
        for name in ("least_quality", "least_confidence"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name.replace('_', '-')} is {value}; accepted: 0 to 1")
        require(
            self.images is not None or bool(self.videos),
            "neither --images nor --videos is given; give images, output folders of `f2f label`, or both",
        )
        require(
            self.fit == "warp" or self.method == "labels",
            f"fit is {self.fit} with method {self.method}; accepted: warp, or method labels; change one",
        )
        require(self.cues is None or self.images is not None, f"cues is {self.cues} without --images; give both")
        require(self.weights is None or self.start_from is None, "--weights and --start-from are given; give one")

    @property
    def norm_is_frozen(self) -> bool:
        """Whether batch norm keeps its statistics and factors."""
        if self.freeze_norm == "auto":
            return self.network.startswith("resnet") and (self.weights is not None or self.start_from is not None)
        return self.freeze_norm == "yes"

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Size of a picture's labels: that of the network's map, 41×41 for 321 px, or that of a crop."""
        side = self.side_px if self.fit == "crop" else -(-self.side_px // 8)
        return side, side


@dataclass(frozen=True, kw_only=True)
class CueOptions:
    """Find what is surely known of tagged images: classes by activation, background by saliency."""

    images: Positional[Path]
    """VOC2012 or a folder laid out like it, or the images of `f2f synth`"""
    out: Path
    """folder that receives <id>.png, label maps of the grid, and labels.txt"""
    classifier: str
    """network that yields activation: a file, demo for the bundled one, or network.pt of `f2f train classifier`, of
    either method"""
    list: str = "train"
    """list of the images: train, trainaug, … in ImageSets/Segmentation, or a list file"""
    saliency: str = "classical"
    """foreground prior that decides background: classical (weight-free), none, or a network file"""
    theta: float | None = None
    """a cell is a class above this share of the class's strongest activation (default: 0.2; of a FickleNet 0.35)"""
    passes: int = 200
    """of a FickleNet: a cell is a class where any of so many random passes says so"""
    seed: int = 0
    """of a FickleNet: random seed of the passes"""
    theta_b: float | None = None
    """a cell of no class is background where its saliency is below this (default: the prior's own, else 0.12)"""
    grid: int = 41
    """cells per side"""
    max_side: int = 500
    """longer side in px at which networks see an image; larger ones are scaled down"""
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25)
    """sizes, as factors, at which activation is computed, each also mirrored (a FickleNet sees an image as it is)"""
    resume: bool = True
    """go on with the cues in OUT, if they are of the same networks and options"""
    runtimes: RuntimeOptions = field(default_factory=RuntimeOptions)

    def __post_init__(self) -> None:
        require(self.grid > 0, f"grid is {self.grid}; accepted: 1 or more cells")
        require(self.max_side >= 16, f"max-side is {self.max_side}; accepted: 16 or more px")
        require(self.theta is None or 0 < self.theta < 1, f"theta is {self.theta}; accepted: above 0, below 1")
        require(self.passes > 0, f"passes is {self.passes}; accepted: 1 or more; the paper takes 200")
        require(self.seed >= 0, f"seed is {self.seed}; accepted: 0 or more")
        require(bool(self.scales) and min(self.scales) > 0, f"scales is {self.scales}; accepted: one or more above 0")


@dataclass(frozen=True, kw_only=True)
class SegmenterExport:
    """Write a segmenter by contract: `image` -> `logits`."""

    out: Path
    """file to write: .onnx (opset 18) or .pt2"""
    checkpoint: Path
    """network.pt of `f2f train segmenter`"""
    half: bool = False
    """weights and layers in float16, images and logits in float32"""
    images: Path | None = None
    """with HALF, images to say what it costs in mIoU: VOC2012 or a folder laid out like it, or those of `f2f synth`"""
    list: str = "val"
    """list of these images, all with exact masks"""
    engine: bool = False
    """also build a TensorRT engine, OUT with the suffix .engine, for the GPU of this machine (needs f2f[gpu])"""
    engines: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        require(self.images is None or self.half, f"images is {self.images} without --half; give both")
