"""Opens a network file with the runtime that its form and the options ask for."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from f2f.engine.errors import UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import Kind, Network


def open_network(name: str, kind: Kind, options: RuntimeOptions) -> Network:
    """Open the network file `name`, or the bundled one where `name` is `demo`, and check its contract.

    Raises:
        UsageError: no such file, or no runtime for it.
        NetworkError: the file is no network, or of another kind, or breaks its contract.
    """
    path = bundled(kind) if name == "demo" else Path(name)
    if not path.is_file():
        ours = "demo, or " if bundled(kind).is_file() else ""
        raise UsageError(f"{kind} {name}: there is no such file; accepted: {ours}a file from `f2f export {kind}`")
    if _runtime_of(path, options) == "torch":
        from f2f.engine.runtimes.torch_export import TorchNetwork

        return TorchNetwork(path, kind, options)
    from f2f.engine.runtimes.onnx_runtime import OnnxNetwork

    return OnnxNetwork(path, kind, options)


def bundled(kind: str) -> Path:
    """Where the network that ships with f2f lies."""
    return Path(str(files("f2f.engine").joinpath("networks", f"demo_{kind}.onnx")))


def _runtime_of(path: Path, options: RuntimeOptions) -> str:
    runtimes = {".onnx": "onnxruntime", ".pt2": "torch"}
    fitting = runtimes.get(path.suffix)
    if fitting is None:
        raise UsageError(f"{path} is not a network; accepted: {', '.join(runtimes)} files from `f2f export`")
    if options.runtime not in {"auto", fitting}:
        raise UsageError(
            f"--runtime {options.runtime} cannot run {path.name}; accepted for {path.suffix}: auto, {fitting}; "
            "export the network in the other form or leave --runtime out"
        )
    return fitting
