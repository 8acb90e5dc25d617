"""ONNX Runtime on the CPU, as it is quickest: a flow network's cost volumes by f2f's kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from f2f.engine.errors import NetworkError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network
from f2f.engine.runtimes.onnx_graph import read_graph
from f2f.engine.runtimes.onnx_runtime import OnnxNetwork, import_onnxruntime, open_session
from f2f.engine.runtimes.parity import check_outputs, is_coarse_flow, small_trials
from f2f.engine.runtimes.sections import RunSection, Section, Sections, sections_of
from f2f.engine.runtimes.telling import note


class OnnxSections(OnnxNetwork):
    """A flow network in sessions of ONNX Runtime, one after the other."""

    def __init__(self, whole: OnnxNetwork, sections: tuple[Section, ...], threads: int) -> None:
        ort = import_onnxruntime()

        def open_section(section: Section) -> RunSection:
            session = open_session(ort, section.model, f"a section of the {whole.info.kind} network", threads)
            return lambda inputs: session.run(None, inputs)

        self.info = replace(whole.info, runtime=whole.info.runtime.replace(" CPU", ", C++ cost volumes, CPU"))
        self._input = CONTRACTS[self.info.kind].input
        self._sections = Sections(sections, open_section, threads)

    def _infer(self, pixels: npt.NDArray[np.float32]) -> Sequence[npt.NDArray[np.float32]]:
        return self._sections(self._input, pixels)


def open_on_onnxruntime(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """A network in ONNX Runtime on the CPU: in sections where it has cost volumes, and gives the same so.

    Raises:
        NetworkError: the file is no network, or of another kind.
    """
    whole = OnnxNetwork(path, kind, options)
    if kind != "flow":
        return whole
    graph = path.read_bytes()
    sections = sections_of(model := read_graph(graph, path))
    if not sections:
        return whole
    trials = small_trials(kind, whole.info.size_multiple, enlarged=2 if is_coarse_flow(kind, model) else 1)
    try:
        network = OnnxSections(whole, sections, options.thread_count)
        check_outputs(network, graph, trials, whole)
    except NetworkError as error:
        note(f"{path} is run as a whole: {error}")
        return whole
    return network
