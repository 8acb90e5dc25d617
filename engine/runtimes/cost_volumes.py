"""Finds the cost volumes of an exported flow network among its operators.

`f2f.kernels.exported` writes one, and the warp before it, as hundreds of operators, so that whatever reads `.onnx` can
run it. Where they are known, a kernel can run instead; see `sections`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from f2f.engine.runtimes.onnx_graph import value_of

_SHIFTS_FIRST = [0, 4, 1, 2, 3]
"""the permutation that a volume's shifts are brought to the front by, once they are all in one tensor"""
_VOLUME = ("Reshape", "Slice")
"""from there down to the volume"""
_PRODUCT = ("Slice", "Reshape", "Pad", "Reshape")
"""from a row of shifts up to the matrix product"""
_F1 = ("Transpose", "Reshape", "Pad", "Div")
_F2 = ("Slice", "Concat", "Slice", "Transpose", "Reshape", "Pad")
"""from its factors up to the features"""
_GRID = ("Concat", "Unsqueeze", "Sub", "Div", "Mul", "Add", "Gather")
"""from the grid that features are sampled at up to the flow"""


@dataclass(frozen=True)
class CostVolume:
    """Names of the tensors of a `kernels.cost_volume`, or of a `kernels.warp_cost_volume`."""

    f1: str
    f2: str
    flow_xy_px: str
    """empty where nothing is warped"""
    max_displacement: int
    volume: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """What has to be there first."""
        return tuple(filter(None, (self.f1, self.f2, self.flow_xy_px)))


def find_cost_volumes(model: ModelProto) -> list[CostVolume]:
    """The cost volumes of a graph, in its order."""
    links = _Links.of(model)
    return [volume for node in model.graph.node for volume in links.cost_volume(node)]


@dataclass(frozen=True)
class _Links:
    """Which node makes a tensor, and which read it."""

    sources: dict[str, NodeProto]
    readers: dict[str, list[NodeProto]]

    @classmethod
    def of(cls, model: ModelProto) -> _Links:
        readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for tensor in node.input:
                readers.setdefault(tensor, []).append(node)
        return cls({output: node for node in model.graph.node for output in node.output}, readers)

    def cost_volume(self, last: NodeProto) -> Iterator[CostVolume]:
        """That whose shifts `last` brings to the front; none where it does no such thing."""
        if last.op_type != "Transpose" or value_of(last, "perm", []) != _SHIFTS_FIRST:
            return
        rows = self.sources.get(last.input[0])
        if rows is None or rows.op_type != "Concat" or len(rows.input) % 2 == 0:
            return
        product = self.sources.get(self._above(rows.input[0], _PRODUCT))
        if product is None or product.op_type != "MatMul":
            return
        f1, f2 = (self._above(*side) for side in zip(product.input, (_F1, _F2), strict=True))
        volume = self._below(last.output[0], _VOLUME)
        if f1 and f2 and volume:
            yield CostVolume(f1, *self._unwarped(f2), len(rows.input) // 2, volume)

    def _unwarped(self, features: str) -> tuple[str, str]:
        """What features were before they were warped, and the flow; the features and nothing where they were not."""
        sampling = self.sources.get(self._above(self._before_casts(features), ("Mul",)))
        if sampling is None or sampling.op_type != "GridSample":
            return features, ""
        flow = self._above(sampling.input[1], _GRID)
        return (sampling.input[0], flow) if flow else (features, "")

    def _before_casts(self, tensor: str) -> str:
        while (node := self.sources.get(tensor)) is not None and node.op_type == "Cast":
            tensor = node.input[0]
        return tensor

    def _above(self, tensor: str, operators: Sequence[str]) -> str:
        """The first input of the first input, … so many nodes up; empty where other operators are on the way."""
        for operator in operators:
            node = self.sources.get(tensor)
            if node is None or node.op_type != operator:
                return ""
            tensor = node.input[0]
        return tensor

    def _below(self, tensor: str, operators: Sequence[str]) -> str:
        """What a tensor becomes, so many nodes down; empty where it becomes something else, too."""
        for operator in operators:
            nodes = [node for node in self.readers.get(tensor, []) if node.op_type != "Shape"]
            if len(nodes) != 1 or nodes[0].op_type != operator:
                return ""
            tensor = nodes[0].output[0]
        return tensor
