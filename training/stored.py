"""What a graph's stored tensors tell of it: its weights, and which convolutions are to stay in float32."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, TensorProto

_NARROW = 4
"""convolutions with so few outputs predict scores or flow; they cost little and stay as they are"""
_OUTPUT_AXES = {"Conv": 0, "ConvTranspose": 1}
"""of their weights"""


def stored_tensors(graph: GraphProto) -> dict[str, TensorProto]:
    """The tensors whose values are in the file, by all their names: equal ones are written once, named by Identity."""
    found = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def narrow_convolutions(model: ModelProto) -> list[str]:
    """Names of the convolutions that predict: those with few outputs, or that are the last before the CAM."""
    stored, last = stored_tensors(model.graph), {one.name for one in model.graph.output}

    def outputs(weights: str, operator: str) -> int:
        return stored[weights].dims[_OUTPUT_AXES[operator]] if weights in stored else 0

    return [
        node.name
        for node in model.graph.node
        if node.op_type in _OUTPUT_AXES and (node.output[0] in last or outputs(node.input[1], node.op_type) <= _NARROW)
    ]
