"""f2f.engine: videos that carry a search term -> pixel masks.

>>> from f2f.engine import label, LabelOptions

Importing the package imports nothing else; torch comes with the first name used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from f2f.engine.errors import F2FError, MachineError, NetworkError, RunMismatchError, UsageError
    from f2f.engine.evaluate import MaskEvaluation, evaluate_masks
    from f2f.engine.labelling import label
    from f2f.engine.options import (
        BackgroundOptions,
        CamOptions,
        ClassifyOptions,
        DecodeOptions,
        FlowOptions,
        LabelOptions,
        RuleOptions,
        RuntimeOptions,
        SourceOptions,
        WindowOptions,
        WriteOptions,
    )
    from f2f.engine.pipeline import Progress
    from f2f.engine.records import Summary
    from f2f.engine.run import read_summary
    from f2f.engine.show import show_mask

_HOMES = {
    "errors": ("F2FError", "MachineError", "NetworkError", "RunMismatchError", "UsageError"),
    "evaluate": ("MaskEvaluation", "evaluate_masks"),
    "options": (
        "BackgroundOptions",
        "CamOptions",
        "ClassifyOptions",
        "DecodeOptions",
        "FlowOptions",
        "LabelOptions",
        "RuleOptions",
        "RuntimeOptions",
        "SourceOptions",
        "WindowOptions",
        "WriteOptions",
    ),
    "labelling": ("label",),
    "pipeline": ("Progress",),
    "records": ("Summary",),
    "run": ("read_summary",),
    "show": ("show_mask",),
}

__all__ = [
    "BackgroundOptions",
    "CamOptions",
    "ClassifyOptions",
    "DecodeOptions",
    "F2FError",
    "FlowOptions",
    "LabelOptions",
    "MachineError",
    "MaskEvaluation",
    "NetworkError",
    "Progress",
    "RuleOptions",
    "RunMismatchError",
    "RuntimeOptions",
    "SourceOptions",
    "Summary",
    "UsageError",
    "WindowOptions",
    "WriteOptions",
    "evaluate_masks",
    "label",
    "read_summary",
    "show_mask",
]


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"f2f.engine.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
