"""The C++ versions: the extension is loaded on first use, and the cause is kept when it cannot be.

The extension takes data pointers and sizes, so everything is checked and made contiguous here first. `threads` = 0
means as many as torch uses. `F2F_CPU_ISA` forces an instruction set; the best one this machine has is the default.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from f2f.kernels import checks
from f2f.kernels.reference import cam_taps

ISA_ENVIRONMENT = "F2F_CPU_ISA"


def load_error() -> ImportError | None:
    """Why the extension cannot be used; None if it can."""
    extension = _load()
    return extension if isinstance(extension, ImportError) else None


def usable_isas() -> list[str]:
    """The instruction sets this machine can run, best first: avx512, avx2 (each with and without gathers), scalar."""
    names: list[str] = _extension().usable_isas()
    return names


def isa_in_use() -> str:
    """The instruction set the C++ versions run on."""
    name: str = _extension().isa()
    return name


def use_isa(name: str) -> None:
    """Run on this instruction set from now on. Raises ValueError where this machine cannot."""
    _extension().use_isa(name)


def activate_cams(
    cams: Sequence[Tensor],
    flips: Sequence[bool],
    classes: Tensor,
    size_hw: tuple[int, int],
    theta: float,
    *,
    threads: int = 0,
) -> tuple[Tensor, Tensor]:
    """C++ version of `f2f.kernels.activate_cams`."""
    checks.check_cams(cams, flips, classes, size_hw)
    checks.check_fraction("theta", theta)
    _check_cpu("classes", classes)
    images, planes = classes.shape
    bits = torch.empty((images, checks.words_for(planes), *size_hw), dtype=torch.int32)
    peaks = torch.empty((images, planes), dtype=torch.float32)
    maps, listed = [cam.contiguous() for cam in cams], classes.contiguous()
    _extension().activate_cams(
        [_cam_addresses(cam, flip, size_hw) for cam, flip in zip(maps, flips, strict=True)],
        listed.data_ptr(), theta, bits.data_ptr(), peaks.data_ptr(),
        images, cams[0].shape[1], planes, *size_hw, _threads(threads),
    )  # fmt: skip
    return bits, peaks


def warp_union(bits: Tensor, flow_xy_px: Tensor, *, return_steps: bool = False, threads: int = 0) -> Tensor:
    """C++ version of `f2f.kernels.warp_union`."""
    checks.check_warp_union(bits, flow_xy_px)
    _check_cpu("bits", bits)
    clips, frames, words, height, width = bits.shape
    masks = bits.contiguous()
    flow = flow_xy_px.to(torch.float32).contiguous()
    kept = frames if return_steps else 1
    carried = torch.empty((clips, kept, words, height, width), dtype=torch.int32)
    _extension().warp_union(
        masks.data_ptr(), flow.data_ptr(), carried.data_ptr(),
        clips, frames, words, height, width, kept, _threads(threads),
    )  # fmt: skip
    return carried if return_steps else carried[:, 0]


def soft_union(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor, *, threads: int = 0) -> Tensor:
    """C++ version of `f2f.kernels.soft_union`."""
    checks.check_soft_union(maps, flow_xy_px, return_xy_px)
    _check_cpu("maps", maps)
    clips, frames, planes, height, width = maps.shape
    values, flow, back = (tensor.contiguous() for tensor in (maps, flow_xy_px, return_xy_px))
    united = torch.empty((clips, planes, height, width), dtype=torch.float32)
    _extension().soft_union(
        values.data_ptr(), flow.data_ptr(), back.data_ptr(), united.data_ptr(),
        clips, frames, planes, height, width, _threads(threads),
    )  # fmt: skip
    return united


def cost_volume(f1: Tensor, f2: Tensor, max_displacement: int = 4, *, threads: int = 0) -> Tensor:
    """C++ version of `f2f.kernels.cost_volume`: float64 in float64, everything else in float32."""
    return _cost_volume(f1, f2, None, max_displacement, threads)


def cost_volume_backward(
    gradient: Tensor, f1: Tensor, f2: Tensor, max_displacement: int, *, threads: int = 0
) -> tuple[Tensor, Tensor]:
    """C++ version of `reference.cost_volume_backward`."""
    to_f1, to_f2, _ = _cost_volume_backward(gradient, f1, f2, None, max_displacement, threads)
    return to_f1, to_f2


def warp_cost_volume(
    f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int = 4, *, threads: int = 0
) -> Tensor:
    """C++ version of `f2f.kernels.warp_cost_volume`; precision as in `cost_volume`."""
    return _cost_volume(f1, f2, flow_xy_px, max_displacement, threads)


def warp_cost_volume_backward(
    gradient: Tensor, f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int, *, threads: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """C++ version of `reference.warp_cost_volume_backward`."""
    to_f1, to_f2, to_flow = _cost_volume_backward(gradient, f1, f2, flow_xy_px, max_displacement, threads)
    assert to_flow is not None
    return to_f1, to_f2, to_flow


def compose_labels(
    bits: Tensor, classes: Tensor, saliency: Tensor | None, theta_b: float, *, threads: int = 0
) -> Tensor:
    """C++ version of `f2f.kernels.compose_labels`."""
    checks.check_compose(bits, classes, saliency, theta_b)
    _check_cpu("bits", bits)
    images, _, height, width = bits.shape
    masks, listed = bits.contiguous(), classes.contiguous()
    prior = None if saliency is None else saliency.contiguous()
    labels = torch.empty((images, height, width), dtype=torch.uint8)
    _extension().compose_labels(
        masks.data_ptr(), listed.data_ptr(), _address(prior), theta_b, labels.data_ptr(),
        images, classes.shape[1], height, width, _threads(threads),
    )  # fmt: skip
    return labels


def minimum_barrier(channels: Tensor, passes: int = 3, *, threads: int = 0) -> Tensor:
    """C++ version of `f2f.kernels.minimum_barrier`."""
    checks.check_barrier(channels, passes)
    _check_cpu("channels", channels)
    images, depth, height, width = channels.shape
    values = channels.contiguous()
    distance = torch.empty((images, height, width), dtype=torch.float32)
    _extension().minimum_barrier(
        values.data_ptr(), distance.data_ptr(), images, depth, height, width, passes, _threads(threads)
    )
    return distance


def crf_refine(
    unary: Tensor,
    image: Tensor,
    *,
    steps: int = 5,
    gaussian_px: float = 3.0,
    gaussian_weight: float = 3.0,
    bilateral_px: float = 60.0,
    bilateral_rgb: float = 8.0,
    bilateral_weight: float = 5.0,
    threads: int = 0,
) -> Tensor:
    """C++ version of `f2f.kernels.crf_refine`: the bilateral kernel by the permutohedral lattice, an approximation.

    Pixels of like colour in a tile of half a deviation are one point of it. The Gaussian kernel ends at four standard
    deviations. The result does not depend on the number of threads.
    """
    options = (gaussian_px, gaussian_weight, bilateral_px, bilateral_rgb, bilateral_weight)
    checks.check_crf(unary, image, steps, *options)
    _check_cpu("unary", unary)
    energies, colours = unary.contiguous(), image.contiguous()
    probabilities = torch.empty(unary.shape, dtype=torch.float32)
    _extension().crf_refine(
        energies.data_ptr(), colours.data_ptr(), probabilities.data_ptr(),
        [*unary.shape], steps, options, _threads(threads),
    )  # fmt: skip
    return probabilities


def _cost_volume(f1: Tensor, f2: Tensor, flow_xy_px: Tensor | None, reach: int, threads: int) -> Tensor:
    checks.check_features(f1, f2, reach, flow_xy_px)
    _check_cpu("f1", f1)
    precise, suffix = _precision(f1, flow_xy_px)
    here, there, flow = _dense(precise, f1, f2, flow_xy_px)
    images, _, height, width = f1.shape
    costs = torch.empty((images, (2 * reach + 1) ** 2, height, width), dtype=precise)
    run = getattr(_extension(), f"cost_volume_{suffix}")
    run(_address(here), _address(there), _address(flow), costs.data_ptr(), [*f1.shape], reach, _threads(threads))
    return costs.to(f1.dtype)


def _cost_volume_backward(
    gradient: Tensor, f1: Tensor, f2: Tensor, flow_xy_px: Tensor | None, reach: int, threads: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    checks.check_features(f1, f2, reach, flow_xy_px)
    checks.check_shape("gradient", gradient, (f1.shape[0], (2 * reach + 1) ** 2, *f1.shape[2:]), "the costs' shape")
    checks.check_same_device(gradient=gradient, f1=f1)
    _check_cpu("f1", f1)
    precise, suffix = _precision(f1, flow_xy_px)
    of_costs, here, there, flow = _dense(precise, gradient, f1, f2, flow_xy_px)
    to_f1, to_f2 = (torch.empty(f1.shape, dtype=precise) for _ in range(2))
    to_flow = None if flow_xy_px is None else torch.zeros(flow_xy_px.shape, dtype=precise)
    run = getattr(_extension(), f"cost_volume_backward_{suffix}")
    addresses = [_address(tensor) for tensor in (of_costs, here, there, flow, to_f1, to_f2, to_flow)]
    run(*addresses, [*f1.shape], reach, _threads(threads))
    flow_gradient = None if to_flow is None or flow_xy_px is None else to_flow.to(flow_xy_px.dtype)
    return to_f1.to(f1.dtype), to_f2.to(f2.dtype), flow_gradient


def _precision(f1: Tensor, flow_xy_px: Tensor | None) -> tuple[torch.dtype, str]:
    """What the cost volumes compute in, and the extension's name for it."""
    double = f1.dtype == torch.float64 or (flow_xy_px is not None and flow_xy_px.dtype == torch.float64)
    return (torch.float64, "f64") if double else (torch.float32, "f32")


def _dense(dtype: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.to(dtype).contiguous() for tensor in tensors]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _cam_addresses(cam: Tensor, flip: bool, size_hw: tuple[int, int]) -> tuple[Any, ...]:
    """What the extension wants to know of one CAM [B, C, h, w]."""
    height, width = cam.shape[2:]
    return (cam.data_ptr(), height, width, _axis(height, size_hw[0], False)[0], _axis(width, size_hw[1], flip)[0])


@cache
def _axis(in_size: int, out_size: int, mirrored: bool) -> tuple[list[int], tuple[Tensor, ...]]:
    """Addresses of `cam_taps` as the extension wants them, and the tables, which so stay alive."""
    low, high, *weights = cam_taps(in_size, out_size, mirrored)
    tables = (low.int(), high.int(), *weights)
    return [table.data_ptr() for table in tables], tables


@cache
def _load() -> ModuleType | ImportError:
    try:
        extension = importlib.import_module("f2f.kernels._C")
    except ImportError as error:
        return error
    forced = os.environ.get(ISA_ENVIRONMENT, "")
    if forced:
        _force_isa(extension, forced)
    return extension


def _force_isa(extension: ModuleType, name: str) -> None:
    if name not in extension.usable_isas():
        raise ValueError(
            f"{ISA_ENVIRONMENT}={name} cannot be met; accepted on this machine: {', '.join(extension.usable_isas())}; "
            f"unset {ISA_ENVIRONMENT} to have the best one chosen"
        )
    extension.use_isa(name)


def _extension() -> ModuleType:
    extension = _load()
    if isinstance(extension, ImportError):
        raise ImportError(
            f"the C++ kernels cannot be loaded ({extension}); build them with `pip install -e .` and a C++20 compiler, "
            "or set F2F_KERNELS=torch"
        ) from extension
    return extension


def _check_cpu(name: str, tensor: Tensor) -> None:
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}; accepted: cpu for the C++ version; move it with .cpu()")


def _threads(asked: int) -> int:
    if asked < 0:
        raise ValueError(f"threads is {asked}; accepted: 1 or more, or 0 for as many as torch uses")
    return asked or torch.get_num_threads()
