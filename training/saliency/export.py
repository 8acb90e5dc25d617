"""Write a saliency network by its contract: our own checkpoint, or a released network in the manner of U²-Net."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import Tensor

from f2f.engine.errors import F2FError, UsageError
from f2f.training.card import NetworkCard
from f2f.training.export import (
    CONTRACTS,
    PARITY,
    OnVerdict,
    Runner,
    check_difference,
    export_network,
    in_precision,
    onnx_runner,
    trial_input,
)
from f2f.training.options import PrecisionOptions
from f2f.training.saliency.files import own_theta_b, read_saliency
from f2f.training.saliency.options import SaliencyExport
from f2f.training.saliency.released import After, Before, Released, joined, read_released


def export_saliency(options: SaliencyExport, on_verdict: OnVerdict = lambda _: None) -> Path:
    """Write the network that the options name; nothing is written unless it agrees with what it was made of.

    Raises:
        UsageError: it is missing, or something else.
        F2FError: the file would differ.
    """
    precision = PrecisionOptions(half=options.half)

    def write(out: Path) -> Path:
        return _write(replace(options, out=out))

    return in_precision("saliency", precision, write, options.out, on_verdict)


def _write(options: SaliencyExport) -> Path:
    """In float32."""
    if options.onnx is not None:
        return _export_released(options, options.onnx)
    assert options.checkpoint is not None
    network, training = read_saliency(options.checkpoint, options.side_px)
    card = NetworkCard("saliency", defaults=own_theta_b(training) | _given(options), training=training)
    return export_network(network, card, options.out)


def _given(options: SaliencyExport) -> dict[str, float]:
    return {} if options.theta_b is None else {"theta_b": options.theta_b}


def _export_released(options: SaliencyExport, path: Path) -> Path:
    if options.out.suffix != ".onnx":
        raise UsageError(f"--out {options.out} has the suffix {options.out.suffix!r}; accepted with --onnx: .onnx")
    released = read_released(path, options.output, options.side_px)
    original = _running(released)
    model = joined(released, options.style, options.stretch)
    facts = {"style": options.style, "stretch": options.stretch} | released.facts()
    onnx.helper.set_model_props(model, NetworkCard("saliency", defaults=_given(options), training=facts).metadata())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_name(f".{options.out.stem}.partial.onnx")
    try:
        onnx.save(model, partial)
        onnx.checker.check_model(str(partial))
        _check_parity(released, original, options, partial)
        partial.replace(options.out)
    finally:
        partial.unlink(missing_ok=True)
    return options.out


def _running(released: Released) -> Runner:
    """The released network itself."""
    try:
        run = onnx_runner(released.path)
        run(torch.rand(1, 3, *released.size_hw))
    except F2FError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"--onnx {released.path} does not run ({first[:300]}); give another file") from error
    return run


@torch.no_grad()
def _check_parity(released: Released, original: Runner, options: SaliencyExport, path: Path) -> None:
    """The file beside the released one with what it wants done by torch."""
    before, after = Before(options.style, released.size_hw), After(options.style, options.stretch)
    outputs = [entry.name for entry in released.model.graph.output]
    made = onnx_runner(path)
    for shape in CONTRACTS["saliency"].trials:
        image = trial_input((1, *shape[1:]))
        prepared, rows, columns = before(image)
        expected = after(_map(released, original(prepared)[outputs.index(released.output)]), rows, columns)
        check_difference(f"saliency of a {tuple(image.shape)} input", expected, made(image)[0], PARITY)


def _map(released: Released, found: Tensor) -> Tensor:
    """The output; refuses what is no map of one image."""
    if found.dim() != 4 or tuple(found.shape[:2]) != (1, 1) or tuple(found.shape[2:]) != released.size_hw:
        raise UsageError(
            f"output {released.output} of {released.path} is {list(found.shape)} for one image; accepted: "
            f"[1,1,{released.size_hw[0]},{released.size_hw[1]}]; name another one with --output"
        )
    return found
