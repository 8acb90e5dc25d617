"""What the operators refuse. Every message names the tensor, what was given, what is accepted, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BITS_PER_WORD = 32
MAX_CLASSES = 254  # label 0 is background and 255 is ignore

MIN_DEVIATION = 0.05  # px: neighbours are then 20 deviations apart, and exp(-200) is 0 in float32


def words_for(planes: int) -> int:
    """How many int32 words carry `planes` bit planes."""
    return -(-planes // BITS_PER_WORD)


def check_tensor(name: str, tensor: Tensor, dims: str, *dtypes: torch.dtype) -> None:
    """Refuse a tensor whose rank is not that of `dims` (such as "B C H W") or whose dtype is not among `dtypes`."""
    wanted = f"[{dims.replace(' ', ',')}] {' or '.join(_short(dtype) for dtype in dtypes)}"
    given = f"{list(tensor.shape)} {_short(tensor.dtype)}"
    if tensor.dim() != len(dims.split()):
        raise ValueError(f"{name} is {given}; accepted: {wanted}; add or remove dimensions")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {given}; accepted: {wanted}; convert it with .to({dtypes[0]})")


def check_shape(name: str, tensor: Tensor, wanted: Sequence[int], because: str) -> None:
    """Refuse a tensor whose shape is not `wanted`; `because` says what sets that shape."""
    if tuple(tensor.shape) != tuple(wanted):
        raise ValueError(
            f"{name} is {list(tensor.shape)}; accepted: {list(wanted)} ({because}); check how it was built"
        )


def check_same_device(**tensors: Tensor | None) -> None:
    """Refuse tensors that do not live on one device."""
    devices = {name: str(tensor.device) for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        raise ValueError(f"devices differ: {devices}; accepted: one device for all; move them with .to(device)")


def check_fraction(name: str, value: float) -> None:
    """Refuse a threshold outside 0..1 (NaN too)."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}; accepted: 0..1; give a fraction, not per cent")


def check_warp_union(bits: Tensor, flow_xy_px: Tensor) -> None:
    """Refuse what `warp_union` cannot take."""
    check_tensor("bits", bits, "B K N H W", torch.int32)
    check_tensor("flow_xy_px", flow_xy_px, "B K-1 2 H W", torch.float32, torch.float16)
    clips, frames, _, height, width = bits.shape
    if frames < 1:
        raise ValueError(f"bits is {list(bits.shape)}, K = 0 frames; accepted: K >= 1; give at least one frame")
    check_shape("flow_xy_px", flow_xy_px, (clips, frames - 1, 2, height, width), "[B,K-1,2,H,W] of bits")
    check_same_device(bits=bits, flow_xy_px=flow_xy_px)


def check_soft_union(maps: Tensor, flow_xy_px: Tensor, return_xy_px: Tensor) -> None:
    """Refuse what `soft_union` cannot take."""
    check_tensor("maps", maps, "B K P H W", torch.float32)
    clips, frames, _, height, width = maps.shape
    if frames < 1:
        raise ValueError(f"maps is {list(maps.shape)}, K = 0 frames; accepted: K >= 1; give at least one frame")
    for name, flow in (("flow_xy_px", flow_xy_px), ("return_xy_px", return_xy_px)):
        check_tensor(name, flow, "B K-1 2 H W", torch.float32)
        check_shape(name, flow, (clips, frames - 1, 2, height, width), "[B,K-1,2,H,W] of maps")
    check_same_device(maps=maps, flow_xy_px=flow_xy_px, return_xy_px=return_xy_px)


def check_cams(cams: Sequence[Tensor], flips: Sequence[bool], classes: Tensor, size_hw: tuple[int, int]) -> None:
    """Refuse what `activate_cams` cannot take."""
    if not cams or len(cams) != len(flips):
        raise ValueError(
            f"{len(cams)} cams and {len(flips)} flips; accepted: equally many, at least one; give a flip per cam"
        )
    check_tensor("classes", classes, "B P", torch.int64)
    if min(size_hw) < 1:
        raise ValueError(
            f"size_hw is {tuple(size_hw)}; accepted: positive (height, width) in px; give the frame's size"
        )
    batch, channels = classes.shape[0], cams[0].shape[1] if cams[0].dim() == 4 else 0
    for i, cam in enumerate(cams):
        name = f"cams[{i}]"
        check_tensor(name, cam, "B C h w", torch.float32)
        check_shape(name, cam, (batch, channels, *cam.shape[2:]), "B of classes, C of cams[0]")
        if 0 in cam.shape[2:]:
            raise ValueError(
                f"{name} is {list(cam.shape)}; accepted: h, w >= 1; the image was too small for the network"
            )
        check_same_device(classes=classes, **{name: cam})
    check_class_range(classes, channels, f"the {channels} channels of cams")


def check_class_range(classes: Tensor, limit: int, because: str) -> None:
    """Refuse class numbers outside -1..limit-1 (-1: the plane is not used); not on CUDA: reading them would wait."""
    if classes.numel() == 0 or classes.is_cuda:
        return
    low, high = int(classes.min()), int(classes.max())
    if low < -1 or high >= limit:
        raise ValueError(
            f"classes holds {low}..{high}; accepted: 0..{limit - 1}, or -1 for none ({because}); "
            "list class numbers from 0, without background"
        )


def check_compose(bits: Tensor, classes: Tensor, saliency: Tensor | None, theta_b: float) -> None:
    """Refuse what `compose_labels` cannot take."""
    check_tensor("bits", bits, "B N H W", torch.int32)
    check_tensor("classes", classes, "B P", torch.int64)
    batch, _, height, width = bits.shape
    planes = classes.shape[1]
    check_shape("classes", classes, (batch, planes), "B of bits")
    check_shape(
        "bits", bits, (batch, words_for(planes), height, width), f"N = ceil(P / 32) words for P = {planes} classes"
    )
    check_class_range(classes, MAX_CLASSES, "a uint8 label keeps 0 for background and 255 for ignore")
    if saliency is not None:
        check_tensor("saliency", saliency, "B 1 H W", torch.float32)
        check_shape("saliency", saliency, (batch, 1, height, width), "[B,1,H,W] of bits")
        check_fraction("theta_b", theta_b)
    check_same_device(bits=bits, classes=classes, saliency=saliency)


def check_features(f1: Tensor, f2: Tensor, max_displacement: int, flow_xy_px: Tensor | None = None) -> None:
    """Refuse what the cost volumes cannot take; checks nothing while a graph is traced for export."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # torch leaves it untyped
        return
    if max_displacement < 0:
        raise ValueError(f"max_displacement is {max_displacement}; accepted: 0 or more px; PWC-Net uses 4")
    floats = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    check_tensor("f1", f1, "B C H W", *floats)
    check_tensor("f2", f2, "B C H W", f1.dtype)
    check_shape("f2", f2, f1.shape, "the shape of f1")
    if flow_xy_px is not None:
        check_tensor("flow_xy_px", flow_xy_px, "B 2 H W", *floats)
        check_shape("flow_xy_px", flow_xy_px, (f1.shape[0], 2, *f1.shape[2:]), "[B,2,H,W] of f1")
    check_same_device(f1=f1, f2=f2, flow_xy_px=flow_xy_px)


def check_barrier(channels: Tensor, passes: int) -> None:
    """Refuse what `minimum_barrier` cannot take."""
    check_tensor("channels", channels, "B C H W", torch.float32)
    if passes < 1:
        raise ValueError(f"passes is {passes}; accepted: 1 or more sweeps; the paper uses 3")


def check_crf(
    unary: Tensor,
    image: Tensor,
    steps: int,
    gaussian_px: float,
    gaussian_weight: float,
    bilateral_px: float,
    bilateral_rgb: float,
    bilateral_weight: float,
) -> None:
    """Refuse what `crf_refine` cannot take."""
    check_tensor("unary", unary, "B L H W", torch.float32)
    check_tensor("image", image, "B 3 H W", torch.float32)
    windows, labels, height, width = unary.shape
    check_shape("image", image, (windows, 3, height, width), "B, H and W of unary, and RGB")
    if labels < 1:
        raise ValueError(f"unary is {list(unary.shape)}, L = 0 labels; accepted: L >= 1; give an energy per label")
    check_same_device(unary=unary, image=image)
    if steps < 0:
        raise ValueError(f"steps is {steps}; accepted: 0 or more; 5 to 10 are usual")
    deviations = {"gaussian_px": gaussian_px, "bilateral_px": bilateral_px, "bilateral_rgb": bilateral_rgb}
    for name, value in deviations.items():
        if not MIN_DEVIATION <= value < torch.inf:
            raise ValueError(
                f"{name} is {value}; accepted: {MIN_DEVIATION} or more; give a standard deviation in px, or of colours "
                "in units of 0..255"
            )
    for name, value in {"gaussian_weight": gaussian_weight, "bilateral_weight": bilateral_weight}.items():
        if not 0 <= value < torch.inf:
            raise ValueError(f"{name} is {value}; accepted: 0 or more; 0 leaves the kernel out")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
