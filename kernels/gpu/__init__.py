"""The operators in Triton, for CUDA tensors; in Triton's interpreter (TRITON_INTERPRET=1) for CPU tensors too.

Importing this package needs Triton, not a GPU. Every function is defined by its namesake in `f2f.kernels.reference`.
"""

from __future__ import annotations

from f2f.kernels.gpu.activate_cams import activate_cams
from f2f.kernels.gpu.compose_labels import compose_labels
from f2f.kernels.gpu.cost_volume import cost_volume, cost_volume_backward
from f2f.kernels.gpu.crf_refine import crf_refine
from f2f.kernels.gpu.soft_union import soft_union
from f2f.kernels.gpu.warp_features import warp_cost_volume, warp_cost_volume_backward
from f2f.kernels.gpu.warp_union import warp_union

__all__ = [
    "activate_cams",
    "compose_labels",
    "cost_volume",
    "cost_volume_backward",
    "crf_refine",
    "soft_union",
    "warp_cost_volume",
    "warp_cost_volume_backward",
    "warp_union",
]
