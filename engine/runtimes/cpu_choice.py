"""Which runtime runs an `.onnx` file on this CPU: measured once per network, and kept, so that runs go on as begun.

Only where OpenVINO is installed is there a choice. It has to agree with ONNX Runtime, and to be quicker by a fifth: by
less, another measurement might choose otherwise, and it takes longer to open.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from f2f.engine.errors import F2FError, MachineError
from f2f.engine.files import write_aside
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.cuda import gpu_obstacle
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network
from f2f.engine.runtimes.onnx_cuda import open_onnx
from f2f.engine.runtimes.onnx_runtime import OnnxNetwork, import_onnxruntime
from f2f.engine.runtimes.openvino_runtime import OpenVinoNetwork, open_openvino
from f2f.engine.runtimes.telling import note
from f2f.engine.runtimes.trial import times_as_fast, trial_input

LEAST_GAIN = 1.2
"""how many times as fast as ONNX Runtime OpenVINO has to be"""
_TRIALS = {4: (2, 3, 240, 320), 5: (1, 3, 3, 192, 256)}
"""rank of a network's input -> shape that is timed"""


def open_here(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """An `.onnx` file on the GPU where there is one that works, else on the CPU by what is quickest there."""
    if not gpu_obstacle():
        return open_onnx(path, kind, options)
    return open_on_cpu(path, kind, options) if openvino_version() else OnnxNetwork(path, kind, options)


def open_on_cpu(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """By OpenVINO, which is installed, where that agrees and is quicker, else by ONNX Runtime."""
    kept = _place(path, options)
    choice = _read(kept)
    if choice:
        return OpenVinoNetwork(path, kind, options) if choice == "openvino" else OnnxNetwork(path, kind, options)
    plain: Network = OnnxNetwork(path, kind, options)  # a file that is at fault is refused here
    try:
        other = open_openvino(path, kind, options)
    except F2FError as error:
        note(f"{path} is run by ONNX Runtime: {error}")
        _keep(kept, "onnxruntime", 0.0)
        return plain
    gain = _gain(plain, other)
    choice = "openvino" if gain >= LEAST_GAIN else "onnxruntime"
    note(f"{path} is run by {choice}: OpenVINO is {gain:.2f} times as fast as ONNX Runtime")
    _keep(kept, choice, gain)
    return other if choice == "openvino" else plain


def openvino_version() -> str:
    """Empty where it is not installed."""
    with suppress(PackageNotFoundError):
        return version("openvino")
    return ""


def _gain(plain: Network, other: Network) -> float:
    """How many times as fast `other` is."""
    return times_as_fast(plain, other, trial_input(_TRIALS[CONTRACTS[plain.info.kind].input_rank]))


# ---- what was chosen before


def _place(path: Path, options: RuntimeOptions) -> Path:
    """Where the choice for a network on such a machine is kept."""
    facts = (
        hashlib.sha256(path.read_bytes()).hexdigest(),
        *(import_onnxruntime().__version__, openvino_version(), _processor(), options.thread_count),
    )
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "f2f" / "runtimes" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"


def _read(kept: Path) -> str:
    with suppress(OSError, ValueError, TypeError, KeyError):
        choice = json.loads(kept.read_text(encoding="utf-8"))["runtime"]
        return choice if choice in {"onnxruntime", "openvino"} else ""
    return ""


def _keep(kept: Path, choice: str, gain: float) -> None:
    try:
        write_aside(kept, json.dumps({"runtime": choice, "openvino_gain": round(gain, 2)}).encode())
    except MachineError as error:
        note(f"the choice of a runtime is not kept: {error}")


def _processor() -> str:
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
        return next((line for line in stream if line.startswith("model name")), "")
    return platform.processor()
