"""Options of training and export: one frozen class each, every default written once. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Positional, UseAppendAction, arg

from f2f.engine.errors import UsageError
from f2f.engine.options import EngineOptions, RuntimeOptions

Accelerator = Literal["auto", "cpu", "gpu"]
Precision = Literal["bf16", "fp32"]
FlowDataset = Literal["generated", "chairs", "things", "sintel", "kitti"]
FlowLoss = Literal["epe", "robust"]
Schedule = Literal["one-cycle", "halving"]
BackboneName = Literal["small", "vgg16", "resnet50", "resnet101"]
ClassifierMethod = Literal["cam", "ficklenet"]
Optimisation = Literal["adamw", "sgd"]


def require(condition: bool, message: str) -> None:
    """Refuse a wrong value: `message` says what was given, what is accepted, what to do."""
    if not condition:
        raise UsageError(message)


def _positive(**values: float) -> None:
    for name, value in values.items():
        require(value > 0, f"{name.replace('_', '-')} is {value}; accepted: a number above 0")


def _require_one(sources: Mapping[str, object], reduces: bool) -> None:
    """Refuse none, or several, of what a network may be exported from; an exported file only becomes smaller."""
    given = [name for name, value in sources.items() if value is not None]
    told = ", ".join(f"--{name} {sources[name]}" for name in given) or "none of them"
    require(len(given) == 1, f"{told} is given; accepted: exactly one of --{', --'.join(sources)}")
    require(
        given != ["network"] or reduces,
        f"{told} is exported already; give --half, or --int8 --calibrate SOURCE, to make it smaller",
    )


def _require_shares(**values: float | None) -> None:
    for name, value in values.items():
        ok = value is None or 0 <= value < 1
        require(ok, f"{name.replace('_', '-')} is {value}; accepted: 0 to below 1")


def _check_stop(stop_at_step: int, steps: int) -> None:
    require(0 <= stop_at_step <= steps, f"stop-at-step is {stop_at_step}; accepted: 0 (at the end) to {steps} (steps)")


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """Train a CAM classifier on tagged still images."""

    images: Positional[Path]
    """VOC2012, a folder laid out like it, or tagged images: JPEGImages/<id>.jpg, tags.csv (id,classes),
    ImageSets/Segmentation/{train,val}.txt"""
    out: Path
    """folder for checkpoints, logs and the trained network (network.pt)"""
    list: str = "train"
    """list of the images: train, trainaug, … in ImageSets/Segmentation, or a list file"""
    val_list: str = "val"
    """list of the images that the trained network is measured on"""
    method: ClassifierMethod = "cam"
    """cam: the paper's, whose last map, pooled, is the score; ficklenet: windows of the last convolution see cells by
    chance"""
    network: BackboneName = "small"
    """what is below the head: small is for CPUs; vgg16 is the paper's, at stride 8"""
    weights: Path | None = None
    """torchvision's weights of the network for ImageNet, .safetensors or .pth (default: random ones)"""
    window: int = 9
    """ficklenet: height and width of the last convolution, cells (odd)"""
    rate: float = 0.9
    """ficklenet: probability that a window loses a cell other than its centre, 0..1"""
    steps: int = 1500
    """optimiser steps"""
    stop_at_step: int = 0
    """stop after this step, though the schedule goes on to STEPS; running again goes on from there (0: at the end)"""
    batch_size: int = 16
    """images per step"""
    crop_height_px: int = 160
    """height of the training crop, pixels"""
    crop_width_px: int = 272
    """width of the training crop, pixels"""
    min_side_px: int = 140
    """smallest short side that an image is resized to before the crop, pixels"""
    max_side_px: int = 240
    """largest short side that an image is resized to before the crop, pixels"""
    colour_jitter: float = 0.3
    """brightness, contrast and saturation change by factors of up to 1 ± this, 0..1"""
    hue_jitter: float = 0.0
    """hue turns by up to this share of a circle, 0..0.5 (PSA: 0.1)"""
    optimiser: Optimisation = "adamw"
    """sgd: momentum 0.9, the head at ten times the rate, biases at twice; adamw: for training from scratch"""
    learning_rate: float | None = None
    """peak of the one-cycle schedule; what poly begins with (default: 2e-3 for adamw, 1e-3 for sgd)"""
    schedule: Literal["one-cycle", "poly"] | None = None
    """of the learning rate; poly: (1 - step/STEPS)^0.9 (default: one-cycle for adamw, poly for sgd)"""
    weight_decay: float | None = None
    """of weights, not of biases or normalisation (default: 1e-2 for adamw, 5e-4 for sgd)"""
    width: float | None = None
    """channel multiplier of the network; small has 0.6 million parameters at 1 (default: 0.75 for small, else 1)"""
    dropout: float | None = None
    """cam: Dropout2d probability in the head, 0..1 (default: 0.1 for small, else 0.5)"""
    checkpoint_steps: int = 100
    """steps between checkpoints; an interrupted run goes on from the last one"""
    seed: int = 0
    """random seed of weights, order and augmentation"""
    workers: int = 2
    """processes that load images (0: none beside the main one)"""
    accelerator: Accelerator = "auto"
    """where to train"""
    resume: bool = True
    """go on from the last checkpoint in OUT, if there is one"""

    def __post_init__(self) -> None:
        optional = {"learning_rate": self.learning_rate, "width": self.width}
        _positive(**{name: value for name, value in optional.items() if value is not None})
        _positive(steps=self.steps, batch_size=self.batch_size, checkpoint_steps=self.checkpoint_steps)
        _positive(crop_height_px=self.crop_height_px, crop_width_px=self.crop_width_px, min_side_px=self.min_side_px)
        _check_stop(self.stop_at_step, self.steps)
        require(
            self.max_side_px >= self.min_side_px,
            f"max-side-px is {self.max_side_px}; accepted: at least min-side-px ({self.min_side_px})",
        )
        dropout, decay = self.dropout or 0.0, self.weight_decay or 0.0
        require(0 <= dropout < 1, f"dropout is {dropout}; accepted: 0 (none) to below 1")
        require(decay >= 0, f"weight-decay is {decay}; accepted: 0 (none) or more")
        require(self.window > 0 and self.window % 2 == 1, f"window is {self.window}; accepted: an odd number of cells")
        require(0 <= self.rate <= 1, f"rate is {self.rate}; accepted: 0 (nothing is dropped) to 1 (all but centres)")
        require(0 <= self.colour_jitter <= 1, f"colour-jitter is {self.colour_jitter}; accepted: 0 (none) to 1")
        require(0 <= self.hue_jitter <= 0.5, f"hue-jitter is {self.hue_jitter}; accepted: 0 (none) to 0.5")
        require(self.seed >= 0, f"seed is {self.seed}; accepted: 0 or more")

    def settled(self) -> ClassifierTraining:
        """Itself, with every default that depends on another option filled in."""
        adam, small = self.optimiser == "adamw", self.network == "small"
        defaults = {
            "learning_rate": 2e-3 if adam else 1e-3,
            "schedule": "one-cycle" if adam else "poly",
            "weight_decay": 1e-2 if adam else 5e-4,
            "width": 0.75 if small else 1.0,
            "dropout": 0.1 if small else 0.5,
        }
        left: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **left)


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation:
    """Measure a classifier: its tags, and its CAMs against masks where there are any."""

    model: Positional[str]
    """what is measured: a network file (.onnx, .pt2), network.pt of `f2f train classifier`, or demo"""
    images: Positional[Path]
    """VOC2012, a folder laid out like it, or tagged images with a tags.csv"""
    list: str = "val"
    """list of the images: train, val, … in ImageSets/Segmentation, or a list file"""
    tau: float | None = None
    """score a class must exceed to be a label, 0..1 (default: the network's own, else 0.9)"""
    theta_f: float | None = None
    """share of the CAM's peak above which a pixel is foreground, 0..1 (default: the network's own, else 0.2)"""
    runtimes: RuntimeOptions = field(default_factory=RuntimeOptions)

    def __post_init__(self) -> None:
        _require_shares(tau=self.tau, theta_f=self.theta_f)


@dataclass(frozen=True, kw_only=True)
class FlowTraining:
    """Train PWC-Net on pairs of frames with exact flow, rendered as needed or of a public data set."""

    out: Path
    """folder for the pair cache, checkpoints, logs, pictures and the trained network (network.pt)"""
    dataset: tuple[FlowDataset, ...] = ("generated",)
    """what to train on; of several, each is drawn from equally often, and one that is given twice twice as often;
    chairs: FlyingChairs, things: FlyingThings3D, kitti: KITTI 2015"""
    root: Path | None = None
    """folder that holds FlyingChairs/, FlyingThings3D/, Sintel/ or KittiFlow/, laid out as torchvision reads them"""
    steps: int = 17000
    """optimiser steps"""
    stop_at_step: int = 0
    """stop after this step, though the schedule goes on to STEPS; running again goes on from there (0: at the end)"""
    batch_size: int = 4
    """pairs per step"""
    crop_height_px: int = 192
    """height of the training crop, pixels (a multiple of 64)"""
    crop_width_px: int = 320
    """width of the training crop, pixels (a multiple of 64)"""
    learning_rate: float = 1e-3
    """peak of the one-cycle schedule; what the halving schedule begins with"""
    schedule: Schedule = "one-cycle"
    """of the learning rate; halving: constant but halved at 1/3, 1/2, 2/3 and 5/6 of STEPS, as PWC-Net's S_long on
    chairs (from 1e-4, 1.2 million steps) and S_fine on things (from 1e-5, 0.6 million)"""
    loss: FlowLoss = "epe"
    """epe: end-point error; robust: (|du| + |dv| + 0.01)^0.4, the paper's for fine-tuning; both at all five levels"""
    weight_decay: float = 1e-4
    """AdamW weight decay"""
    width: float = 0.25
    """channel multiplier of PWC-Net (1: that of the standard network)"""
    dense: bool = False
    """dense connections in the decoders, as the standard network has; slower by two to three times"""
    reach: int = 3
    """largest displacement of the cost volumes, cells (the standard network: 4)"""
    scenes: int = 200
    """scenes of the synthetic web rendered once into the pair cache, 4 pairs each, 1/12 s to 1/4 s apart"""
    layer_pairs: int = 1600
    """pairs of moving textured layers drawn once into the pair cache"""
    layer_height_px: int = 240
    """height of the frames that textured layers are drawn in, 16:9; their motions and outlines grow with it"""
    layer_share: float = 0.65
    """share of the training pairs taken from the textured layers instead of the scenes, 0..1"""
    checkpoint_steps: int = 200
    """steps between checkpoints; an interrupted run goes on from the last one"""
    picture_steps: int = 500
    """steps between pictures of a pair with its true and its found flow, OUT/pictures/step-000500.png, … (0: none)"""
    hidden: bool = True
    """also learn the flow of points that the other frame hides; without, what moves over them decides there, which
    carries masks better: a mask sampled behind an object is that object's"""
    start_from: Path | None = None
    """network.pt whose weights training starts from, of the same width (default: random weights)"""
    cache: Path | None = None
    """folder of the pair cache (default: OUT/pairs)"""
    seed: int = 0
    """random seed of scenes, weights, order and augmentation"""
    workers: int = 2
    """processes that render and load pairs (0: none beside the main one)"""
    accelerator: Accelerator = "auto"
    """where to train"""
    precision: Precision = "bf16"
    """of the convolutions; flow, losses and weights are float32 in any case"""
    resume: bool = True
    """go on from the last checkpoint in OUT, if there is one"""

    def __post_init__(self) -> None:
        _positive(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate, width=self.width)
        _positive(reach=self.reach, layer_height_px=self.layer_height_px)
        for name, side in (("crop-height-px", self.crop_height_px), ("crop-width-px", self.crop_width_px)):
            require(side > 0 and side % 64 == 0, f"{name} is {side}; accepted: a multiple of 64")
        _positive(checkpoint_steps=self.checkpoint_steps)
        _check_stop(self.stop_at_step, self.steps)
        require(self.picture_steps >= 0, f"picture-steps is {self.picture_steps}; accepted: 0 (none) or more")
        self._check_dataset()
        share = self.layer_share
        require(0 <= share <= 1, f"layer-share is {share}; accepted: 0 (scenes only) to 1 (layers only)")
        require(self.scenes > 0 or share == 1, f"scenes is {self.scenes}; accepted: at least 1, or --layer-share 1")
        require(self.layer_pairs > 0 or share == 0, f"layer-pairs is {self.layer_pairs}; give 1 or --layer-share 0")

    def _check_dataset(self) -> None:
        accepted = "accepted: " + ", ".join(get_args(FlowDataset))
        require(bool(self.dataset), f"dataset is empty; {accepted}")
        unknown = sorted(set(self.dataset) - set(get_args(FlowDataset)))
        require(not unknown, f"dataset is {', '.join(unknown)}; {accepted}")
        stored = [name for name in self.dataset if name != "generated"]
        require(
            self.root is not None or not stored,
            f"dataset is {' '.join(stored)} and no --root is given; give the folder that holds the data set",
        )
        require(
            self.root is None or bool(stored), f"root is {self.root}, and dataset generated reads none; give --dataset"
        )


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """Whether an exported network computes in less than float32, and on what that is judged."""

    half: bool = False
    """convolutions in float16, for GPUs, where that changes little of what the network says of generated frames and of
    --calibrate, if that is given; else the network stays as it is, and the reason is told. Images, outputs, coordinates
    and sampling are float32 in any case"""
    int8: bool = False
    """quantise convolutions to 8 bits, for CPUs, where that changes little of what the network says of --calibrate;
    else the network stays as it is, and the reason is told"""
    calibrate: str = ""
    """videos like those that will be labelled, a SOURCE of `f2f label`: with --int8 half of the clips calibrate and
    the others judge, with --half all judge"""
    calibrate_clips: int = 48
    """with --calibrate: clips of 3 sampled frames that are taken of it"""
    calibrate_max_side: int = 500
    """with --calibrate: longer side in px of their frames, as --max-side of `f2f label`"""

    def __post_init__(self) -> None:
        require(not (self.half and self.int8), "--half and --int8 are given; give one of them")
        require(
            bool(self.calibrate) or not self.int8,
            "--int8 is given without --calibrate; give videos like those that will be labelled",
        )
        require(
            self.reduces or not self.calibrate,
            f"--calibrate is {self.calibrate!r} and nothing is to be judged; give --int8 or --half, too",
        )
        _positive(calibrate_max_side=self.calibrate_max_side)
        clips = self.calibrate_clips
        require(clips >= 4, f"calibrate-clips is {clips}; accepted: 4 or more")

    @property
    def reduces(self) -> bool:
        """Whether anything is asked for."""
        return self.half or self.int8


@dataclass(frozen=True, kw_only=True)
class ClassifierExport:
    """Write a classifier by contract: `image` -> `scores`, `cam`. Give --torchvision, --checkpoint or --network."""

    out: Path
    """file to write: .onnx (opset 18) or .pt2"""
    torchvision: str | None = None
    """a torchvision ImageNet network that ends in global average pooling + linear or 1x1 convolution"""
    weights: Path | None = None
    """its weights, .safetensors or .pth (default: torchvision's own download)"""
    classes: str = "voc"
    """class map for --torchvision: `voc`, or a JSON file {class: [ImageNet indices]}"""
    checkpoint: Path | None = None
    """network.pt of `f2f train classifier`"""
    network: str | None = None
    """a classifier that was exported already, .onnx, or demo; for --half and --int8"""
    tau: float | None = None
    """score a class must exceed to be a label, 0..1; stored as the network's default (default: what fits its kind)"""
    theta_f: float | None = None
    """share of the CAM's peak above which a pixel is foreground, 0..1; stored as the network's default"""
    precision: PrecisionOptions = field(default_factory=PrecisionOptions)
    engine: bool = False
    """also build a TensorRT engine, OUT with the suffix .engine, for the GPU of this machine (needs f2f[gpu])"""
    engines: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        sources = {"torchvision": self.torchvision, "checkpoint": self.checkpoint, "network": self.network}
        _require_one(sources, self.precision.reduces)
        _require_shares(tau=self.tau, theta_f=self.theta_f)


@dataclass(frozen=True, kw_only=True)
class FlowExport:
    """Write a flow network by contract: `frames` -> `flow`. Give --checkpoint, --weights or --network."""

    out: Path
    """file to write: .onnx (opset 18) or .pt2"""
    checkpoint: Path | None = None
    """network.pt of `f2f train flow`"""
    weights: Path | None = None
    """a released full-size PWC-Net: pwc_net.pth.tar (NVlabs), network-default.pytorch (sniklaus), or .safetensors;
    nothing in it is run; it is not part of f2f, and its licence excludes commercial use"""
    network: str | None = None
    """a flow network that was exported already, .onnx, or demo; for --half and --int8"""
    fit: Literal["pad", "resize"] | None = None
    """how frames come to multiples of 64 px: continued, or resized and the flow scaled back (default: pad; released
    networks resize, as they were made to)"""
    precision: PrecisionOptions = field(default_factory=PrecisionOptions)
    engine: bool = False
    """also build a TensorRT engine, OUT with the suffix .engine, for the GPU of this machine (needs f2f[gpu])"""
    engines: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        sources = {"checkpoint": self.checkpoint, "weights": self.weights, "network": self.network}
        _require_one(sources, self.precision.reduces)


@dataclass(frozen=True, kw_only=True)
class FlowEvaluation:
    """Measure optical flow beside exact flow, and on videos by carrying their true masks from frame to frame."""

    sources: Annotated[tuple[Path, ...], Positional, arg(metavar="SOURCE")] = ()
    """folders, told apart by what they hold. Exact flow: <name>_img1.png|ppm|jpg, <name>_img2.… and
    <name>_flow.flo|png (flow on img1, to img2; PNG as KITTI stores it); KITTI's image_2/ and flow_occ/; or the output
    of `f2f synth --flow-truth`. True masks: videos/ and masks/<video>/00000.png …, numbered by frame"""
    flow: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="FLOW")] = ()
    """what is measured, a row each; repeat it, or part by commas: a network file (.onnx, .pt2), demo, dis, auto (as in
    `f2f label`), zero, dis-fast, dis-medium, farneback (default: zero and auto)"""
    first: Path | None = None
    """an image: the frame that the flow of --truth lives on"""
    second: Path | None = None
    """an image: the frame that the flow of --truth points to"""
    truth: Path | None = None
    """exact flow from --first to --second, .flo or KITTI's .png"""
    masks: Path | None = None
    """folder of masks <video>/00000.png … or <query>/<video>/00000.png …; every SOURCE is then a folder of videos
    (default: SOURCE/masks beside SOURCE/videos)"""
    strides: tuple[int, ...] = (1, 2, 4)
    """distances, in frames, that masks are carried over"""
    every: int = 1
    """take every N-th pair of a source, of a video every N-th frame to start from"""
    max_side: int = 0
    """longer side in px that videos with masks are scaled down to (0: as they are)"""
    runtimes: RuntimeOptions = field(default_factory=RuntimeOptions)

    def __post_init__(self) -> None:
        pair = {"--first": self.first, "--second": self.second, "--truth": self.truth}
        missing = [name for name, path in pair.items() if path is None]
        require(len(missing) in {0, 3}, f"{' and '.join(missing)} missing; give all of {', '.join(pair)}, or none")
        require(bool(self.sources) or not missing, f"no SOURCE was given; give folders, or {', '.join(pair)}")
        require(
            bool(self.strides) and min(self.strides) > 0, f"strides is {self.strides}; accepted: one or more above 0"
        )
        _positive(every=self.every)
        require(
            self.max_side == 0 or self.max_side >= 16, f"max-side is {self.max_side}; accepted: 0 (as it is), 16 px …"
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of what is measured, each once."""
        names = (name for value in self.flow for name in ([value] if Path(value).is_file() else value.split(",")))
        return tuple(dict.fromkeys(names)) or ("zero", "auto")
