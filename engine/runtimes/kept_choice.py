"""A choice between runtimes, kept for a network on a machine: measured once, so that runs go on as they were begun."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from f2f.engine.errors import MachineError
from f2f.engine.files import write_aside
from f2f.engine.runtimes.telling import note

LEAST_GAIN = 1.2
"""how many times as fast as ONNX Runtime another one has to be: by less, another measurement might choose otherwise,
and it takes longer to open"""


class KeptChoice:
    """Of a network and all that its speed depends on."""

    def __init__(self, network: Path, *facts: object) -> None:
        key = json.dumps((hashlib.sha256(network.read_bytes()).hexdigest(), *facts))
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._network = network
        self._path = caches / "f2f" / "runtimes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def read(self, other: str) -> str:
        """`onnxruntime` or `other`; empty where nothing is kept."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            choice = json.loads(self._path.read_text(encoding="utf-8"))["runtime"]
            return choice if choice in {"onnxruntime", other} else ""
        return ""

    def decide(self, other: str, gain: float) -> bool:
        """Whether the other runtime, so many times as fast, is taken; that is kept, and noted."""
        choice = other if gain >= LEAST_GAIN else "onnxruntime"
        note(f"{self._network} is run by {choice}: {other} is {gain:.2f} times as fast as ONNX Runtime")
        self._keep(choice, gain)
        return choice == other

    def refuse(self, why: object) -> None:
        """Keep that ONNX Runtime is taken, for the other one cannot be."""
        note(f"{self._network} is run by ONNX Runtime: {why}")
        self._keep("onnxruntime", 0.0)

    def _keep(self, choice: str, gain: float) -> None:
        try:
            write_aside(self._path, json.dumps({"runtime": choice, "gain": round(gain, 2)}).encode())
        except MachineError as error:
            note(f"the choice of a runtime is not kept: {error}")
