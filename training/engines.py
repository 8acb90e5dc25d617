"""Exports that may end with a TensorRT engine beside the `.onnx`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from f2f.engine.options import EngineOptions
from f2f.engine.runtimes.network import Kind


class ExportOptions(Protocol):
    """What the options of every export say."""

    @property
    def out(self) -> Path:
        """The network's file."""
        ...

    @property
    def engine(self) -> bool:
        """Whether to build an engine too."""
        ...

    @property
    def engines(self) -> EngineOptions:
        """For which sizes."""
        ...


def with_engine(kind: Kind, options: ExportOptions, export: Callable[[], Path]) -> tuple[Path, ...]:
    """Export a network and, where the options ask for it, build its engine; gives the files that were written.

    Raises:
        UsageError: an engine is asked for, and cannot be built here: said before anything is exported.
        NetworkError: the network is not for TensorRT, or its engine gives other numbers; the .onnx stays.
    """
    if not options.engine:
        return (export(),)
    from f2f.engine.runtimes.tensorrt_open import refuse_without_tensorrt, write_engine

    refuse_without_tensorrt(options.out)
    path = export()
    return path, write_engine(path, kind, options.engines)
