"""Write a network by its contract as .onnx (opset 18) or .pt2, checked against torch before the file appears.

The TorchScript exporter is used on purpose: it writes the 81-slice cost volumes of PWC-Net in seconds where the
torch.export-based one takes minutes. Opset 18 is pinned: from opset 20 on GridSample's mode is spelled `linear`, which
TensorRT silently runs as nearest neighbour.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.fx.experimental._config as shape_config
from torch import Tensor, nn

from f2f.engine.errors import F2FError, UsageError
from f2f.engine.options import InferenceOptions, RuntimeOptions
from f2f.engine.runtimes.network import Kind
from f2f.engine.runtimes.open import network_file, open_network
from f2f.engine.runtimes.trial import relative_difference as relative_difference
from f2f.engine.runtimes.trial import trial_input as trial_input
from f2f.engine.runtimes.trust import sign
from f2f.engine.segmenter import Segmenter as EngineSegmenter
from f2f.training.card import NetworkCard
from f2f.training.checkpoint import (
    classifier_from_checkpoint,
    classifier_from_torchvision,
    flow_network,
    segmenter_network,
)
from f2f.training.options import ClassifierExport, FlowExport, PrecisionOptions
from f2f.training.precision import MOST_DIFFERENCE, PrecisionVerdict, need_onnx, reduce_precision
from f2f.training.segmentation.deeplab import FullSize, HalfFullSize
from f2f.training.segmentation.half import HalfCost, cost_on_images, cost_on_pictures
from f2f.training.segmentation.inference import SegmenterInMemory, as_trained
from f2f.training.segmentation.sources import read_images
from f2f.training.segmentation.training_options import SegmenterExport

OPSET = 18
PARITY = 1e-4
"""largest accepted difference to torch, relative to the largest value of an output"""
Runner = Callable[[Tensor], Sequence[Tensor]]
"""runs an exported file: input -> outputs"""


@dataclass(frozen=True)
class Contract:
    """What goes in and out of a kind of network, and which axes are free."""

    input: str
    outputs: tuple[str, ...]
    axes: dict[str, dict[int, str]]
    """per tensor: axis -> name of its free size"""
    trials: tuple[tuple[int, ...], ...]
    """input shapes that parity is checked on; the first is the one traced"""


CONTRACTS: dict[str, Contract] = {
    "classifier": Contract(
        input="image",
        outputs=("scores", "cam"),
        axes={
            "image": {0: "batch", 2: "height", 3: "width"},
            "scores": {0: "batch"},
            "cam": {0: "batch", 2: "cam_height", 3: "cam_width"},
        },
        trials=((2, 3, 160, 224), (1, 3, 213, 131), (3, 3, 96, 250)),
    ),
    "flow": Contract(
        input="frames",
        outputs=("flow",),
        axes={
            "frames": {0: "batch", 1: "frames", 3: "height", 4: "width"},
            "flow": {0: "batch", 1: "pairs", 3: "height", 4: "width"},
        },
        trials=((2, 3, 3, 128, 192), (1, 2, 3, 100, 141), (1, 5, 3, 130, 67)),
    ),
    "saliency": Contract(
        input="image",
        outputs=("saliency",),
        axes={
            "image": {0: "batch", 2: "height", 3: "width"},
            "saliency": {0: "batch", 2: "height", 3: "width"},
        },
        trials=((2, 3, 160, 224), (1, 3, 213, 131), (3, 3, 96, 250)),
    ),
    "segmenter": Contract(
        input="image",
        outputs=("logits",),
        axes={
            "image": {0: "batch", 2: "height", 3: "width"},
            "logits": {0: "batch", 2: "height", 3: "width"},
        },
        trials=((2, 3, 160, 224), (1, 3, 213, 131), (3, 3, 96, 250)),
    ),
}


OnVerdict = Callable[[PrecisionVerdict], None]
"""is told what less than float32 changes, where the options ask for it"""


def export_classifier(options: ClassifierExport, on_verdict: OnVerdict = lambda _: None) -> Path:
    """Write a classifier: a torchvision network joined by a class map, our own checkpoint, or an exported one."""

    def write(out: Path) -> Path:
        if options.network:
            return network_file(options.network, "classifier")
        made = classifier_from_torchvision if options.torchvision else classifier_from_checkpoint
        return export_network(*made(options), out)

    return in_precision("classifier", options.precision, write, options.out, on_verdict)


def export_flow(options: FlowExport, on_verdict: OnVerdict = lambda _: None) -> Path:
    """Write a flow network: our own checkpoint, a released PWC-Net, or an exported one."""

    def write(out: Path) -> Path:
        return network_file(options.network, "flow") if options.network else export_network(*flow_network(options), out)

    return in_precision("flow", options.precision, write, options.out, on_verdict)


def in_precision(
    kind: Kind, options: PrecisionOptions, write: Callable[[Path], Path], out: Path, on_verdict: OnVerdict
) -> Path:
    """What `write` writes, in less than float32 if that is asked for; `write` says where the file is."""
    if not options.reduces:
        return write(out)
    need_onnx(options, out)
    with TemporaryDirectory() as folder:
        on_verdict(reduce_precision(write(Path(folder) / f"whole{out.suffix}"), kind, options, out))
    return out


def export_segmenter(options: SegmenterExport, on_cost: Callable[[HalfCost], None] = lambda _: None) -> Path:
    """Write a segmenter: our own checkpoint. `on_cost` is told what float16 costs where the options ask for it."""
    network, card = segmenter_network(options)
    if not options.half:
        return export_network(network, card, options.out)
    half = HalfFullSize(network)
    with TemporaryDirectory() as folder:
        trial = export_network(half, card, Path(folder) / f"trial{options.out.suffix}", network)
        cost = _cost(options, network, trial, as_trained(card.training))
    on_cost(cost)
    return export_network(half, replace(card, training=card.training | cost.facts()), options.out, network)


def _cost(options: SegmenterExport, network: FullSize, half: Path, inference: InferenceOptions) -> HalfCost:
    whole = EngineSegmenter(SegmenterInMemory(network), inference)
    halved = EngineSegmenter(open_network(str(half), "segmenter", RuntimeOptions()), inference)
    if options.images is not None:
        return cost_on_images(whole, halved, read_images(options.images, options.list))
    trials = [trial_input((1, *shape[1:]))[0] for shape in CONTRACTS["segmenter"].trials]
    return cost_on_pictures(whole, halved, [(255 * one).byte().permute(1, 2, 0).numpy() for one in trials])


def export_network(network: nn.Module, card: NetworkCard, out: Path, whole: nn.Module | None = None) -> Path:
    """Write `network` to `out` (.onnx or .pt2); nothing is written unless it agrees with torch.

    Args:
        network: what is written.
        card: what the file says of it.
        out: where to.
        whole: where the network is in float16, itself in float32: what it is compared with.
    """
    writers = {".onnx": _write_onnx, ".pt2": _write_pt2}
    if out.suffix not in writers:
        raise UsageError(f"--out {out} has the suffix {out.suffix!r}; accepted: .onnx, .pt2")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    try:
        with torch.no_grad():
            run = writers[out.suffix](network.eval().cpu(), card, partial)
            _check_parity(whole or network, CONTRACTS[card.kind], run, MOST_DIFFERENCE if whole else PARITY)
        partial.replace(out)
        if out.suffix == ".pt2":
            sign(out)  # code: the engine loads it unasked only where it was made
    finally:
        partial.unlink(missing_ok=True)
    return out


def _write_onnx(network: nn.Module, card: NetworkCard, path: Path) -> Runner:
    import onnx

    contract = CONTRACTS[card.kind]
    with quiet_exporter():
        torch.onnx.export(
            network,
            (trial_input(contract.trials[0]),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[contract.input],
            output_names=list(contract.outputs),
            dynamic_axes=contract.axes,
        )
    model = onnx.load(path)
    check_onnx(model)
    onnx.helper.set_model_props(model, card.metadata())
    onnx.save(model, path)
    onnx.checker.check_model(str(path))
    return onnx_runner(path)


def check_onnx(model: Any) -> None:
    """Refuse what other runtimes are known to get wrong: another opset, GridSample spelled otherwise."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        raise F2FError(f"the exported graph uses the operator sets {opsets}; accepted: only the standard one, {OPSET}")
    for node in model.graph.node:
        if node.op_type == "GridSample":
            modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
            if modes != [b"bilinear"]:
                raise F2FError(f"GridSample {node.name} has the mode {modes}; accepted: bilinear")


def onnx_runner(path: Path) -> Runner:
    """Runs a file by ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "the parity check needs ONNX Runtime, which is not installed; pip install 'f2f[cpu]'"
        ) from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: [torch.from_numpy(output) for output in session.run(None, {name: image.numpy()})]


def _write_pt2(network: nn.Module, card: NetworkCard, path: Path) -> Runner:
    contract = CONTRACTS[card.kind]
    free = dict.fromkeys(contract.axes[contract.input], torch.export.Dim.DYNAMIC)
    # Without it, a free size is refused where it may be 1: one image, or one pair of frames.
    patch: Any = shape_config.patch  # type: ignore[attr-defined]
    with quiet_exporter(), patch(backed_size_oblivious=True):
        program = torch.export.export(network, (trial_input(contract.trials[0]),), dynamic_shapes=(free,), strict=False)
    torch.export.save(program, path, extra_files={"f2f.json": json.dumps(card.metadata())})
    run = torch.export.load(path).module()

    def outputs(image: Tensor) -> Sequence[Tensor]:
        result = run(image)
        return [result] if isinstance(result, Tensor) else list(result)

    return outputs


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hush what the exporters say about themselves (the TorchScript one's deprecation, shape solver noise)."""
    solver = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = solver.level
    solver.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        solver.setLevel(level)


def _check_parity(network: nn.Module, contract: Contract, run: Runner, most: float) -> None:
    network.eval().cpu()
    for shape in contract.trials:
        image = trial_input(shape)
        expected = network(image)
        expected = (expected,) if isinstance(expected, Tensor) else expected
        for name, wanted, given in zip(contract.outputs, expected, run(image), strict=True):
            check_difference(f"{name} of a {tuple(shape)} input", wanted, given, most)


def check_difference(name: str, expected: Tensor, given: Tensor, most: float) -> None:
    """Refuse an exported network whose output is not the expected one; see `relative_difference`."""
    difference = relative_difference(expected, given)
    if not difference <= most:
        raise F2FError(
            f"the exported network differs from torch: {name} by {difference:.1e}; accepted: {most:.0e}; nothing was "
            "written"
        )
