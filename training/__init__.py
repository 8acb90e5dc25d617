"""Networks, their training and export, and the synthetic web. Importing this imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from f2f.training.export import export_classifier, export_flow
    from f2f.training.options import ClassifierExport, ClassifierTraining, FlowExport, FlowTraining
    from f2f.training.train import train_classifier, train_flow

__all__ = [
    "ClassifierExport",
    "ClassifierTraining",
    "FlowExport",
    "FlowTraining",
    "export_classifier",
    "export_flow",
    "train_classifier",
    "train_flow",
]

_HOMES = {
    "ClassifierExport": "options",
    "ClassifierTraining": "options",
    "FlowExport": "options",
    "FlowTraining": "options",
    "export_classifier": "export",
    "export_flow": "export",
    "train_classifier": "train",
    "train_flow": "train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
