"""Int8 for CPUs: an exported network's convolutions, quantised on the user's own frames where that is harmless.

The graph holds the precision (QuantizeLinear / DequantizeLinear around convolutions), so whatever runs `.onnx` files
runs it. Half of the clips calibrate, the other half judges: what int8 changes must stay below the bounds below, else
the network stays in float32 and the caller is told why.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from f2f.engine.cam import Activation, MultiScaleCams
from f2f.engine.classify import Classifier, to_tensor
from f2f.engine.errors import UsageError
from f2f.engine.flow import NetworkFlow
from f2f.engine.options import DecodeOptions, RuntimeOptions, SourceOptions
from f2f.engine.pool import DecodePool
from f2f.engine.runtimes.cpu_choice import LEAST_GAIN, openvino_version
from f2f.engine.runtimes.network import CONTRACTS, Kind
from f2f.engine.runtimes.onnx_runtime import OnnxNetwork
from f2f.engine.runtimes.open import open_network
from f2f.engine.runtimes.trial import times_as_fast
from f2f.engine.source import read_source
from f2f.engine.types import Frame, ImageArray, VideoEnd, Window
from f2f.kernels import unpack_planes
from f2f.training.flow_metrics import endpoint_error
from f2f.training.layers import layer_pairs
from f2f.training.options import Int8Options

LEAST_LABELS_AGREE, LEAST_MASK_IOU, MOST_EPE_INCREASE = 0.98, 0.97, 0.10
CLIP_FRAMES = 3
_QUANTISED = ["Conv", "Relu", "LeakyRelu", "MaxPool"]
"""what stays in 8 bits from one convolution to the next; by themselves, these would spend half of the range of a ReLU's
input on what it throws away"""
_SCALES = (0.5, 1.0)
_NARROW = 4
"""convolutions with so few outputs predict scores or flow; they cost little and stay as they are"""
_EXACT_PAIRS, _SEED = 24, 7
Clip = tuple[Frame, ...]


@dataclass(frozen=True)
class Int8Verdict:
    """What int8 changes on clips that had no part in the calibration."""

    kind: Kind
    clips: int
    labels_agree: float = 1.0
    """classifier: share of frames with the same label set"""
    mask_iou: float = 1.0
    """classifier: mean IoU of active regions in float32 and in int8"""
    epe_increase: float = 0.0
    """flow: by which share the end-point error on exact flow grows"""
    times_as_fast: float = 1.0
    """as float32, on this machine, each by what --runtime auto takes"""

    @property
    def why_not(self) -> str:
        """Why the network stays in float32; empty where int8 is good enough."""
        reasons = []
        if self.labels_agree < LEAST_LABELS_AGREE:
            reasons.append(f"{100 * self.labels_agree:.1f} % of the label sets agree, {LEAST_LABELS_AGREE:.0%} must")
        if self.mask_iou < LEAST_MASK_IOU:
            reasons.append(f"active regions have an IoU of {self.mask_iou:.3f}, at least {LEAST_MASK_IOU} is wanted")
        if self.epe_increase > MOST_EPE_INCREASE:
            reasons.append(
                f"the flow's error grows by {self.epe_increase:.0%}, at most {MOST_EPE_INCREASE:.0%} is wanted"
            )
        return "; ".join(reasons)

    def __str__(self) -> str:
        labels = f"{100 * self.labels_agree:.1f} % of label sets agree"
        found = {
            "classifier": f"{labels}, IoU of active regions {self.mask_iou:.3f}",
            "flow": f"end-point error {self.epe_increase:+.1%}",
        }[self.kind]
        outcome = f"kept in float32: {self.why_not}" if self.why_not else "int8"
        speed = f"{self.times_as_fast:.2f} times as fast as float32 here"
        advice = "" if self.times_as_fast >= LEAST_GAIN or openvino_version() else "; try f2f[openvino]"
        return f"{outcome} ({found}; {self.clips} clips; {speed}{advice})"


def quantise(network: Path, kind: Kind, options: Int8Options, out: Path) -> Int8Verdict:
    """Write `network`, an exported `.onnx`, to `out`: in int8 where that passes, else as it is.

    Raises:
        UsageError: the source has too few clips, or the file is no `.onnx`.
    """
    if {network.suffix, out.suffix} != {".onnx"}:
        raise UsageError(f"--int8 is for .onnx files; {network.name} -> {out.name} is not; give --out FILE.onnx")
    calibration, judged = _parted(clips_of(options))
    with TemporaryDirectory() as folder:
        smaller = Path(folder) / "int8.onnx"
        write_int8(network, kind, calibration, smaller)
        _describe(smaller, network)
        verdict = judge(network, smaller, kind, judged)
        judged_by = {name: value for name, value in asdict(verdict).items() if name != "times_as_fast"}
        _describe(smaller, network, int8=judged_by)  # the same file every time
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.stem}.partial.onnx")
        partial.write_bytes((network if verdict.why_not else smaller).read_bytes())
        partial.replace(out)
    return verdict


def clips_of(options: Int8Options) -> list[Clip]:
    """Clips of consecutive sampled frames of one shot, as many from each of as many videos as there are."""
    rows = [row for row in read_source(options.calibrate, SourceOptions()) if not row.problem]
    chosen = rows[:: max(1, len(rows) // options.calibrate_clips)]
    wanted = -(-options.calibrate_clips // max(1, len(chosen)))
    found: dict[int, list[Clip]] = {}
    with DecodePool(DecodeOptions(max_side=options.calibrate_max_side)) as pool:
        for clip in _clips(pool.frames(enumerate(chosen))):
            mine = found.setdefault(clip[0].video, [])
            mine += [clip] if len(mine) < wanted else []
            if len(mine) == wanted:
                pool.cancel(clip[0].video)
    return [clip for video in sorted(found) for clip in found[video]][: options.calibrate_clips]


def _clips(frames: Iterator[Frame | VideoEnd]) -> Iterator[Clip]:
    """Runs of frames of one shot that show something, none twice."""
    runs: dict[int, list[Frame]] = {}
    for item in frames:
        if isinstance(item, VideoEnd) or item.blank:
            continue
        run = runs.setdefault(item.video, [])
        if run and (run[-1].shot, run[-1].size_hw) != (item.shot, item.size_hw):
            run.clear()
        run.append(item)
        if len(run) == CLIP_FRAMES:
            yield tuple(run)
            run.clear()


def _parted(clips: Sequence[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Every other clip calibrates."""
    if len(clips) < 4:
        raise UsageError(
            f"--calibrate gave {len(clips)} clips of {CLIP_FRAMES} frames; accepted: a source of videos with 4 or "
            "more; give one that looks like what is to be labelled"
        )
    return list(clips[::2]), list(clips[1::2])


def write_int8(network: Path, kind: Kind, clips: Sequence[Clip], out: Path) -> None:
    """Quantise the convolutions of `network`, and what is between them, by what they see of `clips`."""
    from onnxruntime import quantization as quant

    class Reader(quant.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs = _inputs(kind, clips)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return next(self._inputs, None)

    with _quiet():
        quant.quantize_static(
            str(network),
            str(out),
            Reader(),
            quant_format=quant.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            reduce_range=True,  # seven bits: products of eight overflow on CPUs without VNNI
            activation_type=quant.QuantType.QUInt8,
            weight_type=quant.QuantType.QInt8,
            nodes_to_exclude=narrow_convolutions(network),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice to prepare the graph, which the export has done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _inputs(kind: Kind, clips: Sequence[Clip]) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    for clip in clips:
        images = to_tensor([frame.image for frame in clip])  # [K, 3, H, W]
        yield {CONTRACTS[kind].input: (images[None] if kind == "flow" else images).numpy()}


def narrow_convolutions(network: Path) -> list[str]:
    """Names of the convolutions that predict: those with few outputs, or that are the last before the CAM."""
    graph = onnx.load(network).graph
    outputs = {one.name: one.dims[0] for one in graph.initializer}
    last = {one.name for one in graph.output}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv" and (outputs.get(node.input[1], _NARROW) <= _NARROW or node.output[0] in last)
    ]


def judge(network: Path, smaller: Path, kind: Kind, clips: Sequence[Clip]) -> Int8Verdict:
    """What int8 changes; both files keep the contract."""
    whole, quantised = (OnnxNetwork(path, kind, RuntimeOptions()) for path in (network, smaller))
    gain = _gain(network, smaller, kind, clips[0])
    if kind == "classifier":
        agree, iou = _classifier_changes(Classifier(whole), Classifier(quantised), clips)
        return Int8Verdict(kind, len(clips), labels_agree=agree, mask_iou=iou, times_as_fast=gain)
    errors = [_epe(NetworkFlow(one)) for one in (whole, quantised)]
    return Int8Verdict(kind, len(clips), epe_increase=errors[1] / errors[0] - 1, times_as_fast=gain)


def _gain(network: Path, smaller: Path, kind: Kind, clip: Clip) -> float:
    """How many times as fast the smaller one runs a clip."""
    plain, other = (open_network(str(path), kind, RuntimeOptions()) for path in (network, smaller))
    return times_as_fast(plain, other, torch.from_numpy(next(_inputs(kind, [clip]))[CONTRACTS[kind].input]))


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


def _epe(flow: Callable[[Sequence[Sequence[ImageArray]]], Tensor]) -> float:
    """Mean end-point error, px, on generated pairs with exact flow."""
    errors = []
    for pair in layer_pairs((_SEED,), _EXACT_PAIRS):
        (found,) = flow([[pair.second, pair.first]])[0]  # [2, H, W], on `first`, pointing to `second`
        truth = torch.from_numpy(pair.flow_xy_px).permute(2, 0, 1)
        errors.append(float(endpoint_error(found, truth)[torch.from_numpy(pair.visible)].mean()))
    return float(np.mean(errors))


def _describe(path: Path, network: Path, **more: object) -> None:
    """Give a file the metadata of the one that it was made of, and more of its training."""
    told = {one.key: one.value for one in onnx.load(network).metadata_props}
    told["f2f.training"] = json.dumps({**json.loads(told.get("f2f.training", "{}")), **more})
    model = onnx.load(path)
    onnx.helper.set_model_props(model, told)
    onnx.save(model, path)
