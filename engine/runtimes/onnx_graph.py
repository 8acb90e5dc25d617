"""What is in an ONNX file: its nodes, those of sub-graphs too, and the types of its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from f2f.engine.errors import NetworkError

_REDUCED = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


def read_graph(data: bytes, path: Path) -> ModelProto:
    """A graph, checked against the ONNX standard.

    Raises:
        NetworkError: it is none.
    """
    try:
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's and the parser's share no base class
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise NetworkError(f"{path} cannot be opened as ONNX ({first_line[:300]}); export it again") from error
    return model


def metadata_of(model: ModelProto) -> dict[str, str]:
    """What a file says of itself."""
    return {entry.key: entry.value for entry in model.metadata_props}


def is_reduced(model: ModelProto) -> bool:
    """Whether any of a graph is computed in less than float32."""
    graph = OnnxGraph.of(model)
    return graph.reduced or graph.quantised


def is_quantised(model: ModelProto) -> bool:
    """Whether any of a graph is computed in 8 bits."""
    return OnnxGraph.of(model).quantised


def fixed_axes(model: ModelProto) -> tuple[int | None, ...]:
    """Sizes of the axes of a network's input; None where they are free."""
    axes = model.graph.input[0].type.tensor_type.shape.dim
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)


@dataclass
class OnnxGraph:
    """A model's nodes, those of sub-graphs and functions too, and what is known of its tensors."""

    nodes: list[NodeProto] = field(default_factory=list)
    types: dict[str, int] = field(default_factory=dict)
    """tensor -> its element type"""
    ranks: dict[str, int] = field(default_factory=dict)
    external: list[str] = field(default_factory=list)
    """initialisers that are not in the file"""
    constants: set[str] = field(default_factory=set)
    """tensors whose value is in the file"""

    @classmethod
    def of(cls, model: ModelProto) -> OnnxGraph:
        """Of a model, its types inferred."""
        found = cls()
        found._add(onnx.shape_inference.infer_shapes(model).graph)
        for function in model.functions:
            found.nodes.extend(function.node)
        return found

    @property
    def reduced(self) -> bool:
        """Whether a tensor is in float16 or bfloat16."""
        return not _REDUCED.isdisjoint(self.types.values())

    @property
    def quantised(self) -> bool:
        """Whether a tensor is in 8 bits."""
        return any(node.op_type == "QuantizeLinear" for node in self.nodes)

    def _add(self, graph: GraphProto) -> None:
        for value in (*graph.input, *graph.output, *graph.value_info):
            self.types[value.name] = value.type.tensor_type.elem_type
            if value.type.tensor_type.HasField("shape"):
                self.ranks[value.name] = len(value.type.tensor_type.shape.dim)
        for tensor in graph.initializer:
            self.types[tensor.name] = tensor.data_type
            self.constants.add(tensor.name)
            if tensor.data_location == TensorProto.EXTERNAL:
                self.external.append(tensor.name)
        for node in graph.node:
            self.nodes.append(node)
            if node.op_type == "Constant" or (node.op_type == "Identity" and node.input[0] in self.constants):
                self.constants.update(node.output)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    self._add(inner)


def value_of(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node, or the default."""
    found: list[AttributeProto] = [attribute for attribute in node.attribute if attribute.name == name]
    return onnx.helper.get_attribute_value(found[0]) if found else default


def text_of(node: NodeProto, name: str, default: str) -> str:
    """An attribute of a node that is text, or the default."""
    value = value_of(node, name, default)
    return value.decode() if isinstance(value, bytes) else str(value)
