"""The custom operators of f2f. Importing this package imports nothing else; torch comes with the first name used.

>>> from f2f.kernels import warp_union
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from f2f.kernels.dispatch import backend_in_use
    from f2f.kernels.ops import (
        activate_cams,
        compose_labels,
        cost_volume,
        crf_refine,
        minimum_barrier,
        soft_union,
        warp_cost_volume,
        warp_union,
    )
    from f2f.kernels.reference import pack_planes, unpack_planes

__all__ = [
    "activate_cams",
    "backend_in_use",
    "compose_labels",
    "cost_volume",
    "crf_refine",
    "minimum_barrier",
    "pack_planes",
    "soft_union",
    "unpack_planes",
    "warp_cost_volume",
    "warp_union",
]

_HOME = {
    "backend_in_use": "dispatch",
    "pack_planes": "reference",
    "unpack_planes": "reference",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'ops')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
