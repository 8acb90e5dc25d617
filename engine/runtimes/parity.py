"""The self-check: a runtime on a GPU gives what ONNX Runtime gives on the CPU, or is not used.

Accepted is a difference, relative to the largest value of an output, of 1e-3 for networks in float32 (the GPU's kernels
add in another order) and 3e-2 for those that compute anything in less (rounding to 11 bits and fewer, layer by layer).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch

from f2f.engine.errors import NetworkError
from f2f.engine.runtimes.network import CONTRACTS, Network
from f2f.engine.runtimes.onnx_graph import fixed_axes, is_reduced
from f2f.engine.runtimes.onnx_runtime import import_onnxruntime, open_session
from f2f.engine.runtimes.trial import relative_difference, trial_input

FLOAT32_TOLERANCE, REDUCED_TOLERANCE = 1e-3, 3e-2


def small_trials(kind: str, size_multiple: int) -> list[tuple[int, ...]]:
    """Two input shapes that are quick to try."""
    shapes = [(2, 96, 128), (1, 112, 80)]
    sizes = [(batch, *(-(-side // size_multiple) * size_multiple for side in size_hw)) for batch, *size_hw in shapes]
    return [_shape(kind, batch, height, width) for batch, height, width in sizes]


def _shape(kind: str, batch: int, height: int, width: int) -> tuple[int, ...]:
    return (batch, 3, 3, height, width) if CONTRACTS[kind].input_rank == 5 else (batch, 3, height, width)


def check_outputs(network: Network, graph: bytes, shapes: Sequence[tuple[int, ...]]) -> None:
    """Compare a network with ONNX Runtime on the CPU, on smooth noise of every shape.

    Args:
        network: what is checked.
        graph: its ONNX file's content.
        shapes: input shapes; axes that are fixed in the graph are that.

    Raises:
        NetworkError: an output differs by more than is accepted.
    """
    contract = CONTRACTS[network.info.kind]
    session = open_session(import_onnxruntime(), graph, f"the {network.info.kind} network", threads=0)
    model = onnx.load_from_string(graph)
    most = REDUCED_TOLERANCE if is_reduced(model) else FLOAT32_TOLERANCE
    for free in shapes:
        shape = tuple(fixed or size for fixed, size in zip(fixed_axes(model), free, strict=True))
        batch = trial_input(shape)
        expected = session.run(None, {contract.input: batch.numpy()})
        for name, wanted, given in zip(contract.outputs, expected, network(batch), strict=True):
            difference = relative_difference(torch.from_numpy(wanted), given)
            if not difference <= most:
                raise NetworkError(
                    f"{network.info.runtime} gives another {name} than ONNX Runtime on the CPU, for a "
                    f"{network.info.kind} input of {'x'.join(map(str, shape))}: by {difference:.1e} of its largest "
                    f"value; accepted: {most:.0e}; it is not used; give --runtime onnxruntime-cpu"
                )
