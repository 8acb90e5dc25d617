"""torch: `.pt2` files from torch.export. They are code, so only this installation's own are loaded unasked.

On the GPU where there is one, in bfloat16 or compiled where that is asked for: each of these is compared with the plain
program on the CPU before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import RuntimeOptions, TorchOptions
from f2f.engine.runtimes import cuda
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network, network_failure, parse_info
from f2f.engine.runtimes.parity import FLOAT32_TOLERANCE, REDUCED_TOLERANCE, Reference, compare, small_trials
from f2f.engine.runtimes.telling import tell_once
from f2f.engine.runtimes.trust import is_ours


@dataclass(frozen=True)
class Form:
    """How a program is run."""

    device: str = "cpu"
    precision: torch.dtype = torch.float32
    """of what torch.autocast puts into less; weights stay in float32"""
    compiled: bool = False

    @classmethod
    def wanted(cls, options: TorchOptions) -> Form:
        """As asked for, on the GPU where there is one."""
        device = "cpu" if cuda.gpu_obstacle() else "cuda"
        return cls(device, getattr(torch, options.torch_precision), options.torch_compile)

    def __str__(self) -> str:
        words = [f"torch {torch.__version__}", "CPU" if self.device == "cpu" else f"CUDA {cuda.gpu_name()}"]
        words += ["bfloat16"] if self.precision != torch.float32 else []
        return " ".join([*words, "compiled"] if self.compiled else words)


PLAIN = Form()
_INSTEAD = "--torch-precision float32 --no-torch-compile"


class TorchNetwork:
    """A `.pt2` program run by torch."""

    def __init__(self, path: Path, kind: Kind, options: RuntimeOptions, form: Form = PLAIN) -> None:
        if not options.trust_code and not is_ours(path):
            raise UsageError(
                f"{path} is code that this installation did not export; export it here with `f2f export {kind}`, or "
                "give --trust-code if you trust where it comes from"
            )
        program, extra = _load(path)
        self.info = parse_info(path, _metadata(path, extra), kind, str(form))
        self._outputs = len(CONTRACTS[kind].outputs)
        self._form, self._run = form, _made(program, form)

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the program on a float32 batch; raises `VideoError` where torch refuses it."""
        form, images = self._form, batch.to(self._form.device)
        images = images.contiguous(memory_format=torch.channels_last) if _by_channels(form, images) else images
        reduced = torch.autocast(form.device, form.precision, enabled=form.precision != torch.float32)
        with cuda.gpu_errors(self.info.runtime):
            try:
                with torch.inference_mode(), reduced:
                    outputs = self._run(images)
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except (RuntimeError, AssertionError, ValueError) as error:
                raise network_failure(self.info, batch, error) from error
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert len(outputs) == self._outputs, f"{len(outputs)} outputs, expected {self._outputs}"
        return tuple(output.float().to(batch.device) for output in outputs)


def open_torch(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """A program in the form that is asked for, which gives what the plain program gives.

    Where only the GPU fails to, the program runs on the CPU, which is said once.

    Raises:
        UsageError: the program is not trusted.
        NetworkError: it is none, or bfloat16 or compiling was asked for and gives other numbers.
    """
    plain, form = TorchNetwork(path, kind, options), Form.wanted(options.torch)
    if form == PLAIN:
        return plain
    try:
        network = TorchNetwork(path, kind, options, form)
        reference = Reference("the plain program on the CPU", plain, _INSTEAD)
        most = FLOAT32_TOLERANCE if form.precision == torch.float32 else REDUCED_TOLERANCE
        compare(network, reference, small_trials(kind, network.info.size_multiple), most)
    except NetworkError as error:
        if form != Form(form.device):
            raise
        tell_once(f"networks run on the CPU although there is a GPU: {error}")
        return plain
    return network


def _made(program: torch.export.ExportedProgram, form: Form) -> Callable[[Tensor], Any]:
    if form == PLAIN:
        return program.module()
    try:
        moved = program if form.device == "cpu" else move_to_device_pass(program, form.device)
        module = moved.module().to(memory_format=torch.channels_last)
        compiled: Callable[[Tensor], Any] = torch.compile(module, dynamic=True) if form.compiled else module
        return compiled
    except Exception as error:  # a program may hold anything
        raise NetworkError(f"{form} does not take the program ({error}); give {_INSTEAD}") from error


def _by_channels(form: Form, images: Tensor) -> bool:
    return form != PLAIN and images.dim() == 4


def _load(path: Path) -> tuple[torch.export.ExportedProgram, str]:
    extra = {"f2f.json": ""}
    try:
        return torch.export.load(str(path), extra_files=extra), extra["f2f.json"]
    except Exception as error:  # the loader raises whatever its parts raise
        raise NetworkError(f"{path} cannot be opened as a torch program ({error}); export it again") from error


def _metadata(path: Path, text: str) -> dict[str, str]:
    try:
        entries = json.loads(text or "{}")
        return {str(name): str(value) for name, value in entries.items()}
    except (ValueError, AttributeError) as error:
        raise NetworkError(
            f"{path} has metadata (f2f.json) that is no JSON object ({error}); export it again"
        ) from error
