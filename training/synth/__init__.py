"""The synthetic web: rendered videos of articulated, textured, lit objects, with exact masks and exact flow.

Importing this imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from f2f.training.synth.classes import CLASSES
from f2f.training.synth.options import SynthOptions, SynthSummary

if TYPE_CHECKING:
    from f2f.training.synth.casting import random_scene
    from f2f.training.synth.kitti import read_kitti_flow, write_kitti_flow
    from f2f.training.synth.scene import Rendered, Scene, exact_flow
    from f2f.training.synth.web import synth

__all__ = [
    "CLASSES",
    "Rendered",
    "Scene",
    "SynthOptions",
    "SynthSummary",
    "exact_flow",
    "random_scene",
    "read_kitti_flow",
    "synth",
    "write_kitti_flow",
]

_HOMES = {
    "Rendered": "scene",
    "Scene": "scene",
    "exact_flow": "scene",
    "random_scene": "casting",
    "read_kitti_flow": "kitti",
    "synth": "web",
    "write_kitti_flow": "kitti",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
