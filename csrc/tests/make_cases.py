"""Writes the cases that driver.cpp checks the C++ kernels against: inputs, and what kernels/reference.py makes of them.

A case is a line of text (operator and sizes), then arrays in C order, one after the other, as driver.cpp reads them.

python csrc/tests/make_cases.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from f2f.kernels import pack_planes, reference

CASES = Path(__file__).parent / "cases"


def write(name: str, header: list[object], *arrays: Tensor) -> None:
    """One case file."""
    with (CASES / f"{name}.case").open("wb") as stream:
        stream.write((" ".join(map(str, header)) + "\n").encode())
        for array in arrays:
            stream.write(np.ascontiguousarray(array.detach().numpy()).tobytes())


def warp_union(name: str, clips: int, frames: int, planes: int, height: int, width: int) -> None:
    """Flows of every kind: small, large, not finite."""
    bits = pack_planes(torch.rand(clips, frames, planes, height, width) < 0.5)
    flow = torch.randn(clips, frames - 1, 2, height, width) * 3
    flow[..., ::5, :] = torch.round(flow[..., ::5, :] * 2) / 2
    flow[..., 1::7, 0] = math.nan
    flow[..., 2::7, 0] = math.inf
    flow[..., 3::7, 0] = -1e9
    flow[..., -1, :] = 1.25  # a row that moves as one
    header = ["warp_union", clips, frames, bits.shape[2], height, width]
    write(name, header, bits, flow, reference.warp_union(bits, flow, return_steps=True))


def activate_cams(
    name: str, images: int, channels: int, size_hw: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    """All channels listed, one of them not at all; every second CAM mirrored."""
    cams = [torch.randn(images, channels, *size) for size in sizes]
    flips = [bool(i % 2) for i in range(len(cams))]
    classes = torch.stack([torch.randperm(channels) for _ in range(images)])
    classes[:, 0] = -1
    bits, peaks = reference.activate_cams(cams, flips, classes, size_hw, 0.25)
    tables = []
    for (height, width), flip in zip(sizes, flips, strict=True):
        for low, high, *weights in (
            reference.cam_taps(height, size_hw[0]),
            reference.cam_taps(width, size_hw[1], flip),
        ):
            tables += [low.int(), high.int(), *weights]
    header = [
        "activate_cams",
        images,
        channels,
        channels,
        *size_hw,
        len(cams),
        *(side for size in sizes for side in size),
    ]
    write(name, header, *cams, *tables, classes, bits, peaks)


def cost_volume(name: str, shape: tuple[int, int, int, int], reach: int, warped: bool, dtype: torch.dtype) -> None:
    """Costs and gradients, of f2 as it is or sampled along a flow."""
    f1, f2 = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    flow = torch.randn(shape[0], 2, *shape[2:], dtype=dtype) * 2
    gradient = torch.randn(shape[0], (2 * reach + 1) ** 2, *shape[2:], dtype=dtype)
    inputs = [f1, f2, flow] if warped else [f1, f2]
    operator = "warp_cost_volume" if warped else "cost_volume"
    forward: Callable[..., Tensor] = getattr(reference, operator)
    backward: Callable[..., tuple[Tensor, ...]] = getattr(reference, f"{operator}_backward")
    results = [forward(*inputs, reach), *backward(gradient, *inputs, reach)]
    operator += "_f64" if dtype == torch.float64 else "_f32"
    write(name, [operator, *shape, reach], *inputs, gradient, *results)


def compose_labels(name: str, images: int, planes: int, height: int, width: int) -> None:
    """Overlapping classes, with saliency."""
    bits = pack_planes(torch.rand(images, planes, height, width) < torch.rand(images, planes, 1, 1) * 0.1)
    classes = torch.stack([torch.randperm(254)[:planes] for _ in range(images)])
    classes[:, -1] = -1
    saliency = torch.rand(images, 1, height, width)
    labels = reference.compose_labels(bits, classes, saliency, 0.5)
    write(name, ["compose_labels", images, planes, height, width], bits, classes, saliency, labels)


def minimum_barrier(name: str, images: int, depth: int, height: int, width: int) -> None:
    """Three sweeps."""
    channels = torch.rand(images, depth, height, width)
    header = ["minimum_barrier", images, depth, height, width, 3]
    write(name, header, channels, reference.minimum_barrier(channels, 3))


def soft_union(name: str, clips: int, frames: int, planes: int, height: int, width: int) -> None:
    """Ways back that mostly agree, some flow that leaves the frame or is no number."""
    maps = torch.rand(clips, frames, planes, height, width)
    flow = 3 * torch.randn(clips, frames - 1, 2, 1, 1) + 0.2 * torch.randn(clips, frames - 1, 2, height, width)
    back = 0.2 * torch.randn(flow.shape) - flow
    if frames > 1:
        flow[0, 0, 0, 0, 0], back[-1, -1, 1, -1, -1] = math.nan, math.inf
    header = ["soft_union", clips, frames, planes, height, width]
    write(name, header, maps, flow, back, reference.soft_union(maps, flow, back))


def crf_refine(
    name: str, images: int, labels: int, size_hw: tuple[int, int], steps: int, numbers: tuple[float, ...]
) -> None:
    """Blobs of colour with noise, and energies that are sometimes no number, on an image some of which is none."""
    height, width = size_hw
    blobs = torch.nn.functional.interpolate(torch.rand(images, 3, 3, 4), size_hw, mode="nearest")
    image = (blobs + 0.02 * torch.randn(images, 3, *size_hw)).contiguous()
    unary = torch.nn.functional.interpolate(torch.rand(images, labels, 3, 4) * 3, size_hw, mode="bilinear")
    unary[:, 0, 0, 0], unary[:, -1, -1, -1], image[:, :, 0, -1] = math.nan, math.inf, math.nan
    names = ("gaussian_px", "gaussian_weight", "bilateral_px", "bilateral_rgb", "bilateral_weight")
    refined = reference.crf_refine(unary, image, steps=steps, **dict(zip(names, numbers, strict=True)))
    write(name, ["crf_refine", images, labels, height, width, steps], unary, image, torch.tensor(numbers), refined)


def main() -> None:
    """Write all cases."""
    torch.manual_seed(42)
    CASES.mkdir(exist_ok=True)
    for clips, frames, planes, height, width in [
        (1, 1, 1, 1, 1),
        (3, 4, 33, 9, 37),
        (1, 3, 5, 40, 5),
        (2, 2, 80, 3, 64),
    ]:
        warp_union(f"warp_union_{height}x{width}", clips, frames, planes, height, width)
    activate_cams("activate_cams_23x37", 2, 33, (23, 37), [(2, 3), (2, 3), (5, 7), (1, 1)])
    activate_cams("activate_cams_smaller", 1, 2, (5, 40), [(9, 90)])  # CAMs larger than the frame
    for dtype in (torch.float32, torch.float64):
        for warped in (False, True):
            suffix = ("_warped" if warped else "") + ("_f64" if dtype == torch.float64 else "")
            shape = (2, 18, 7, 19) if dtype == torch.float32 else (1, 3, 7, 19)
            cost_volume(f"cost_volume_7x19{suffix}", shape, 4, warped, dtype)
            cost_volume(f"cost_volume_2x3{suffix}", (1, 2, 2, 3), 1, warped, dtype)
    compose_labels("compose_labels_23x37", 2, 33, 23, 37)
    minimum_barrier("minimum_barrier_9x11", 2, 3, 9, 11)
    usual = (3.0, 3.0, 60.0, 8.0, 5.0)
    crf_refine("crf_refine_61x150", 1, 2, (61, 150), 3, usual)  # more than one band of rows
    crf_refine("crf_refine_23x37", 3, 8, (23, 37), 2, usual)
    crf_refine("crf_refine_1x40", 1, 3, (1, 40), 2, (1.0, 1.0, 0.06, 0.06, 1.0))  # keys of 128 bits
    for clips, frames, planes, height, width in [(1, 1, 2, 5, 7), (3, 4, 2, 9, 37), (1, 3, 1, 40, 5), (1, 2, 3, 1, 18)]:
        soft_union(f"soft_union_{height}x{width}", clips, frames, planes, height, width)


if __name__ == "__main__":
    main()
