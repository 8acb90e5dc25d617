"""Float16 for GPUs: an exported network's convolutions and what only carries their results, in half precision.

The graph holds the precision, so TensorRT (strongly typed) and ONNX Runtime run it as it stands. All else stays in
float32: images, scores, CAMs and flow, the sums of cost volumes, coordinates and sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from f2f.engine.runtimes.onnx_graph import OnnxGraph
from f2f.training.stored import narrow_convolutions, stored_tensors

_COMPUTING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_CARRYING = {
    *("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Add", "Mul"),
    *("Concat", "MaxPool", "AveragePool", "Identity", "Dropout"),
}
"""stay in float16 where all that goes in is; by themselves they would not be worth the conversion"""


def write_float16(network: Path, out: Path) -> None:
    """Write `network`, an exported `.onnx` in float32, to `out` in float16."""
    model = onnx.load(network)
    _Halving(model, frozenset(narrow_convolutions(model))).run()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)


@dataclass
class _Halving:
    """Every tensor has two names at most, its own in float32 and another in float16; each is made where it is used."""

    model: ModelProto
    precise: frozenset[str]
    """nodes that stay in float32"""
    nodes: list[NodeProto] = field(default_factory=list)
    """of the new graph, in order"""
    halved: dict[str, str] = field(default_factory=dict)
    """tensor -> its name in float16"""
    computed: set[str] = field(default_factory=set)
    """tensors that a node gives in float16"""
    whole: set[str] = field(default_factory=set)
    """those of them that are needed, and given, in float32 as well"""

    def run(self) -> None:
        """Rewrite the graph."""
        graph = self.model.graph
        self._types = OnnxGraph.of(self.model).types
        self._weights = stored_tensors(graph)
        for node in graph.node:
            if self._is_halved(node):
                self._halve(node)
            else:
                self._keep(node)
        self.nodes += [self._restored(one.name) for one in graph.output if self._is_missing(one.name)]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        self._drop_unused()

    def _is_halved(self, node: NodeProto) -> bool:
        given = [name for name in node.input if name]
        if node.name in self.precise or any(self._types.get(name) != TensorProto.FLOAT for name in given):
            return False
        if node.op_type in _COMPUTING:
            return True
        moving = [name for name in given if name not in self._weights]
        return node.op_type in _CARRYING and bool(moving) and self.computed.issuperset(moving)

    def _halve(self, node: NodeProto) -> None:
        inputs = [self._in_float16(name) if name else "" for name in node.input]
        for name in node.output:
            self.halved[name] = f"{name}.float16"
            self.computed.add(name)
        node.output[:] = [self.halved[name] for name in node.output]
        node.input[:] = inputs
        self.nodes.append(node)

    def _keep(self, node: NodeProto) -> None:
        self.nodes += [self._restored(name) for name in dict.fromkeys(_reads(node)) if self._is_missing(name)]
        self.nodes.append(node)

    def _in_float16(self, name: str) -> str:
        if name not in self.halved:
            self.halved[name] = f"{name}.float16"
            if name in self._weights:
                values = numpy_helper.to_array(self._weights[name])
                self.model.graph.initializer.append(_rounded(values, self.halved[name]))
            else:
                self.nodes.append(_cast(name, self.halved[name], TensorProto.FLOAT16))
        return self.halved[name]

    def _is_missing(self, name: str) -> bool:
        return name in self.computed - self.whole

    def _restored(self, name: str) -> NodeProto:
        self.whole.add(name)
        return _cast(self.halved[name], name, TensorProto.FLOAT)

    def _drop_unused(self) -> None:
        """Leave out the weights that nobody reads in float32 any more, and what only named them."""
        graph = self.model.graph
        outputs = {one.name for one in graph.output}
        used = outputs.union(*map(_reads, graph.node))
        nodes = [node for node in graph.node if node.output[0] in used or node.output[0] not in self._weights]
        used = outputs.union(*map(_reads, nodes))
        weights = [one for one in graph.initializer if one.name in used]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(weights)


def _reads(node: NodeProto) -> Iterator[str]:
    """The tensors that a node needs, those of its sub-graphs too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)


def _rounded(values: np.ndarray, name: str) -> TensorProto:
    with np.errstate(over="ignore"):  # what becomes infinite is seen by who compares
        return numpy_helper.from_array(values.astype(np.float16), name)


def _cast(name: str, result: str, type_: int) -> NodeProto:
    return onnx.helper.make_node("Cast", [name], [result], name=f"{result}.cast", to=type_)
