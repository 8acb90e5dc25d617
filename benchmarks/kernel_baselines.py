"""What people would use instead of f2f's kernels.

Torch as a researcher writes it, torch.compile of exactly that, OpenCV, kornia, localcorr and pydensecrf; each works on
what its users hold: float, bool or byte masks per class, no bit planes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from kernel_contenders import CRF_BAND, Absent, Contender, float_masks, in_bytes, likeliest, over_levels, rounding_band
from kernel_timing import Stopwatch, percentiles
from kernel_workloads import (
    COSTS,
    THETA_B,
    THETA_F,
    CamInputs,
    Case,
    CrfInputs,
    LabelInputs,
    Level,
    SoftUnionInputs,
    WarpUnionInputs,
)
from torch import Tensor

from f2f.kernels import unpack_planes

EAGER, COMPILE, DENSECRF = "torch eager", "torch compile", "pydensecrf"

# Pixels of the last mask that may differ, as a share of those set in either. Flow is not snapped to 1/512 px by those
# who sample in float, and rounded to 1/32 px by OpenCV's fixed-point maps; with flow that differs from pixel to pixel
# the edge is everywhere, so four steps of it leave more.
_FLOAT_BAND = {"smooth": 0.001, "random": 0.005}
_FIXED_BAND = {"smooth": 0.005, "random": 0.03}
_SOFT_BAND = 0.005  # bytes that may differ: rounded the other way, or at the edge of what is carried
_CAM_BAND = 0.001  # interpolation weights differ in their last bits


def baselines(case: Case, inputs: Any, device: str) -> list[Contender | Absent]:
    """All baselines of a case's operator."""
    return _BASELINES[case.op](case, inputs, device)


def _torch_pair(function: Callable[..., Any], prepare: Callable[[Callable[..., Any]], Contender]) -> list[Contender]:
    """`function` as it is and compiled. `prepare` makes a contender of either."""
    torch._dynamo.reset()
    eager, compiled = prepare(function), prepare(torch.compile(function, fullgraph=True))
    return [replace(eager, backend=EAGER), replace(compiled, backend=COMPILE)]


# ---- warp_union ----


def _warp_union_baselines(case: Case, inputs: WarpUnionInputs, device: str) -> list[Contender | Absent]:
    masks, flow = float_masks(inputs, case.planes), inputs.flow_xy_px.float()

    def prepare(function: Callable[..., Tensor]) -> Contender:
        return Contender(
            backend="", call=lambda: function(masks, flow), finish=lambda out: [out > 0.5], band=_FLOAT_BAND[case.flow]
        )

    found: list[Contender | Absent] = [*_torch_pair(warp_union_eager, prepare)]
    try:
        from kornia.geometry.transform import remap

        kornia = prepare(lambda masks, flow: _warp_union_kornia(remap, masks, flow))
        found.append(replace(kornia, backend="kornia"))
    except ImportError as error:
        found.append(Absent(backend="kornia", reason=str(error)))
    return [*found, _opencv(case, inputs, device)]


def warp_union_eager(masks: Tensor, flow_xy_px: Tensor) -> Tensor:
    """Carry float masks [B, K, P, H, W] along the flow with `grid_sample`: [B, P, H, W] of 0 and 1."""
    height, width = masks.shape[-2:]
    x, y = torch.arange(width, device=masks.device), torch.arange(height, device=masks.device)
    pixel = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [H, W, 2]
    last = torch.tensor([width - 1, height - 1], device=masks.device)
    carried = masks[:, 0]
    for k in range(masks.shape[1] - 1):
        place = pixel + flow_xy_px[:, k].permute(0, 2, 3, 1)  # [B, H, W, 2]
        grid = 2 * place / last - 1
        warped = F.grid_sample(carried, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        carried = torch.maximum(masks[:, k + 1], (warped > 0.5).float())
    return carried


def _warp_union_kornia(remap: Callable[..., Tensor], masks: Tensor, flow_xy_px: Tensor) -> Tensor:
    x, y = torch.arange(masks.shape[-1], device=masks.device), torch.arange(masks.shape[-2], device=masks.device)
    carried = masks[:, 0]
    for k in range(masks.shape[1] - 1):
        warped = remap(carried, x + flow_xy_px[:, k, 0], y[:, None] + flow_xy_px[:, k, 1], align_corners=True)
        carried = torch.maximum(masks[:, k + 1], (warped > 0.5).float())
    return carried


def _opencv(case: Case, inputs: WarpUnionInputs, device: str) -> Contender | Absent:
    """The fastest of OpenCV's forms: one or four classes per image, float or fixed-point maps."""
    if device != "cpu":
        return Absent(backend="opencv", reason="the wheel's remap runs on the CPU only")
    try:
        import cv2
    except ImportError as error:
        return Absent(backend="opencv", reason=str(error))
    cv2.setNumThreads(torch.get_num_threads())
    forms = [_opencv_form(case, inputs, channels, fixed) for channels in (1, 4) for fixed in (False, True)]
    stopwatch = Stopwatch("cpu")
    return min(forms, key=lambda form: percentiles([stopwatch(form.call) for _ in range(6)])[0])


def _opencv_form(case: Case, inputs: WarpUnionInputs, channels: int, fixed: bool) -> Contender:
    clips = [_images(clip, case.planes, channels) for clip in inputs.bits]
    flows = inputs.flow_xy_px.float().numpy()  # [B, K-1, 2, H, W]

    def call() -> list[list[npt.NDArray[np.uint8]]]:
        return [_remap_clip(images, flow, fixed) for images, flow in zip(clips, flows, strict=True)]

    def finish(united: list[list[npt.NDArray[np.uint8]]]) -> list[Tensor]:
        stacked = np.stack([np.dstack(groups) for groups in united])  # [B, H, W, P or more]
        return [torch.from_numpy(stacked).permute(0, 3, 1, 2)[:, : case.planes] > 0]

    form = f"{channels}-channel images, {'fixed-point' if fixed else 'float'} maps"
    band = (_FIXED_BAND if fixed else _FLOAT_BAND)[case.flow]
    return Contender(backend="opencv", form=form, call=call, finish=finish, band=band)


def _images(clip: Tensor, planes: int, channels: int) -> list[list[npt.NDArray[np.uint8]]]:
    """A clip's masks [K, N, H, W] as images of 0 and 255: per frame a list of [H, W, channels]."""
    masks = unpack_planes(clip, planes).permute(0, 2, 3, 1).to(torch.uint8).numpy() * 255  # [K, H, W, P]
    padded = np.pad(masks, [(0, 0)] * 3 + [(0, -planes % channels)])
    starts = range(0, padded.shape[-1], channels)
    return [[np.ascontiguousarray(frame[..., start : start + channels]) for start in starts] for frame in padded]


def _remap_clip(
    frames: Sequence[Sequence[npt.NDArray[np.uint8]]], flows: npt.NDArray[np.float32], fixed: bool
) -> list[npt.NDArray[np.uint8]]:
    import cv2

    height, width = flows.shape[-2:]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    carried: list[Any] = list(frames[0])
    for flow, masks in zip(flows, frames[1:], strict=True):
        map_x, map_y = x + flow[0], y + flow[1]
        if fixed:
            map_x, map_y = cv2.convertMaps(map_x, map_y, cv2.CV_16SC2)
        for group, mask in enumerate(masks):
            warped = cv2.remap(carried[group], map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            sharp = cv2.threshold(warped, 127, 255, cv2.THRESH_BINARY)[1]
            carried[group] = cv2.bitwise_or(sharp.reshape(mask.shape), mask)  # a single channel loses its axis
    return carried


# ---- soft_union ----


def _soft_union_baselines(case: Case, inputs: SoftUnionInputs, device: str) -> list[Contender | Absent]:
    del case, device

    def prepare(function: Callable[..., Tensor]) -> Contender:
        return Contender(
            backend="",
            call=lambda: function(inputs.maps, inputs.flow_xy_px, inputs.return_xy_px),
            finish=lambda united: [in_bytes(united)],
            band=_SOFT_BAND,
        )

    return [*_torch_pair(soft_union_eager, prepare)]


def soft_union_eager(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor) -> Tensor:
    """Carry maps [B, K, P, H, W] along flow that is consistent; one `grid_sample` a step for them and the way back."""
    height, width = maps.shape[-2:]
    x, y = torch.arange(width, device=maps.device), torch.arange(height, device=maps.device)
    pixel = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [H, W, 2]
    last = torch.tensor([width - 1, height - 1], device=maps.device)
    carried = maps[:, 0]
    for k in range(maps.shape[1] - 1):
        flow = flow_xy_px[:, k]  # [B, 2, H, W]
        place = pixel + flow.permute(0, 2, 3, 1)  # [B, H, W, 2]
        both = torch.cat([carried, return_xy_px[:, k]], dim=1)
        warped = F.grid_sample(both, 2 * place / last - 1, mode="bilinear", padding_mode="zeros", align_corners=True)
        back = warped[:, -2:]
        lengths = flow.square().sum(1) + back.square().sum(1)
        kept = ((flow + back).square().sum(1) < 0.01 * lengths + 0.5) & ((place >= 0) & (place <= last)).all(-1)
        carried = torch.maximum(maps[:, k + 1], torch.where(kept[:, None], warped[:, :-2], 0.0))
    return carried


# ---- activate_cams ----


def _activate_cams_baselines(case: Case, inputs: CamInputs, device: str) -> list[Contender | Absent]:
    del case, device

    def prepare(function: Callable[..., tuple[Tensor, Tensor]]) -> Contender:
        return Contender(
            backend="",
            call=lambda: function(inputs.cams, inputs.flips, inputs.size_hw, THETA_F),
            finish=list,
            band=_CAM_BAND,
        )

    return [*_torch_pair(activate_cams_eager, prepare)]


def activate_cams_eager(
    cams: Sequence[Tensor], flips: Sequence[bool], size_hw: tuple[int, int], theta: float
) -> tuple[Tensor, Tensor]:
    """Masks bool [B, P, H, W] and peaks [B, P] of CAMs [B, P, h, w], by way of full-size float maps."""
    strongest = torch.zeros(*cams[0].shape[:2], *size_hw, device=cams[0].device)
    for cam, flip in zip(cams, flips, strict=True):
        upright = cam.flip(-1) if flip else cam
        full = F.interpolate(upright, size_hw, mode="bilinear", align_corners=False)
        strongest = torch.maximum(strongest, full.relu())
    peaks = strongest.amax(dim=(-2, -1))  # [B, P]
    return strongest > theta * (peaks + 1e-5)[..., None, None], peaks


# ---- compose_labels ----


def _compose_labels_baselines(case: Case, inputs: LabelInputs, device: str) -> list[Contender | Absent]:
    del device
    masks = unpack_planes(inputs.bits, case.planes)

    def prepare(function: Callable[..., Tensor]) -> Contender:
        return Contender(
            backend="",
            call=lambda: function(masks, inputs.saliency[:, 0], THETA_B),
            finish=lambda labels: [labels],
        )

    return [*_torch_pair(compose_labels_eager, prepare)]


def compose_labels_eager(masks: Tensor, saliency: Tensor, theta_b: float) -> Tensor:
    """Labels uint8 [B, H, W] of bool masks [B, P, H, W], smallest area first, and of saliency [B, H, W]."""
    areas = masks.sum(dim=(-2, -1), dtype=torch.int32)[..., None, None]  # [B, P, 1, 1]
    smallest, winner = torch.where(masks, areas, 2**30).min(dim=1)  # [B, H, W]
    rest = torch.where(saliency < theta_b, 0, 255)
    return torch.where(smallest < 2**30, winner + 1, rest).to(torch.uint8)


# ---- cost_volume, warp_cost_volume ----


def _cost_volume_baselines(case: Case, levels: Sequence[Level], device: str) -> list[Contender | Absent]:
    def prepare(function: Callable[..., Tensor]) -> Contender:
        return Contender(backend="", call=over_levels(function, levels, case), finish=list, band=rounding_band(case))

    function = cost_volume_eager if case.op == "cost_volume" else warp_cost_volume_eager
    found: list[Contender | Absent] = [*_torch_pair(function, prepare)]
    if case.op == "cost_volume":
        found.append(_localcorr(prepare, device))
    return found


def cost_volume_eager(f1: Tensor, f2: Tensor) -> Tensor:
    """PWC-Net's correlation as 81 slices, each multiplied and averaged: [B, 81, H, W]."""
    height, width = f1.shape[-2:]
    padded = F.pad(f2, [4, 4, 4, 4])
    costs = [
        (f1 * padded[:, :, y : y + height, x : x + width]).mean(dim=1, keepdim=True) for y in range(9) for x in range(9)
    ]
    return torch.cat(costs, dim=1)


def warp_cost_volume_eager(f1: Tensor, f2: Tensor, flow_xy_px: Tensor) -> Tensor:
    """PWC-Net's warping layer as published (a warped image of ones is the validity mask), then the correlation."""
    height, width = f2.shape[-2:]
    x = flow_xy_px[:, 0] + torch.arange(width, device=f2.device)
    y = flow_xy_px[:, 1] + torch.arange(height, device=f2.device)[:, None]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    warped = F.grid_sample(f2, grid, align_corners=True)
    valid = F.grid_sample(torch.ones_like(f2), grid, align_corners=True) >= 0.9999
    return cost_volume_eager(f1, warped * valid)


def _localcorr(prepare: Callable[[Callable[..., Tensor]], Contender], device: str) -> Contender | Absent:
    """localcorr's Triton sampler; on the CPU, where it has no kernel, the standard operations it exports to ONNX."""
    try:
        from localcorr import get_localcorr_sampler
        from localcorr.onnx_generic import spatial_corr_onnx_generic
    except ImportError as error:
        return Absent(backend="localcorr", reason=str(error))
    sampler = get_localcorr_sampler(patch_size=9) if device == "cuda" else None
    form = "localcorr_triton" if sampler else "standard operations (its kernels need CUDA)"

    def correlate(f1: Tensor, f2: Tensor) -> Tensor:
        sums: Tensor = sampler(f1, f2) if sampler else spatial_corr_onnx_generic(f1, f2, 4)  # [B, 9, 9, H, W]
        return sums.reshape(f1.shape[0], COSTS, *f1.shape[2:]) / f1.shape[1]  # localcorr leaves the mean to its user

    return replace(prepare(correlate), backend="localcorr", form=form)


# ---- crf_refine ----


def _crf_refine_baselines(case: Case, inputs: CrfInputs, device: str) -> list[Contender | Absent]:
    """pydensecrf, one image after the other: it has one thread. A lattice is built for every image, as by ours."""
    del case
    if device != "cpu":
        return [Absent(backend=DENSECRF, reason="runs on the CPU only")]
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        return [Absent(backend=DENSECRF, reason=str(error))]
    labels, height, width = inputs.unary.shape[1:]
    unaries = list(inputs.unary.flatten(2).numpy())
    images = [np.ascontiguousarray(image) for image in (inputs.image * 255).round().byte().movedim(1, -1).numpy()]

    def call() -> list[npt.NDArray[np.float32]]:
        results = []
        for unary, image in zip(unaries, images, strict=True):
            field = DenseCRF2D(width, height, labels)
            field.setUnaryEnergy(unary)
            field.addPairwiseGaussian(sxy=3, compat=3)
            field.addPairwiseBilateral(sxy=60, srgb=5, rgbim=image, compat=4)
            results.append(np.asarray(field.inference(5)))
        return results

    def finish(results: list[npt.NDArray[np.float32]]) -> list[Tensor]:
        return [likeliest(torch.from_numpy(np.stack(results)).view(-1, labels, height, width))]

    return [Contender(backend=DENSECRF, form="one thread", call=call, finish=finish, band=CRF_BAND)]


_BASELINES: dict[str, Callable[[Case, Any, str], list[Contender | Absent]]] = {
    "warp_union": _warp_union_baselines,
    "activate_cams": _activate_cams_baselines,
    "compose_labels": _compose_labels_baselines,
    "cost_volume": _cost_volume_baselines,
    "warp_cost_volume": _cost_volume_baselines,
    "crf_refine": _crf_refine_baselines,
    "soft_union": _soft_union_baselines,
}
