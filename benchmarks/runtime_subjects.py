"""The networks of the runtimes' benchmark, and each as every runtime has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from engine_networks import bundled_classifier, bundled_flow
from torch import Tensor, nn

from f2f.engine.errors import F2FError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import Kind
from f2f.engine.runtimes.onnx_runtime import OnnxNetwork
from f2f.engine.runtimes.open import bundled, open_network
from f2f.training.card import NetworkCard
from f2f.training.classifier import CamClassifier
from f2f.training.clips import clips_of
from f2f.training.export import export_network
from f2f.training.int8 import write_int8
from f2f.training.options import PrecisionOptions
from f2f.training.precision import reduce_precision
from f2f.training.pwcnet import FlowNetwork, PWCNet
from f2f.training.saliency.files import SaliencyMap
from f2f.training.saliency.network import SaliencyNetwork
from f2f.training.segmentation.deeplab import FullSize, segmenter
from f2f.training.synth import CLASSES

Run = Callable[[Tensor], tuple[Tensor, ...]]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Subject:
    """A network that is run."""

    kind: Kind
    build: Callable[[], nn.Module]
    shapes: Sequence[Shape]
    trained: bool = False
    """whether it is a bundled one; others have random weights, and show speed alone"""

    def module(self) -> nn.Module:
        """In torch, for inference; random weights are the same every time."""
        torch.manual_seed(0)
        return self.build().eval()


SUBJECTS: Mapping[str, Subject] = {
    "bundled classifier": Subject(
        "classifier",
        lambda: bundled_classifier(bundled("classifier")),
        ((1, 3, 240, 426), (8, 3, 240, 426), (1, 3, 375, 500)),
        trained=True,
    ),
    "bundled flow": Subject(
        "flow", lambda: bundled_flow(bundled("flow")), ((1, 5, 3, 240, 426), (4, 2, 3, 240, 426)), trained=True
    ),
    "small saliency": Subject(
        "saliency", lambda: SaliencyMap(SaliencyNetwork(backbone_name="small"), 0), ((1, 3, 240, 426), (4, 3, 240, 426))
    ),
    "small segmenter": Subject(
        "segmenter", lambda: FullSize(segmenter("small", CLASSES)), ((1, 3, 240, 426), (4, 3, 240, 426))
    ),
    "VGG-16 classifier": Subject(
        "classifier", lambda: CamClassifier(CLASSES, backbone_name="vgg16"), ((1, 3, 321, 321), (1, 3, 384, 640))
    ),
    "PWC-Net": Subject("flow", lambda: FlowNetwork(PWCNet()), ((1, 2, 3, 321, 321), (1, 2, 3, 384, 640))),
}
WHOLE, SECTIONS = "onnxruntime", "onnxruntime in sections"
"""ONNX Runtime as anybody would run a file, and as the engine runs flow: cost volumes by its own kernel"""
RUNTIMES = (WHOLE, SECTIONS, "openvino", "torch eager", "torch compile", "torch .pt2")
"""the first is the one that others are compared with"""


def exported(name: str, folder: Path) -> dict[str, Path]:
    """A network's files in float32: onnx and pt2."""
    subject, stem = SUBJECTS[name], name.replace(" ", "-")
    files = {"float32": folder / f"{stem}.onnx", "pt2": folder / f"{stem}.pt2"}
    module = subject.module().to(memory_format=torch.contiguous_format)
    if subject.trained:
        files["float32"].write_bytes(bundled(subject.kind).read_bytes())
        info = open_network(str(files["float32"]), subject.kind, RuntimeOptions()).info
        card = NetworkCard(subject.kind, info.classes, dict(info.defaults), {})
    else:
        classes = tuple(CLASSES) if subject.kind in {"classifier", "segmenter"} else ()
        card = NetworkCard(subject.kind, classes, {}, {})
        export_network(module, card, files["float32"])
    export_network(module, card, files["pt2"])
    return files


def write_files(name: str, folder: Path, calibrate: str) -> dict[str, Path]:
    """A network's files: float32, pt2, and int8 where it passes its gates (or has random weights, and none)."""
    files, kind = exported(name, folder), SUBJECTS[name].kind
    smaller, options = files["float32"].with_suffix(".int8.onnx"), PrecisionOptions(int8=True, calibrate=calibrate)
    if SUBJECTS[name].trained:
        verdict = reduce_precision(files["float32"], kind, options, smaller)
        print(f"{name}: {verdict}", flush=True)
        return files if verdict.why_not else {**files, "int8": smaller}
    write_int8(files["float32"], kind, clips_of(options)[::4], smaller)
    return {**files, "int8": smaller}


def opened(name: str, runtime: str, precision: str, files: Mapping[str, Path]) -> Run | None:
    """A network as a runtime has it; None where there is no such thing, or the engine would refuse it."""
    subject, threads = SUBJECTS[name], torch.get_num_threads()
    if runtime.startswith("torch"):
        if precision != "float32":
            return None
        if runtime == "torch .pt2":
            return open_network(str(files["pt2"]), subject.kind, RuntimeOptions(runtime="torch", trust_code=True))
        module = subject.module().to(memory_format=torch.channels_last)
        return without_gradients(torch.compile(module) if runtime == "torch compile" else module)
    if precision not in files or (runtime == SECTIONS and subject.kind != "flow"):
        return None
    if runtime == WHOLE:
        return OnnxNetwork(files[precision], subject.kind, RuntimeOptions(threads=threads))
    asked = RuntimeOptions(runtime="openvino" if runtime == "openvino" else "onnxruntime-cpu", threads=threads)
    try:
        return open_network(str(files[precision]), subject.kind, asked)
    except F2FError as error:
        print(f"{name}, {runtime}, {precision}: {error}", flush=True)
        return None


def without_gradients(module: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> Run:
    """A module for inference; its outputs are a tuple."""

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            found = module(batch)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    return run
