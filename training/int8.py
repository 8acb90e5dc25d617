"""Int8 for CPUs: an exported network's convolutions, quantised by what they see of the user's own frames.

The graph holds the precision (QuantizeLinear / DequantizeLinear around convolutions), so whatever runs `.onnx` files
runs it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from f2f.engine.runtimes.network import Kind
from f2f.training.clips import Clip, inputs_of
from f2f.training.stored import narrow_convolutions

_QUANTISED = ["Conv", "Relu", "LeakyRelu", "MaxPool"]
"""what stays in 8 bits from one convolution to the next; by themselves, these would spend half of the range of a ReLU's
input on what it throws away"""


def write_int8(network: Path, kind: Kind, clips: Sequence[Clip], out: Path) -> None:
    """Quantise the convolutions of `network`, and what is between them, by what they see of `clips`."""
    from onnxruntime import quantization as quant

    class Reader(quant.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs = inputs_of(kind, clips)

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
            nodes_to_exclude=narrow_convolutions(onnx.load(network)),
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
