"""Which runtime runs an `.onnx` file on this GPU: ONNX Runtime, or TensorRT where an engine of it is at hand.

Building one takes minutes, which nobody asked for: it is at hand where `--runtime tensorrt` or `f2f export --engine`
has built it before. It has to agree with the CPU, as ONNX Runtime has to, and to be quicker.
"""

from __future__ import annotations

from pathlib import Path

from f2f.engine.errors import F2FError, MachineError, VideoError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.kept_choice import KeptChoice
from f2f.engine.runtimes.network import Kind, Network
from f2f.engine.runtimes.onnx_cuda import open_onnx
from f2f.engine.runtimes.onnx_runtime import import_onnxruntime
from f2f.engine.runtimes.telling import tell
from f2f.engine.runtimes.tensorrt_cache import EngineFile
from f2f.engine.runtimes.tensorrt_open import engine_at_hand, open_tensorrt
from f2f.engine.runtimes.trial import times_as_fast, trial_input


def open_on_gpu(path: Path, kind: Kind, options: RuntimeOptions) -> Network:
    """By TensorRT where that needs no building and is quicker, else by ONNX Runtime."""
    engine = engine_at_hand(path, kind, options)
    if engine is None:
        return open_onnx(path, kind, options)
    kept = KeptChoice(path, import_onnxruntime().__version__, engine.digest)
    choice = kept.read("tensorrt")
    if choice == "onnxruntime":
        return open_onnx(path, kind, options)
    try:
        other = open_tensorrt(path, kind, options)
        if choice:
            return other
        plain = open_onnx(path, kind, options)
        return other if kept.decide("tensorrt", _gain(plain, other, engine)) else plain
    except (F2FError, VideoError) as error:
        tell(f"{path.name} is run by ONNX Runtime: {error}")
        if not isinstance(error, MachineError):  # as a GPU is that is full at the moment
            kept.refuse(error)
        return open_onnx(path, kind, options)


def _gain(plain: Network, other: Network, engine: EngineFile) -> float:
    """How many times as fast TensorRT is, on what its largest size is meant for."""
    return times_as_fast(plain, other, trial_input(engine.profiles[-1].typical))
