"""The C++ versions: the extension is loaded on first use, and the cause is kept when it cannot be.

The extension takes data pointers and sizes, so everything is checked and made contiguous here first.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from f2f.kernels import checks


def load_error() -> ImportError | None:
    """Why the extension cannot be used; None if it can."""
    extension = _load()
    return extension if isinstance(extension, ImportError) else None


def warp_union(bits: Tensor, flow_xy_px: Tensor, *, return_steps: bool = False, threads: int = 0) -> Tensor:
    """C++ version of `f2f.kernels.warp_union`; `threads` = 0 means as many as torch uses, never more than clips."""
    checks.check_warp_union(bits, flow_xy_px)
    _check_cpu("bits", bits)
    clips, frames, words, height, width = bits.shape
    masks = bits.contiguous()
    flow = flow_xy_px.to(torch.float32).contiguous()
    kept = frames if return_steps else 1
    carried = torch.empty((clips, kept, words, height, width), dtype=torch.int32)
    _extension().warp_union(
        masks.data_ptr(), flow.data_ptr(), carried.data_ptr(),
        clips, frames, words, height, width, kept, _threads(threads, clips),
    )  # fmt: skip
    return carried if return_steps else carried[:, 0]


def minimum_barrier(channels: Tensor, passes: int = 3, *, threads: int = 0) -> Tensor:
    """C++ version of `f2f.kernels.minimum_barrier`; `threads` as in `warp_union`, never more than images."""
    checks.check_barrier(channels, passes)
    _check_cpu("channels", channels)
    images, depth, height, width = channels.shape
    values = channels.contiguous()
    distance = torch.empty((images, height, width), dtype=torch.float32)
    _extension().minimum_barrier(
        values.data_ptr(), distance.data_ptr(), images, depth, height, width, passes, _threads(threads, images)
    )
    return distance


@cache
def _load() -> ModuleType | ImportError:
    try:
        return importlib.import_module("f2f.kernels._C")
    except ImportError as error:
        return error


def _extension() -> ModuleType:
    extension = _load()
    if isinstance(extension, ImportError):
        raise ImportError(
            f"the C++ kernels cannot be loaded ({extension}); build them with `pip install -e .` and a C++17 compiler, "
            "or set F2F_KERNELS=torch"
        ) from extension
    return extension


def _check_cpu(name: str, tensor: Tensor) -> None:
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}; accepted: cpu for the C++ version; move it with .cpu()")


def _threads(asked: int, pieces: int) -> int:
    """How many threads to use for `pieces` independent pieces of work."""
    if asked < 0:
        raise ValueError(f"threads is {asked}; accepted: 1 or more, or 0 for as many as torch uses")
    return max(1, min(asked or torch.get_num_threads(), pieces))
