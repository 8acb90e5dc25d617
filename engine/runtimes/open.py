"""Opens a network file with the runtime that its form and the options ask for."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from f2f.engine.errors import UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import Kind, Network


@dataclass(frozen=True)
class Runtime:
    """A value of `--runtime`: which files it runs, and what opens them."""

    suffixes: tuple[str, ...]
    opener: str
    """`module:function` (path, kind, options) -> Network, imported when it is called"""


SWITCH = "F2F_ONNX_RUNTIME"
"""environment variable: what `--runtime auto` takes for `.onnx` files"""
_HERE = "f2f.engine.runtimes"
RUNTIMES = {
    "onnxruntime": Runtime((".onnx",), f"{_HERE}.onnx_cuda:open_onnx"),
    "onnxruntime-cpu": Runtime((".onnx",), f"{_HERE}.onnx_cuda:open_onnx_cpu"),
    "onnxruntime-cuda": Runtime((".onnx",), f"{_HERE}.onnx_cuda:open_onnx_cuda"),
    "openvino": Runtime((".onnx",), f"{_HERE}.openvino_runtime:open_openvino"),
    "torch": Runtime((".pt2",), f"{_HERE}.torch_export:open_torch"),
    "tensorrt": Runtime((".onnx", ".engine"), f"{_HERE}.tensorrt_open:open_tensorrt"),
}
AUTOMATIC = {
    ".onnx": Runtime((".onnx",), f"{_HERE}.cpu_choice:open_here"),
    ".pt2": RUNTIMES["torch"],
    ".engine": RUNTIMES["tensorrt"],
}
"""suffix -> what runs it where no runtime is asked for, by --runtime or in the environment"""


def open_network(name: str, kind: Kind, options: RuntimeOptions) -> Network:
    """Open the network file `name`, or the bundled one where `name` is `demo`, and check its contract.

    Raises:
        UsageError: no such file, or no runtime for it.
        NetworkError: the file is no network, or of another kind, or breaks its contract.
    """
    path = network_file(name, kind)
    module, function = _runtime_of(path, options).opener.split(":")
    network: Network = getattr(importlib.import_module(module), function)(path, kind, options)
    return network


def network_file(name: str, kind: Kind) -> Path:
    """The file that `name`, a path or `demo`, stands for.

    Raises:
        UsageError: there is none.
    """
    path = bundled(kind) if name == "demo" else Path(name)
    if not path.is_file():
        ours = "demo, or " if bundled(kind).is_file() else ""
        raise UsageError(f"{kind} {name}: there is no such file; accepted: {ours}a file from `f2f export {kind}`")
    return path


def bundled(kind: str) -> Path:
    """Where the network that ships with f2f lies."""
    return Path(str(files("f2f.engine").joinpath("networks", f"demo_{kind}.onnx")))


def _runtime_of(path: Path, options: RuntimeOptions) -> Runtime:
    fitting = {name: runtime for name, runtime in RUNTIMES.items() if path.suffix in runtime.suffixes}
    if not fitting:
        raise UsageError(f"{path} is not a network; accepted: {', '.join(AUTOMATIC)} files from `f2f export`")
    by_environment = options.runtime == "auto" and path.suffix == ".onnx" and SWITCH in os.environ
    switch, wanted = (SWITCH, os.environ[SWITCH]) if by_environment else ("--runtime", options.runtime)
    if wanted == "auto":
        return AUTOMATIC[path.suffix]
    if wanted not in fitting:
        raise UsageError(
            f"{switch} {wanted} cannot run {path.name}; accepted for {path.suffix}: auto, "
            f"{', '.join(fitting)}; export the network in the other form or leave {switch} out"
        )
    return fitting[wanted]
