"""The self-check: a runtime on a GPU gives what ONNX Runtime gives on the CPU, or is not used.

Accepted is a difference, relative to the largest value of an output, of 1e-3 for networks in float32 (the GPU's kernels
add in another order) and 3e-2 for those that compute anything in less (rounding to 11 bits and fewer, layer by layer).
Of flow in 8 bits the means are compared: what is rounded otherwise on a coarse level moves a few pixels of the finest
by far, and neither runtime is the one that is right there. Runtimes differ by 1e-2 then, 8 bits and float32 by 2e-2,
and a faulty GridSample makes 2e-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import ModelProto
from torch import Tensor

from f2f.engine.errors import NetworkError, VideoError
from f2f.engine.runtimes.network import CONTRACTS, Network
from f2f.engine.runtimes.onnx_graph import fixed_axes, is_quantised, is_reduced
from f2f.engine.runtimes.onnx_runtime import import_onnxruntime, open_session
from f2f.engine.runtimes.trial import mean_difference, relative_difference, trial_input

FLOAT32_TOLERANCE, REDUCED_TOLERANCE = 1e-3, 3e-2
_ENLARGED = (1, 2, 4)
Run = Callable[[Tensor], Sequence[Tensor]]


def small_trials(kind: str, size_multiple: int, enlarged: int = 1) -> list[tuple[int, ...]]:
    """Two input shapes that are quick to try; their sides are so many times as large."""
    shapes = [(2, 96 * enlarged, 128 * enlarged), (1, 112 * enlarged, 80 * enlarged)]
    sizes = [(batch, *(-(-side // size_multiple) * size_multiple for side in size_hw)) for batch, *size_hw in shapes]
    return [_shape(kind, batch, height, width) for batch, height, width in sizes]


def _shape(kind: str, batch: int, height: int, width: int) -> tuple[int, ...]:
    return (batch, 3, 3, height, width) if CONTRACTS[kind].input_rank == 5 else (batch, 3, height, width)


@dataclass(frozen=True)
class Measure:
    """How far an output is from another."""

    of: str
    """what of the output the difference is relative to"""
    difference: Callable[[Tensor, Tensor], float]


LARGEST = Measure("largest value", relative_difference)
MEAN = Measure("mean size", mean_difference)


@dataclass(frozen=True)
class Reference:
    """What a network is compared with."""

    name: str
    run: Run
    instead: str
    """what to give where the network fails"""
    fixed: Sequence[int | None] = (None,) * 5
    """axes of the input that the file fixes"""


def check_outputs(network: Network, graph: bytes, shapes: Sequence[tuple[int, ...]], whole: Run | None = None) -> None:
    """Compare a network with ONNX Runtime on the CPU, on smooth noise of every shape.

    Args:
        network: what is checked.
        graph: its ONNX file's content.
        shapes: input shapes; axes that are fixed in the graph are that, and what is too small for it is enlarged.
        whole: the graph in ONNX Runtime; opened if it is not given.

    Raises:
        NetworkError: an output differs by more than is accepted, or there is none.
    """
    model, kind = onnx.load_from_string(graph), network.info.kind
    most = REDUCED_TOLERANCE if is_reduced(model) else FLOAT32_TOLERANCE
    run = whole or _in_onnxruntime(graph, kind)
    reference = Reference("ONNX Runtime on the CPU", run, "--runtime onnxruntime-cpu", fixed_axes(model))
    compare(network, reference, shapes, most, MEAN if is_coarse_flow(kind, model) else LARGEST)


def _in_onnxruntime(graph: bytes, kind: str) -> Run:
    session = open_session(import_onnxruntime(), graph, f"the {kind} network", threads=0)

    def run(batch: Tensor) -> list[Tensor]:
        return [torch.from_numpy(one) for one in session.run(None, {CONTRACTS[kind].input: batch.numpy()})]

    return run


def is_coarse_flow(kind: str, model: ModelProto) -> bool:
    """Whether a network gives flow in 8 bits, of which the means are compared, in frames that are not the smallest."""
    return kind == "flow" and is_quantised(model)


def compare(
    network: Network, reference: Reference, shapes: Sequence[tuple[int, ...]], most: float, measure: Measure = LARGEST
) -> None:
    """Compare a network with another, as `check_outputs` does; `most` is the accepted difference.

    Raises:
        NetworkError: an output differs by more than is accepted, or there is none.
    """
    kind, runtime = network.info.kind, network.info.runtime
    for name, shape, difference in differences(network, reference, shapes, measure):
        if not difference <= most:
            raise NetworkError(
                f"{runtime} gives another {name} than {reference.name}, for a {kind} input of "
                f"{'x'.join(map(str, shape))}: by {difference:.1e} of its {measure.of}; accepted: {most:.0e}; it is "
                f"not used; give {reference.instead}"
            )


def differences(
    network: Network, reference: Reference, shapes: Sequence[tuple[int, ...]], measure: Measure = LARGEST
) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """How far a network is from another, on smooth noise: output, input shape, difference as measured.

    Raises:
        NetworkError: one of them gives nothing.
    """
    kind, runtime = network.info.kind, network.info.runtime
    for shape in shapes:
        batch, expected = _expected(reference, kind, shape)
        try:
            found = network(batch)
        except VideoError as error:
            raise NetworkError(f"{runtime} does not do what {reference.name} does: {error.detail}") from error
        for name, wanted, given in zip(CONTRACTS[kind].outputs, expected, found, strict=True):
            yield name, tuple(batch.shape), measure.difference(wanted, given)


def _expected(reference: Reference, kind: str, shape: tuple[int, ...]) -> tuple[Tensor, Sequence[Tensor]]:
    """A batch that the reference takes, of a shape or a larger one, and its outputs."""
    refusals = []
    for factor in _ENLARGED:
        larger = (*shape[:-2], *(side * factor for side in shape[-2:]))
        batch = trial_input([one or size for one, size in zip(reference.fixed, larger, strict=False)])
        try:
            return batch, reference.run(batch)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            refusals.append(next(iter(str(error).splitlines()), type(error).__name__))
    raise NetworkError(
        f"the {kind} network cannot be checked: {reference.name} refuses inputs of {shape} and larger "
        f"({refusals[-1][:300]}); give {reference.instead}"
    )
