"""Less than float32: an exported network in int8 (CPUs) or float16 (GPUs), where that is harmless.

What it changes must stay below the bounds here, else the network stays in float32 and the caller is told why. That is
judged on the user's own clips, flow on generated pairs with exact flow, float16 on smooth noise as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
import torch
from torch import Tensor

from f2f.engine.cam import Activation, MultiScaleCams
from f2f.engine.classify import Classifier, to_tensor
from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.flow import NetworkFlow
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.cpu_choice import openvino_version
from f2f.engine.runtimes.cuda import gpu_obstacle
from f2f.engine.runtimes.kept_choice import LEAST_GAIN
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network
from f2f.engine.runtimes.onnx_graph import fixed_axes, is_reduced
from f2f.engine.runtimes.onnx_runtime import OnnxNetwork
from f2f.engine.runtimes.onnx_sections import open_on_onnxruntime
from f2f.engine.runtimes.open import open_network
from f2f.engine.runtimes.parity import Reference, differences, small_trials
from f2f.engine.runtimes.trial import times_as_fast, trial_input
from f2f.engine.types import Window
from f2f.kernels import unpack_planes
from f2f.training.clips import CLIP_FRAMES, Clip, clips_of, inputs_of
from f2f.training.float16 import write_float16
from f2f.training.flow_metrics import endpoint_error
from f2f.training.int8 import write_int8
from f2f.training.layers import layer_pairs
from f2f.training.options import PrecisionOptions

LEAST_LABELS_AGREE, LEAST_MASK_IOU, MOST_EPE_INCREASE = 0.98, 0.97, 0.10
MOST_DIFFERENCE = 2e-2
"""of an output in float16 to that in float32, relative to its largest value"""
_SCALES = (0.5, 1.0)
_EXACT_PAIRS, _SEED = 24, 7
_TIMED_HW = (384, 640)
Form = Literal["int8", "float16"]


@dataclass(frozen=True)
class PrecisionVerdict:
    """What less than float32 changes on clips that had no part in a calibration, and elsewhere."""

    kind: Kind
    clips: int
    form: Form = "int8"
    labels_agree: float = 1.0
    """classifier: share of frames with the same label set"""
    mask_iou: float = 1.0
    """classifier: mean IoU of active regions in float32 and in less"""
    epe_increase: float = 0.0
    """flow: by which share the end-point error on exact flow grows"""
    difference: float = 0.0
    """float16: largest difference of an output, relative to its largest value"""
    times_as_fast: float = 0.0
    """as float32, on this machine, each by what --runtime auto takes; 0: not measured, for float16 is for GPUs"""

    @property
    def why_not(self) -> str:
        """Why the network stays in float32; empty where less is good enough."""
        reasons = []
        if not self.difference <= MOST_DIFFERENCE:
            reasons.append(
                f"an output differs by {self.difference:.1e} of its largest value, at most {MOST_DIFFERENCE} is wanted"
            )
        if self.labels_agree < LEAST_LABELS_AGREE:
            reasons.append(f"{100 * self.labels_agree:.1f} % of the label sets agree, {LEAST_LABELS_AGREE:.0%} must")
        if self.mask_iou < LEAST_MASK_IOU:
            reasons.append(f"active regions have an IoU of {self.mask_iou:.3f}, at least {LEAST_MASK_IOU} is wanted")
        if not self.epe_increase <= MOST_EPE_INCREASE:
            reasons.append(
                f"the flow's error grows by {self.epe_increase:.0%}, at most {MOST_EPE_INCREASE:.0%} is wanted"
            )
        return "; ".join(reasons)

    def __str__(self) -> str:
        outcome = f"kept in float32: {self.why_not}" if self.why_not else self.form
        return f"{outcome} ({'; '.join(self._findings())})"

    def _findings(self) -> Iterator[str]:
        if self.form == "float16":
            yield f"outputs differ by {self.difference:.1e} of their largest value"
        if self.kind == "classifier" and self.clips:
            yield f"{100 * self.labels_agree:.1f} % of label sets agree, IoU of active regions {self.mask_iou:.3f}"
        if self.kind == "flow":
            yield f"end-point error {self.epe_increase:+.1%}"
        if self.clips:
            yield f"{self.clips} clips"
        if self.times_as_fast:
            yield f"{self.times_as_fast:.2f} times as fast as float32 here"
        else:
            yield "made for GPUs, of which there is none here: how fast it is was not measured"
        if self.form == "int8" and self.times_as_fast < LEAST_GAIN and not openvino_version():
            yield "try f2f[openvino]"


def reduce_precision(network: Path, kind: Kind, options: PrecisionOptions, out: Path) -> PrecisionVerdict:
    """Write `network`, an exported `.onnx` in float32, to `out`: in less where that passes, else as it is.

    Raises:
        UsageError: the source has too few clips, or the file is not in float32.
        NetworkError: it is no network, or of another kind.
    """
    form: Form = "int8" if options.int8 else "float16"
    need_onnx(options, network, out)
    _need_float32(options, network, kind)
    clips = _enough(clips_of(options)) if options.calibrate else []
    with TemporaryDirectory() as folder:
        smaller = Path(folder) / f"{form}.onnx"
        if form == "int8":
            write_int8(network, kind, clips[::2], smaller)
            clips = clips[1::2]
        else:
            write_float16(network, smaller)
        _describe(smaller, network)
        verdict = judge(network, smaller, kind, form, clips)
        judged_by = {name: value for name, value in asdict(verdict).items() if name not in {"times_as_fast", "form"}}
        _describe(smaller, network, **{form: judged_by})  # the same file every time
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.stem}.partial.onnx")
        partial.write_bytes((network if verdict.why_not else smaller).read_bytes())
        partial.replace(out)
    return verdict


def need_onnx(options: PrecisionOptions, *files: Path) -> None:
    """Refuse what is no `.onnx` file."""
    others = [file.name for file in files if file.suffix != ".onnx"]
    if others:
        instead = "" if options.int8 else ", or label by the .pt2 with --torch-precision bfloat16"
        raise UsageError(
            f"{_flag(options)} is for .onnx files; {' and '.join(others)} is not; give --out FILE.onnx{instead}"
        )


def _need_float32(options: PrecisionOptions, network: Path, kind: Kind) -> None:
    OnnxNetwork(network, kind, RuntimeOptions())  # refuses what is no such network
    if is_reduced(onnx.load(network)):
        raise UsageError(
            f"{_flag(options)} is for networks in float32; {network.name} computes in less already; give the one that "
            "it was made of"
        )


def _flag(options: PrecisionOptions) -> str:
    return "--int8" if options.int8 else "--half"


def _enough(clips: list[Clip]) -> list[Clip]:
    if len(clips) < 4:
        raise UsageError(
            f"--calibrate gave {len(clips)} clips of {CLIP_FRAMES} frames; accepted: a source of videos with 4 or "
            "more; give one that looks like what is to be labelled"
        )
    return clips


def judge(network: Path, smaller: Path, kind: Kind, form: Form, clips: Sequence[Clip]) -> PrecisionVerdict:
    """What less than float32 changes; both files keep the contract."""
    whole, reduced = (open_on_onnxruntime(path, kind, RuntimeOptions()) for path in (network, smaller))
    agree, iou, increase = 1.0, 1.0, 0.0
    if kind == "classifier" and clips:
        agree, iou = _classifier_changes(Classifier(whole), Classifier(reduced), clips)
    if kind == "flow":
        error, other = _flow_errors(NetworkFlow(whole), NetworkFlow(reduced))
        increase = other / error - 1
    difference = _difference(network, whole, reduced) if form == "float16" else 0.0
    timed = form == "int8" or not gpu_obstacle()
    gain = _gain(network, smaller, kind, clips) if timed else 0.0
    return PrecisionVerdict(kind, len(clips), form, agree, iou, increase, difference, gain)


def _difference(network: Path, whole: Network, reduced: Network) -> float:
    """Largest of all outputs on some shapes; nan where one is no number."""
    fixed = fixed_axes(onnx.load(network))
    reference = Reference("the network in float32", whole, "another --network", fixed)
    shapes = small_trials(whole.info.kind, whole.info.size_multiple)
    try:
        return float(np.max([difference for _, _, difference in differences(reduced, reference, shapes)]))
    except NetworkError as error:
        raise UsageError(f"{network} cannot be judged: {error}") from error


def _gain(network: Path, smaller: Path, kind: Kind, clips: Sequence[Clip]) -> float:
    """How many times as fast the smaller one runs a clip."""
    plain, other = (open_network(str(path), kind, RuntimeOptions()) for path in (network, smaller))
    name, rank = CONTRACTS[kind].input, CONTRACTS[kind].input_rank
    noise = trial_input((1, CLIP_FRAMES, 3, *_TIMED_HW)[5 - rank :])  # [1, K, 3, H, W] or [K, 3, H, W]
    batch = torch.from_numpy(next(inputs_of(kind, clips[:1]))[name]) if clips else noise
    return times_as_fast(plain, other, batch)


def _classifier_changes(whole: Classifier, smaller: Classifier, clips: Sequence[Clip]) -> tuple[float, float]:
    tau, theta_f = (whole.info.defaults.get(name, usual) for name, usual in (("tau", 0.9), ("theta_f", 0.2)))
    same: list[bool] = []
    ious: list[float] = []
    for clip in clips:
        images = to_tensor([frame.image for frame in clip])
        (scores, _), (others, _) = whole(images), smaller(images)
        same += [torch.equal(one > tau, other > tau) for one, other in zip(scores, others, strict=True)]
        window = Window(0, 0, clip, (int(scores.mean(0).argmax()),), None)
        regions = [_regions(Activation(MultiScaleCams(one, _SCALES), theta_f)(window).bits) for one in (whole, smaller)]
        ious.append(_iou(*regions))
    return float(np.mean(same)), float(np.mean(ious))


def _regions(bits: Tensor) -> Tensor:
    return unpack_planes(bits, 1)


def _iou(one: Tensor, other: Tensor) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def _flow_errors(*flows: NetworkFlow) -> list[float]:
    """Mean end-point error of each, px, on generated pairs with exact flow."""
    errors: list[list[float]] = [[] for _ in flows]
    for pair in layer_pairs((_SEED,), _EXACT_PAIRS):
        truth = torch.from_numpy(pair.flow_xy_px).permute(2, 0, 1)
        for flow, mine in zip(flows, errors, strict=True):
            (found,) = flow([[pair.second, pair.first]])[0]  # [2, H, W], on `first`, pointing to `second`
            mine.append(float(endpoint_error(found, truth)[torch.from_numpy(pair.visible)].mean()))
    return [float(np.mean(one)) for one in errors]


def _describe(path: Path, network: Path, **more: object) -> None:
    """Give a file the metadata of the one that it was made of, and more of its training."""
    told = {one.key: one.value for one in onnx.load(network).metadata_props}
    told["f2f.training"] = json.dumps({**json.loads(told.get("f2f.training", "{}")), **more})
    model = onnx.load(path)
    onnx.helper.set_model_props(model, told)
    onnx.save(model, path)
