"""A flow network in sections, between which f2f's kernel computes the cost volumes.

The operators that a cost volume is exported as are half of a narrow PWC-Net's time. They cannot be replaced in a
runtime that runs the graph as a whole; so the graph is cut where a volume comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper

from f2f.engine.runtimes.cost_volumes import CostVolume, find_cost_volumes
from f2f.engine.runtimes.onnx_graph import OnnxGraph
from f2f.kernels import native
from f2f.kernels.dispatch import CPP, choose

Array = npt.NDArray[Any]
RunSection = Callable[[Mapping[str, Array]], Sequence[Array]]
"""inputs by their names -> outputs in the section's order"""


@dataclass(frozen=True)
class Section:
    """A part of a graph that runs by itself."""

    model: str | bytes
    """an ONNX file's content, or path"""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    volumes: tuple[CostVolume, ...]
    """the cost volumes that can be computed once it has run"""


class Sections:
    """A graph that is run section by section."""

    def __init__(
        self, sections: Sequence[Section], open_section: Callable[[Section], RunSection], threads: int
    ) -> None:
        self._sections = [(section, open_section(section)) for section in sections]
        self._threads = threads

    def __call__(self, name: str, batch: Array) -> list[Array]:
        """The graph's outputs for its input."""
        known = {name: batch}
        for section, run in self._sections:
            given = {tensor: known[tensor] for tensor in section.inputs}
            known.update(zip(section.outputs, run(given), strict=True))
            known.update((volume.volume, self._costs(volume, known)) for volume in section.volumes)
        return [known[tensor] for tensor in self._sections[-1][0].outputs]

    def _costs(self, volume: CostVolume, known: Mapping[str, Array]) -> Array:
        f1, f2, *flow = (torch.from_numpy(known[tensor]) for tensor in volume.inputs)  # [B,C,H,W] twice, [B,2,H,W]
        reach, threads = volume.max_displacement, self._threads
        if flow:
            costs = native.warp_cost_volume(f1, f2, flow[0], reach, threads=threads)  # [B,(2d+1)^2,H,W]
        else:
            costs = native.cost_volume(f1, f2, reach, threads=threads)
        found: Array = costs.numpy()
        return found


def uncut(model: ModelProto, source: str | bytes) -> Section:
    """A graph in one section."""
    inputs, outputs = (tuple(one.name for one in tensors) for tensors in (model.graph.input, model.graph.output))
    return Section(source, inputs, outputs, ())


def sections_of(model: ModelProto) -> tuple[Section, ...]:
    """A flow network cut at its cost volumes; none where it has none, or they would not run in C++ here."""
    volumes = find_cost_volumes(model)
    if not volumes or choose("cost_volume") != CPP:
        return ()
    cut = _Cut.of(model, volumes)
    return cut.sections() if cut.is_possible else ()


@dataclass
class _Cut:
    """Which section makes which tensor: the first that could."""

    model: ModelProto
    volumes: Mapping[str, CostVolume]
    graph: OnnxGraph
    sources: dict[str, NodeProto]
    places: dict[str, int]
    """tensor -> number of its section; what depends on no input is in any, and not here"""

    @classmethod
    def of(cls, model: ModelProto, volumes: Sequence[CostVolume]) -> _Cut:
        by_name = {one.volume: one for one in volumes}
        places = dict.fromkeys((one.name for one in model.graph.input), 0)
        for node in model.graph.node:
            for output in node.output:
                volume = by_name.get(output)
                needs = [places[tensor] for tensor in (volume.inputs if volume else node.input) if tensor in places]
                if needs:
                    places[output] = max(needs) + (volume is not None)
        sources = {output: node for node in model.graph.node for output in node.output}
        return cls(model, by_name, OnnxGraph.of(model), sources, places)

    @property
    def is_possible(self) -> bool:
        """Volumes, and all they are made of, are in float32; no node has a graph of its own, which sees all tensors."""
        cut = [tensor for volume in self.volumes.values() for tensor in (volume.volume, *volume.inputs)]
        inner = [one for node in self.model.graph.node for one in node.attribute if one.g.node or one.graphs]
        return not inner and all(self.graph.types.get(tensor) == TensorProto.FLOAT for tensor in cut)

    def sections(self) -> tuple[Section, ...]:
        """In order; found from the last one on, for each tells what those before it have to give."""
        needed = {one.name for one in self.model.graph.output}
        found: list[Section] = []
        for place in range(max(self.places.values()), -1, -1):
            volumes = [one for one in self.volumes.values() if self.places[one.volume] == place + 1]
            needed.update(tensor for one in volumes for tensor in one.inputs)
            found.append(self._section(place, sorted(filter(self._is_made_in(place), needed)), volumes))
            needed.update(found[-1].inputs)
        return tuple(reversed(found))

    def _is_made_in(self, place: int) -> Callable[[str], bool]:
        inputs = {one.name for one in self.model.graph.input}
        return lambda tensor: self.places[tensor] == place and tensor not in self.volumes and tensor not in inputs

    def _section(self, place: int, outputs: Sequence[str], volumes: Sequence[CostVolume]) -> Section:
        """All that the outputs depend on, up to volumes and to what is in float32 in sections before."""
        inputs, seen, to_see = set[str](), set[str](), list(outputs)
        while to_see:
            tensor = to_see.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            if self._comes_in(tensor, place):
                inputs.add(tensor)
            elif tensor in self.sources:
                to_see += filter(None, self.sources[tensor].input)
        model = self._model(f"section {place}", seen - inputs, sorted(inputs), outputs)
        return Section(model.SerializeToString(), tuple(sorted(inputs)), tuple(outputs), tuple(volumes))

    def _comes_in(self, tensor: str, place: int) -> bool:
        """Whole numbers, which are sizes, are computed again where they are used: runtimes know more of them so."""
        if tensor in self.volumes or (tensor in self.places and tensor not in self.sources):
            return True
        is_earlier = self.places.get(tensor, place) < place
        return is_earlier and self.graph.types.get(tensor) == TensorProto.FLOAT

    def _model(self, name: str, made: set[str], inputs: Sequence[str], outputs: Sequence[str]) -> ModelProto:
        graph = helper.make_graph(
            [node for node in self.model.graph.node if not made.isdisjoint(node.output)],
            name,
            [self._described(tensor) for tensor in inputs],
            [self._described(tensor) for tensor in outputs],
            [stored for stored in self.model.graph.initializer if stored.name in made],
        )
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)

    def _described(self, tensor: str) -> Any:
        """With the axes that the file fixes, where it does."""
        for one in (*self.model.graph.input, *self.model.graph.output):
            if one.name == tensor:
                return one
        rank = self.graph.ranks.get(tensor)
        axes = None if rank is None else [None] * rank
        return helper.make_tensor_value_info(tensor, self.graph.types[tensor], axes)
