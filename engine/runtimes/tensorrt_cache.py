"""Engines as files: a sealed header that says what they were built from and for, the graph, and the engine itself.

An engine is code. One is loaded when this installation signed it, byte for byte, or when the user trusts it; its header
must then name this GPU and this TensorRT, for TensorRT crashes on what it does not know.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.files import check_seal, machine_errors, sealed, write_aside
from f2f.engine.options import EngineOptions
from f2f.engine.runtimes.tensorrt_build import FLAGS
from f2f.engine.runtimes.tensorrt_profiles import Profile
from f2f.engine.runtimes.trust import is_ours, sign

_MAGIC = b"f2f TensorRT engine 1\n"


@dataclass(frozen=True)
class EngineFile:
    """An engine, and what it is."""

    facts: Mapping[str, Any]
    """what decides whether it is the right one: `facts_of`"""
    graph: bytes
    """the ONNX file that it was built from: its metadata, and what checks it"""
    plan: bytes
    """the engine as TensorRT wrote it"""

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """Sizes that it is tuned for."""
        found = self.facts["profiles"]
        return tuple(Profile(*(tuple(one[name]) for name in ("least", "typical", "most"))) for one in found)

    @property
    def digest(self) -> str:
        """sha256 of the engine."""
        return _sha256(self.plan)

    def pack(self) -> bytes:
        """As a file's content."""
        parts = {
            "facts": dict(self.facts),
            "graph": {"bytes": len(self.graph), "sha256": _sha256(self.graph)},
            "plan": {"bytes": len(self.plan), "sha256": _sha256(self.plan)},
        }
        header = sealed(json.dumps(parts, indent=1, sort_keys=True))
        return _MAGIC + struct.pack("<Q", len(header)) + header + self.graph + self.plan

    @classmethod
    def unpack(cls, data: bytes) -> EngineFile:
        """From a file's content.

        Raises:
            ValueError: it is none, or damaged.
        """
        start = len(_MAGIC) + 8
        if not data.startswith(_MAGIC) or len(data) < start:
            raise ValueError("it is no engine that f2f wrote")
        (size,) = struct.unpack("<Q", data[len(_MAGIC) : start])
        header, rest = data[start : start + size], data[start + size :]
        check_seal(header)
        parts = json.loads(header)
        graph, plan = rest[: parts["graph"]["bytes"]], rest[parts["graph"]["bytes"] :]
        for name, part in (("graph", graph), ("plan", plan)):
            if len(part) != parts[name]["bytes"] or _sha256(part) != parts[name]["sha256"]:
                raise ValueError(f"its {name} is not what was written: its digest differs")
        return cls(parts["facts"], graph, plan)


def facts_of(graph: bytes, profiles: Sequence[Profile], version: str, gpu: str) -> dict[str, Any]:
    """Everything that decides an engine: what it is built from, for which sizes, how, by what and on what."""
    return {
        "graph": _sha256(graph),
        "profiles": json.loads(json.dumps([asdict(profile) for profile in profiles])),
        "flags": list(FLAGS),
        "tensorrt": version,
        "gpu": gpu,
        "platform": _platform(),
    }


class EngineCache:
    """A folder of engines by their facts, and of the timings that builds share."""

    def __init__(self, options: EngineOptions) -> None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = options.engine_cache or caches / "f2f" / "engines"

    def path(self, facts: Mapping[str, Any]) -> Path:
        """Where an engine of these facts lies."""
        key = _sha256(json.dumps(facts, sort_keys=True).encode())
        return self.folder / f"{key[:32]}.engine"

    def read(self, facts: Mapping[str, Any], *, trust_code: bool) -> tuple[EngineFile | None, str]:
        """The engine of these facts; None, and why, where there is none that may be loaded."""
        path = self.path(facts)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None, ""
        except OSError as error:
            return None, f"{path} cannot be read ({error.strerror})"
        if not trust_code and not is_ours(path, data):
            return None, f"{path} is not as this installation wrote it"
        try:
            found = EngineFile.unpack(data)
        except (ValueError, KeyError, TypeError) as error:
            return None, f"{path} is damaged ({error})"
        return (found, "") if dict(found.facts) == dict(facts) else (None, f"{path} is an engine of something else")

    def write(self, engine: EngineFile) -> Path:
        """Keep an engine. Raises MachineError where the disk does not take it."""
        return write_engine_file(self.path(engine.facts), engine)

    def timings(self, facts: Mapping[str, Any]) -> bytes:
        """What earlier builds with this TensorRT on this GPU measured; empty where there is nothing of ours."""
        path = self._timings_path(facts)
        try:
            data = path.read_bytes()
        except OSError:
            return b""
        return data if is_ours(path, data) else b""

    def write_timings(self, facts: Mapping[str, Any], timings: bytes) -> None:
        """Keep what builds measured."""
        path = self._timings_path(facts)
        write_aside(path, timings)
        sign(path)

    @contextmanager
    def building(self) -> Iterator[None]:
        """One build at a time: processes that need the same engine then all get it, and timings are not disturbed."""
        with machine_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with machine_errors(self.folder):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _timings_path(self, facts: Mapping[str, Any]) -> Path:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{facts['tensorrt']} {facts['gpu']}").strip("-")
        return self.folder / f"{name}.timings"


def write_engine_file(path: Path, engine: EngineFile) -> Path:
    """Write an engine whole or not at all, and sign it. Raises MachineError where the disk does not take it."""
    write_aside(path, engine.pack())
    with machine_errors(path):
        sign(path)
    return path


def read_engine_file(path: Path, version: str, gpu: str, *, trust_code: bool) -> EngineFile:
    """An engine that the user names.

    Raises:
        UsageError: it is code from elsewhere.
        NetworkError: it is damaged, or built for another GPU or TensorRT.
    """
    data = path.read_bytes()
    if not trust_code and not is_ours(path, data):
        raise UsageError(
            f"{path} is code that this installation did not build; build it here with `f2f export … --engine`, or give "
            "--trust-code if you trust where it comes from"
        )
    try:
        found = EngineFile.unpack(data)
        built_for = {name: found.facts[name] for name in ("tensorrt", "gpu", "platform")}
    except (ValueError, KeyError, TypeError) as error:
        raise NetworkError(
            f"{path} cannot be opened as an engine ({error}); build it with `f2f export … --engine`"
        ) from error
    here = {"tensorrt": version, "gpu": gpu, "platform": _platform()}
    if built_for != here:
        raise NetworkError(
            f"{path} was built for {_described(built_for)}; this is {_described(here)}; build it here with `f2f export "
            "… --engine`, or give the .onnx with --runtime tensorrt"
        )
    return found


def _described(facts: Mapping[str, Any]) -> str:
    return f"TensorRT {facts['tensorrt']} on {facts['gpu']}, {facts['platform']}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}"
