"""The public operators: one function and one `torch.library` operator each, whichever version of it runs.

Each is defined, argument by argument, by the function of the same name in `f2f.kernels.reference`; `dispatch` decides
which version runs. All stay one node under `torch.compile` and `torch.export`, with dynamic shapes. Tensors need not be
contiguous; wrong dtypes, shapes, devices and values raise ValueError. What depends on values (class numbers) is not
checked on CUDA, where that would wait for the GPU: numbers out of range count as -1, none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from f2f.kernels import checks, dispatch, exported


def activate_cams(
    cams: Sequence[Tensor], flips: Sequence[bool], classes: Tensor, size_hw: tuple[int, int], theta: float
) -> tuple[Tensor, Tensor]:
    """Upsample, maximise over scales and flips, threshold and pack the listed classes' CAMs: (bits, peaks).

    `cams[i]` float32 [B, C, h_i, w_i] (pre-ReLU, mirrored where `flips[i]`), `classes` int64 [B, P] (-1 = none);
    bits int32 [B, ceil(P / 32), H, W], peaks float32 [B, P]. Defined by `reference.activate_cams`.
    """
    height, width = size_hw
    bits, peaks = _activate_cams(cams, flips, classes, height, width, theta)
    return bits, peaks


def warp_union(bits: Tensor, flow_xy_px: Tensor, *, return_steps: bool = False) -> Tensor:
    """Carry bit-plane masks along the flow, frame by frame, uniting them: int32 [B, N, H, W].

    `bits` int32 [B, K, N, H, W]; `flow_xy_px` float32 or float16 [B, K-1, 2, H, W], from frame k + 1 to frame k;
    `return_steps` gives every frame's union, [B, K, N, H, W]. Defined by `reference.warp_union`.
    """
    united: Tensor = _warp_union(bits, flow_xy_px, return_steps)
    return united


def soft_union(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor) -> Tensor:
    """Carry maps along the flow, frame by frame, keeping the larger value: float32 [B, P, H, W].

    `maps` float32 [B, K, P, H, W], finite and not negative; `flow_xy_px` float32 [B, K-1, 2, H, W], from frame k + 1 to
    frame k, and `return_xy_px` the other way: where the two do not agree nothing is carried. No gradient: the result
    is detached. Defined by `reference.soft_union`.
    """
    united: Tensor = _soft_union(maps.detach(), flow_xy_px.detach(), return_xy_px.detach())
    return united


def cost_volume(f1: Tensor, f2: Tensor, max_displacement: int = 4) -> Tensor:
    """PWC-Net's correlation, float [B, C, H, W] twice -> [B, (2d + 1)^2, H, W], differentiable once.

    Sums in float32 (float64 for float64). A TorchScript trace, as the ONNX export makes one, holds plain operators
    instead (kernels/exported.py). Defined by `reference.cost_volume`.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # torch leaves it untyped
        return exported.cost_volume(f1, f2, max_displacement)
    costs: Tensor = _cost_volume(f1, f2, max_displacement)
    return costs


def warp_cost_volume(f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int = 4) -> Tensor:
    """`cost_volume` with f2 sampled at p + flow, float [B, 2, H, W] in px; see `reference.warp_cost_volume`."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # torch leaves it untyped
        return exported.warp_cost_volume(f1, f2, flow_xy_px, max_displacement)
    costs: Tensor = _warp_cost_volume(f1, f2, flow_xy_px, max_displacement)
    return costs


def compose_labels(bits: Tensor, classes: Tensor, saliency: Tensor | None, theta_b: float) -> Tensor:
    """One label per pixel, uint8 [B, H, W]: class + 1, 0 = background, 255 = ignore.

    `bits` int32 [B, N, H, W], `classes` int64 [B, P], `saliency` float32 [B, 1, H, W] in 0..1 or None. Defined by
    `reference.compose_labels`.
    """
    labels: Tensor = _compose_labels(bits, classes, saliency, theta_b)
    return labels


def minimum_barrier(channels: Tensor, passes: int = 3) -> Tensor:
    """Minimum barrier distance to the image border: float32 [B, C, H, W] -> [B, H, W], summed over channels.

    Defined by `reference.minimum_barrier`.
    """
    distance: Tensor = _minimum_barrier(channels, passes)
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
) -> Tensor:
    """Label probabilities refined along an image's edges by a dense CRF: float32 [B, L, H, W] -> [B, L, H, W].

    `unary` holds energies -log p, `image` float32 [B, 3, H, W] RGB of 0..1, `bilateral_rgb` is in units of 0..255. No
    gradient: the result is detached. Defined by `reference.crf_refine`; the C++ version comes near it by a lattice.
    """
    numbers = (gaussian_px, gaussian_weight, bilateral_px, bilateral_rgb, bilateral_weight)
    probabilities: Tensor = _crf_refine(unary.detach(), image.detach(), steps, *numbers)
    return probabilities


def _version(operator: str, tensor: Tensor, suffix: str = "") -> Callable[..., Any]:
    return dispatch.implementation(operator, tensor.device.type, suffix)


@torch.library.custom_op("f2f::activate_cams", mutates_args=())
def _activate_cams(
    cams: Sequence[Tensor], flips: Sequence[bool], classes: Tensor, height: int, width: int, theta: float
) -> tuple[Tensor, Tensor]:
    bits, peaks = _version("activate_cams", classes)(cams, flips, classes, (height, width), theta)
    return bits, peaks


@_activate_cams.register_fake
def _activate_cams_shape(
    cams: Sequence[Tensor], flips: Sequence[bool], classes: Tensor, height: int, width: int, theta: float
) -> tuple[Tensor, Tensor]:
    del cams, flips, theta
    images, planes = classes.shape
    bits = classes.new_empty((images, checks.words_for(planes), height, width), dtype=torch.int32)
    return bits, classes.new_empty((images, planes), dtype=torch.float32)


@torch.library.custom_op("f2f::warp_union", mutates_args=())
def _warp_union(bits: Tensor, flow_xy_px: Tensor, return_steps: bool) -> Tensor:
    united: Tensor = _version("warp_union", bits)(bits, flow_xy_px, return_steps=return_steps)
    return united


@_warp_union.register_fake
def _warp_union_shape(bits: Tensor, flow_xy_px: Tensor, return_steps: bool) -> Tensor:
    del flow_xy_px
    batch, _, words, height, width = bits.shape
    return bits.new_empty(bits.shape if return_steps else (batch, words, height, width))


@torch.library.custom_op("f2f::soft_union", mutates_args=())
def _soft_union(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor) -> Tensor:
    united: Tensor = _version("soft_union", maps)(maps, flow_xy_px, return_xy_px)
    return united


@_soft_union.register_fake
def _soft_union_shape(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor) -> Tensor:
    del flow_xy_px, return_xy_px
    return maps.new_empty((maps.shape[0], *maps.shape[2:]))


@torch.library.custom_op("f2f::cost_volume", mutates_args=())
def _cost_volume(f1: Tensor, f2: Tensor, max_displacement: int) -> Tensor:
    costs: Tensor = _version("cost_volume", f1)(f1, f2, max_displacement)
    return costs


@_cost_volume.register_fake
def _cost_volume_shape(f1: Tensor, f2: Tensor, max_displacement: int) -> Tensor:
    del f2
    return f1.new_empty((f1.shape[0], (2 * max_displacement + 1) ** 2, *f1.shape[2:]))


@torch.library.custom_op("f2f::cost_volume_backward", mutates_args=())
def _cost_volume_backward(gradient: Tensor, f1: Tensor, f2: Tensor, max_displacement: int) -> tuple[Tensor, Tensor]:
    to_f1, to_f2 = _version("cost_volume", f1, "_backward")(gradient, f1, f2, max_displacement)
    return to_f1, to_f2


@_cost_volume_backward.register_fake
def _cost_volume_backward_shape(
    gradient: Tensor, f1: Tensor, f2: Tensor, max_displacement: int
) -> tuple[Tensor, Tensor]:
    del gradient, max_displacement
    return f1.new_empty(f1.shape), f2.new_empty(f2.shape)


@torch.library.custom_op("f2f::warp_cost_volume", mutates_args=())
def _warp_cost_volume(f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int) -> Tensor:
    costs: Tensor = _version("warp_cost_volume", f1)(f1, f2, flow_xy_px, max_displacement)
    return costs


@_warp_cost_volume.register_fake
def _warp_cost_volume_shape(f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int) -> Tensor:
    del f2, flow_xy_px
    return f1.new_empty((f1.shape[0], (2 * max_displacement + 1) ** 2, *f1.shape[2:]))


@torch.library.custom_op("f2f::warp_cost_volume_backward", mutates_args=())
def _warp_cost_volume_backward(
    gradient: Tensor, f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int
) -> tuple[Tensor, Tensor, Tensor]:
    run = _version("warp_cost_volume", f1, "_backward")
    to_f1, to_f2, to_flow = run(gradient, f1, f2, flow_xy_px, max_displacement)
    return to_f1, to_f2, to_flow


@_warp_cost_volume_backward.register_fake
def _warp_cost_volume_backward_shape(
    gradient: Tensor, f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int
) -> tuple[Tensor, Tensor, Tensor]:
    del gradient, max_displacement
    return f1.new_empty(f1.shape), f2.new_empty(f2.shape), flow_xy_px.new_empty(flow_xy_px.shape)


@torch.library.custom_op("f2f::compose_labels", mutates_args=())
def _compose_labels(bits: Tensor, classes: Tensor, saliency: Tensor | None, theta_b: float) -> Tensor:
    labels: Tensor = _version("compose_labels", bits)(bits, classes, saliency, theta_b)
    return labels


@_compose_labels.register_fake
def _compose_labels_shape(bits: Tensor, classes: Tensor, saliency: Tensor | None, theta_b: float) -> Tensor:
    del classes, saliency, theta_b
    return bits.new_empty((bits.shape[0], *bits.shape[2:]), dtype=torch.uint8)


@torch.library.custom_op("f2f::minimum_barrier", mutates_args=())
def _minimum_barrier(channels: Tensor, passes: int) -> Tensor:
    distance: Tensor = _version("minimum_barrier", channels)(channels, passes)
    return distance


@_minimum_barrier.register_fake
def _minimum_barrier_shape(channels: Tensor, passes: int) -> Tensor:
    del passes
    return channels.new_empty((channels.shape[0], *channels.shape[2:]))


@torch.library.custom_op("f2f::crf_refine", mutates_args=())
def _crf_refine(
    unary: Tensor,
    image: Tensor,
    steps: int,
    gaussian_px: float,
    gaussian_weight: float,
    bilateral_px: float,
    bilateral_rgb: float,
    bilateral_weight: float,
) -> Tensor:
    probabilities: Tensor = _version("crf_refine", unary)(
        unary, image, steps=steps, gaussian_px=gaussian_px, gaussian_weight=gaussian_weight,
        bilateral_px=bilateral_px, bilateral_rgb=bilateral_rgb, bilateral_weight=bilateral_weight,
    )  # fmt: skip
    return probabilities


@_crf_refine.register_fake
def _crf_refine_shape(
    unary: Tensor,
    image: Tensor,
    steps: int,
    gaussian_px: float,
    gaussian_weight: float,
    bilateral_px: float,
    bilateral_rgb: float,
    bilateral_weight: float,
) -> Tensor:
    del image, steps, gaussian_px, gaussian_weight, bilateral_px, bilateral_rgb, bilateral_weight
    return unary.new_empty(unary.shape)


def _remember_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    *tensors, ctx.max_displacement = inputs
    ctx.save_for_backward(*tensors)


def _cost_volume_gradients(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_cost_volume_backward(gradient, *context.saved_tensors, context.max_displacement), None


def _warp_cost_volume_gradients(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_warp_cost_volume_backward(gradient, *context.saved_tensors, context.max_displacement), None


_cost_volume.register_autograd(_cost_volume_gradients, setup_context=_remember_inputs)
_warp_cost_volume.register_autograd(_warp_cost_volume_gradients, setup_context=_remember_inputs)
