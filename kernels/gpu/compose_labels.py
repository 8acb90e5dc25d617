"""`compose_labels` in Triton: count each plane's area, order the planes, let the first that is set label a pixel."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import f2f.kernels.gpu.launch as launch
from f2f.kernels import checks, reference
from f2f.kernels.checks import BITS_PER_WORD, MAX_CLASSES
from f2f.kernels.gpu.launch import Blocks, kernel

_BITS_PER_WORD = tl.constexpr(BITS_PER_WORD)
_IGNORE_LABEL = tl.constexpr(reference.IGNORE_LABEL)

AREA_BLOCKS = Blocks(
    gpu={"block_pixels": 128, "repeats": 16}, interpreter={"block_pixels": 1024, "repeats": 64}, warps=4
)
PICK_BLOCKS = Blocks(gpu={"block_pixels": 256}, interpreter={"block_pixels": 8192}, warps=4)


def compose_labels(bits: Tensor, classes: Tensor, saliency: Tensor | None, theta_b: float) -> Tensor:
    """Decide one label per pixel; the same bits as `reference.compose_labels`.

    `bits` is int32 [B, N, H, W], `classes` int64 [B, P] (-1 = none), `saliency` float32 [B, 1, H, W] or None; returns
    uint8 [B, H, W]: class + 1, 0 = background, 255 = ignore. Raises ValueError as the reference does, and for tensors
    that are not on a GPU. Never waits for the GPU: for that reason class numbers on a GPU are not checked, those
    outside 0..253 count as -1.
    """
    checks.check_compose(bits, classes, saliency, theta_b)
    launch.check_device("bits", bits)
    images, _, height, width = bits.shape
    labels = torch.empty(images, height, width, dtype=torch.uint8, device=bits.device)
    if labels.numel() == 0:
        return labels
    bits = bits.contiguous()
    order, order_labels = _order(_areas(bits), classes)
    grid = (launch.tiles(height * width, PICK_BLOCKS["block_pixels"]), images)
    numbers = (classes.shape[1], bits.shape[1], height * width, float(theta_b))
    any_tensor = bits if saliency is None else saliency.contiguous()
    tensors = (labels, bits, order, order_labels, any_tensor)
    launch.start(pick_kernel, grid, PICK_BLOCKS, *tensors, *numbers, given_saliency=saliency is not None)
    return labels


def _areas(bits: Tensor) -> Tensor:
    """Pixels of every plane, int32 [B, N * 32]."""
    images, words, height, width = bits.shape
    areas = torch.zeros(images, words * BITS_PER_WORD, dtype=torch.int32, device=bits.device)
    if words:
        span = AREA_BLOCKS["block_pixels"] * AREA_BLOCKS["repeats"]
        grid = (launch.tiles(height * width, span), images * words)
        launch.start(area_kernel, grid, AREA_BLOCKS, areas, bits, height * width)
    return areas


def _order(areas: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Planes by precedence, the winner last, int32 [B, P], and their labels; label 0 never wins."""
    listed = (classes >= 0) & (classes < MAX_CLASSES)
    labels = torch.where(listed, classes + 1, 0)  # [B, P]
    rank = areas[:, : classes.shape[1]].long() * 256 + labels  # smaller area first, then lower label
    order = rank.argsort(dim=1, descending=True)
    return order.int(), labels.gather(1, order).int()


@kernel
def area_kernel(
    areas: tl.tensor, bits: tl.tensor, frame: tl.int32, block_pixels: tl.constexpr, repeats: tl.constexpr
) -> None:
    """Count the bits of one word over repeats blocks of pixels: 32 counters per pixel of the block, added up once."""
    plane = tl.arange(0, _BITS_PER_WORD)[:, None]  # [32, 1]
    word = tl.program_id(1).to(tl.int64)
    bits += word * frame
    counts = tl.zeros([_BITS_PER_WORD, block_pixels], tl.int32)
    first = tl.program_id(0) * (block_pixels * repeats)
    for start in range(first, tl.minimum(first + block_pixels * repeats, frame), block_pixels):
        pixel = start + tl.arange(0, block_pixels)[None, :]
        counts += (tl.load(bits + pixel, pixel < frame, 0) >> plane) & 1
    place = areas + word * _BITS_PER_WORD + tl.arange(0, _BITS_PER_WORD)
    tl.atomic_add(place, tl.sum(counts, 1), sem="relaxed")


@kernel
def pick_kernel(
    labels: tl.tensor,
    bits: tl.tensor,
    order: tl.tensor,
    order_labels: tl.tensor,
    saliency: tl.tensor,
    planes: tl.int32,
    words: tl.int32,
    frame: tl.int32,
    theta_b: tl.float32,
    given_saliency: tl.constexpr,
    block_pixels: tl.constexpr,
) -> None:
    """Label a block of pixels: planes in ascending precedence, each overwriting the ones before."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * block_pixels + tl.arange(0, block_pixels)
    inside = pixel < frame
    label = tl.full([block_pixels], _IGNORE_LABEL, tl.int32)
    if given_saliency:
        salient = tl.load(saliency + image * frame + pixel, inside, 0.0)
        label = tl.where(salient < theta_b, 0, label)
    bits += image * words * frame
    for rank in range(planes):
        plane = tl.load(order + image * planes + rank)
        own = tl.load(order_labels + image * planes + rank)
        word = tl.load(bits + (plane // _BITS_PER_WORD).to(tl.int64) * frame + pixel, inside, 0)
        label = tl.where((((word >> (plane % _BITS_PER_WORD)) & 1) != 0) & (own > 0), own, label)
    tl.store(labels + image * frame + pixel, label.to(tl.uint8), inside)
