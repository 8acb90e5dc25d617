"""`crf_refine` in Triton: every pixel with every other, as the definition has it, but the N x N kernel is never stored.

As in attention, a program holds the sums of a few pixels and lets all others pass by in tiles. What is computed for a
pair, a distance and an exponential, serves all labels of the program. The exponents come from differences in float32,
not from a matrix product: with five features that is as quick, and nothing cancels.

Not measured yet; an estimate: a frame of 240 x 427 has 1e10 pairs, to be gone through six times (for the norms, then in
5 steps). For two labels the compiled loop takes 18 instructions a pair on sm_90, which makes some 40 ms on an H100; for
up to 16 labels it takes 26.
"""

from __future__ import annotations

import math

import torch
import triton.language as tl
from torch import Tensor

import f2f.kernels.gpu.launch as launch
from f2f.kernels import checks
from f2f.kernels.gpu.launch import Blocks, device, kernel
from f2f.kernels.reference_crf import finite_inputs, gaussian_matrix

_FEATURES = tl.constexpr(5)

# A thread holds eight pixels' features and sums, so that a pixel that passes by is loaded once for eight pairs.
TWO_LABELS = Blocks(
    gpu={"block_pixels": 32, "block_others": 32}, interpreter={"block_pixels": 512, "block_others": 512}, fuse=True
)
# From three labels on the sums are matrix products, on tensor cores as three TF32 products.
SOME_LABELS = Blocks(
    gpu={"block_pixels": 64, "block_others": 32, "block_labels": 16},
    interpreter={"block_pixels": 512, "block_others": 512, "block_labels": 16},
    fuse=True,
)
MANY_LABELS = Blocks(
    gpu={"block_pixels": 64, "block_others": 32, "block_labels": 64},
    interpreter={"block_pixels": 512, "block_others": 512, "block_labels": 64},
    fuse=True,
)


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
    """Mean field in a dense CRF, exact: the same values as `reference.crf_refine` within rounding.

    `unary` is float32 [B, L, H, W], `image` float32 [B, 3, H, W]; returns float32 probabilities [B, L, H, W]. No
    gradient; the same bits in every run. Never waits for the GPU. Raises ValueError as the reference does, and for
    tensors that are not on a GPU.
    """
    checks.check_crf(unary, image, steps, gaussian_px, gaussian_weight, bilateral_px, bilateral_rgb, bilateral_weight)
    launch.check_device("unary", unary)
    launch.check_offsets("unary", unary.shape)
    with torch.no_grad():
        logits, colours = finite_inputs(unary, image)
        shares = logits.softmax(1)
        if steps == 0 or unary.numel() == 0:
            return shares
        vertical, horizontal = (gaussian_matrix(size, gaussian_px, logits) for size in unary.shape[2:])
        features = _features(colours, bilateral_px, bilateral_rgb)
        norm = _similar_sums(features, torch.ones_like(features[:, :1])).rsqrt()  # [B, 1, N]
        for _ in range(steps):
            smooth = vertical @ shares @ horizontal.T
            similar = norm * _similar_sums(features, norm * shares.flatten(2))  # [B, L, N]
            shares = (logits + gaussian_weight * smooth + bilateral_weight * similar.view_as(logits)).softmax(1)
        return shares


def _features(colours: Tensor, deviation_px: float, deviation_rgb: float) -> Tensor:
    """(x, y, r, g, b) of every pixel, [B, 5, N], scaled so that a pair weighs 2^-(squared distance)."""
    windows, _, height, width = colours.shape
    y, x = (torch.arange(size, dtype=colours.dtype, device=colours.device) for size in (height, width))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy")).expand(windows, 2, height, width)
    scale = math.sqrt(0.5 * math.log2(math.e))
    features = (
        torch.cat([places * (scale / deviation_px), colours * (scale / deviation_rgb)], 1).flatten(2).contiguous()
    )
    launch.check_offsets("the features", features.shape)
    return features


def _similar_sums(features: Tensor, values: Tensor) -> Tensor:
    """The bilateral kernel, not normalised, times values: [B, 5, N], [B, L, N] -> [B, L, N]."""
    windows, labels, pixels = values.shape
    values = values.contiguous()
    sums = torch.empty_like(values)
    body, blocks, at_once = _choice(labels)
    grid = (launch.tiles(pixels, blocks["block_pixels"]), windows, launch.tiles(labels, at_once))
    launch.start(body, grid, blocks, sums, features, values, labels, pixels)
    return sums


def _choice(labels: int) -> tuple[launch.Kernel, Blocks, int]:
    """Kernel, block sizes, and how many labels a program sums."""
    if labels <= 2:
        return two_labels_kernel, TWO_LABELS, 2
    blocks = SOME_LABELS if labels <= SOME_LABELS["block_labels"] else MANY_LABELS
    return many_labels_kernel, blocks, blocks["block_labels"]


@kernel
def two_labels_kernel(
    sums: tl.tensor,
    features: tl.tensor,
    values: tl.tensor,
    labels: tl.int32,
    pixels: tl.int32,
    block_pixels: tl.constexpr,
    block_others: tl.constexpr,
) -> None:
    """Sums of one or two labels at block_pixels pixels; a thread adds up what it sees, all threads' sums meet once."""
    here = tl.program_id(0) * block_pixels + tl.arange(0, block_pixels)[:, None]  # [block_pixels, 1]
    image = tl.program_id(1).to(tl.int64)
    features += image * _FEATURES * pixels
    values += image * labels * pixels
    sums += image * labels * pixels
    second_pixels = (labels - 1) * pixels  # none where there is but one label
    x, y, r, g, b = features_of(features, here, pixels)
    first_sum = tl.zeros([block_pixels, block_others], tl.float32)
    second_sum = tl.zeros([block_pixels, block_others], tl.float32)
    for first in range(0, pixels, block_others):
        other = first + tl.arange(0, block_others)[None, :]  # [1, block_others]
        alike = likeness(x, y, r, g, b, features, other, pixels)
        first_sum += alike * tl.load(values + other, other < pixels, 0.0)
        second_sum += alike * tl.load(values + pixels + other, other < second_pixels, 0.0)
    tl.store(sums + here, tl.sum(first_sum, 1, keep_dims=True), here < pixels)
    tl.store(sums + pixels + here, tl.sum(second_sum, 1, keep_dims=True), here < second_pixels)


@kernel
def many_labels_kernel(
    sums: tl.tensor,
    features: tl.tensor,
    values: tl.tensor,
    labels: tl.int32,
    pixels: tl.int32,
    block_pixels: tl.constexpr,
    block_others: tl.constexpr,
    block_labels: tl.constexpr,
) -> None:
    """Sums of block_labels labels at block_pixels pixels."""
    here = tl.program_id(0) * block_pixels + tl.arange(0, block_pixels)[:, None]  # [block_pixels, 1]
    label = tl.program_id(2) * block_labels + tl.arange(0, block_labels)[None, :]  # [1, block_labels]
    image = tl.program_id(1).to(tl.int64)
    features += image * _FEATURES * pixels
    values += image * labels * pixels
    sums += image * labels * pixels
    x, y, r, g, b = features_of(features, here, pixels)
    total = tl.zeros([block_pixels, block_labels], tl.float32)
    for first in range(0, pixels, block_others):
        alike = likeness(x, y, r, g, b, features, first + tl.arange(0, block_others)[None, :], pixels)
        other = first + tl.arange(0, block_others)[:, None]  # [block_others, 1]
        some = tl.load(values + (label * pixels + other), (other < pixels) & (label < labels), 0.0)
        total = tl.dot(alike, some, total, input_precision="tf32x3")
    tl.store(sums + (label * pixels + here), total, (here < pixels) & (label < labels))


@device
def likeness(
    x: tl.tensor,
    y: tl.tensor,
    r: tl.tensor,
    g: tl.tensor,
    b: tl.tensor,
    features: tl.tensor,
    other: tl.tensor,
    pixels: tl.int32,
) -> tl.tensor:
    """The bilateral kernel of pixels [n, 1] and others [1, m]: [n, m]."""
    other_x, other_y, other_r, other_g, other_b = features_of(features, other, pixels)
    dx, dy, dr, dg, db = x - other_x, y - other_y, r - other_r, g - other_g, b - other_b
    return tl.exp2(-(dx * dx + dy * dy + dr * dr + dg * dg + db * db))


@device
def features_of(
    features: tl.tensor, pixel: tl.tensor, pixels: tl.int32
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The five features of some pixels; 0 beyond the last."""
    listed = pixel < pixels
    x = tl.load(features + pixel, listed, 0.0)
    y = tl.load(features + pixels + pixel, listed, 0.0)
    r = tl.load(features + 2 * pixels + pixel, listed, 0.0)
    g = tl.load(features + 3 * pixels + pixel, listed, 0.0)
    b = tl.load(features + 4 * pixels + pixel, listed, 0.0)
    return x, y, r, g, b
