"""`cost_volume` in Triton, both directions, as products of small matrices.

One row of f1 times one row of f2 is a matrix [pixels of f1, pixels of f2] of which the costs are a band: a tensor core
makes all of it in less time than it takes to fetch the operands. The gradients are the band times the other features.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import f2f.kernels.gpu.launch as launch
from f2f.kernels import checks, reference
from f2f.kernels.gpu.launch import Blocks, device, kernel

# 16 pixels of f1 meet 32 of f2: enough for 16 shifts, of which max_displacement 4 needs 9. Wider tiles waste more of
# the band, and further shifts are further rounds, so that any displacement runs with the same code. While one row of
# f2 is multiplied the next is copied to shared memory (stages=2), where f1 lies too, split for TF32.
FEW_CHANNELS = Blocks(
    gpu={"block_columns": 16, "block_channels": 32}, interpreter={"block_columns": 32, "block_channels": 32}, stages=2
)
SOME_CHANNELS = Blocks(
    gpu={"block_columns": 16, "block_channels": 64}, interpreter={"block_columns": 32, "block_channels": 64}, stages=2
)
# Beyond 64 channels f1 would need more than 200 registers on the way; with stages=2 sm_100 spills here.
MANY_CHANNELS = Blocks(
    gpu={"block_columns": 16, "block_channels": 32}, interpreter={"block_columns": 32, "block_channels": 64}, stages=1
)
GRADIENT_BLOCKS = Blocks(
    gpu={"block_columns": 16, "block_channels": 32}, interpreter={"block_columns": 32, "block_channels": 64}, stages=2
)


def cost_volume(f1: Tensor, f2: Tensor, max_displacement: int = 4) -> Tensor:
    """PWC-Net's correlation: float [B, C, H, W] twice -> [B, (2d + 1)^2, H, W], as `reference.cost_volume`.

    float32, float16 and bfloat16 are summed in float32 (float32 inputs on tensor cores as three TF32 products);
    float64 is left to the reference. Inputs that are not contiguous are copied. Not differentiable by itself: see
    `cost_volume_backward`. Raises ValueError as the reference does, and for tensors that are not on a GPU.
    """
    checks.check_features(f1, f2, max_displacement)
    launch.check_device("f1", f1)
    if f1.dtype == torch.float64 or f1.numel() == 0:
        return reference.cost_volume(f1, f2, max_displacement)
    return _costs(f1.contiguous(), f2.contiguous(), max_displacement)


def _costs(f1: Tensor, f2: Tensor, max_displacement: int) -> Tensor:
    batch, channels, height, width = f1.shape
    volume = torch.empty(_volume_shape(f1, max_displacement), dtype=f1.dtype, device=f1.device)
    launch.check_offsets("f1", f1.shape)
    launch.check_offsets("the cost volume", volume.shape)
    blocks, resident = _cost_blocks(channels)
    grid = (launch.tiles(width, blocks["block_columns"]), height, batch)
    numbers = (channels, height, width, max_displacement, 1 / channels)
    flags = {"resident": resident, "product_type": product_type(f1.dtype)}
    launch.start(cost_kernel, grid, blocks, volume, f1, f2, *numbers, **flags)
    return volume


def _volume_shape(features: Tensor, max_displacement: int) -> tuple[int, ...]:
    """[B, (2d + 1)^2, H, W]."""
    return features.shape[0], (2 * max_displacement + 1) ** 2, *features.shape[2:]


def _cost_blocks(channels: int) -> tuple[Blocks, bool]:
    """Block sizes for so many channels, and whether f1 is fetched only once with them."""
    if channels <= FEW_CHANNELS["block_channels"]:
        return FEW_CHANNELS, True
    return (SOME_CHANNELS, True) if channels <= SOME_CHANNELS["block_channels"] else (MANY_CHANNELS, False)


def cost_volume_backward(gradient: Tensor, f1: Tensor, f2: Tensor, max_displacement: int) -> tuple[Tensor, Tensor]:
    """Gradients of `cost_volume` for f1 and f2 from `gradient` [B, (2d + 1)^2, H, W], each [B, C, H, W].

    Dtypes and errors as in `cost_volume`; a `gradient` of another float dtype is converted. A feature that is not
    finite may spread to the gradients of its neighbours up to a tile away.
    """
    checks.check_features(f1, f2, max_displacement)
    checks.check_shape("gradient", gradient, _volume_shape(f1, max_displacement), "the cost volume of f1")
    checks.check_same_device(gradient=gradient, f1=f1)
    launch.check_device("f1", f1)
    if f1.dtype == torch.float64 or f1.numel() == 0:
        return reference.cost_volume_backward(gradient, f1, f2, max_displacement)
    gradient = gradient.to(f1.dtype).contiguous()
    to_f1 = _gradient(gradient, f2.contiguous(), max_displacement, to_f2=False)
    return to_f1, _gradient(gradient, f1.contiguous(), max_displacement, to_f2=True)


def _gradient(gradient: Tensor, other: Tensor, max_displacement: int, *, to_f2: bool) -> Tensor:
    """The gradient for one of the features from the other one, [B, C, H, W]."""
    batch, channels, height, width = other.shape
    result = torch.empty_like(other)
    launch.check_offsets("f1", other.shape)
    launch.check_offsets("gradient", gradient.shape)
    groups = launch.tiles(channels, GRADIENT_BLOCKS["block_channels"])
    grid = (launch.tiles(width, GRADIENT_BLOCKS["block_columns"]) * groups, height, batch)
    numbers = (channels, height, width, max_displacement, 1 / channels)
    flags = {"to_f2": to_f2, "product_type": product_type(other.dtype)}
    launch.start(gradient_kernel, grid, GRADIENT_BLOCKS, result, gradient, other, *numbers, **flags)
    return result


def product_type(dtype: torch.dtype) -> tl.dtype:
    """In which type features are multiplied. Triton's interpreter would multiply the bits of bfloat16 as integers."""
    if dtype == torch.bfloat16:
        return tl.float32 if launch.INTERPRETED else tl.bfloat16
    return tl.float16 if dtype == torch.float16 else tl.float32


@kernel
def cost_kernel(
    volume: tl.tensor,
    f1: tl.tensor,
    f2: tl.tensor,
    channels: tl.int32,
    height: tl.int32,
    width: tl.int32,
    reach: tl.int32,
    scale: tl.float32,
    resident: tl.constexpr,
    product_type: tl.constexpr,
    block_columns: tl.constexpr,
    block_channels: tl.constexpr,
) -> None:
    """All costs of block_columns neighbouring pixels of f1, one row of f2 and block_columns shifts at a time.

    resident: there are block_channels at most, and f1 is fetched once; else it is read again (L1) for each row of f2.
    """
    side = 2 * reach + 1
    first_x, y = tl.program_id(0) * block_columns, tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    frame = height * width
    f1 += image * channels * frame + y * width
    f2 += image * channels * frame
    volume += image * side * side * frame + y * width
    pixel = tl.arange(0, block_columns)[:, None]  # [block_columns, 1]
    shift = tl.arange(0, block_columns)[None, :]  # [1, block_columns]
    x1 = first_x + pixel
    c1, c2 = tl.arange(0, block_channels)[None, :], tl.arange(0, block_channels)[:, None]
    if resident:
        a = tl.load(f1 + (c1 * frame + x1), (x1 < width) & (c1 < channels), 0.0).to(
            product_type
        )  # [block_columns, block_channels]
    rounds = tl.cdiv(side, block_columns)
    for turn in range(side * rounds):
        dy, first_dx = turn // rounds, (turn % rounds) * block_columns  # both from 0 up
        y2 = y + dy - reach
        x2 = first_x + first_dx - reach + tl.arange(0, 2 * block_columns)[None, :]  # [1, 2 * block_columns]
        x2_in = (x2 >= 0) & (x2 < columns_in(y2, height, width))
        row2 = f2 + y2 * width
        if resident:
            b = tl.load(row2 + (c2 * frame + x2), x2_in & (c2 < channels), 0.0).to(
                product_type
            )  # [block_channels, 2 * block_columns]
            products = tl.dot(a, b, input_precision="tf32x3")
        else:
            products = tl.zeros([block_columns, 2 * block_columns], tl.float32)
            for c in range(0, channels, block_channels):
                a = tl.load(f1 + ((c + c1) * frame + x1), (x1 < width) & (c + c1 < channels), 0.0).to(product_type)
                b = tl.load(row2 + ((c + c2) * frame + x2), x2_in & (c + c2 < channels), 0.0).to(product_type)
                products = tl.dot(a, b, products, input_precision="tf32x3")
        # The band: the cost of pixel i at shift j stands in column i + j. Sorted by shift, neighbours store together.
        costs = tl.gather(products, pixel + shift, 1) * scale  # [block_columns, block_columns]
        dx = first_dx + shift
        place = volume + ((dy * side + dx) * frame + x1)
        tl.store(place, costs.to(volume.dtype.element_ty), (x1 < width) & (dx < side))


@kernel
def gradient_kernel(
    result: tl.tensor,
    gradient: tl.tensor,
    other: tl.tensor,
    channels: tl.int32,
    height: tl.int32,
    width: tl.int32,
    reach: tl.int32,
    scale: tl.float32,
    to_f2: tl.constexpr,
    product_type: tl.constexpr,
    block_columns: tl.constexpr,
    block_channels: tl.constexpr,
) -> None:
    """result(p) = scale * sum over e of g * other(p + e), for block_columns neighbouring p and block_channels channels.

    For f1, g is gradient[e] at p: the costs of p. For f2, it is gradient[-e] at p + e: the costs that met f2 at p.
    Either is a band of the matrix [p, p + e] and loaded as that. The reads of a warp then lie in different planes, but
    each brings along what the same program reads next.
    """
    side = 2 * reach + 1
    groups = tl.cdiv(channels, block_channels)
    first_x, group = (tl.program_id(0) // groups) * block_columns, tl.program_id(0) % groups
    y = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    frame = height * width
    gradient += image * side * side * frame
    other += image * channels * frame
    x = first_x + tl.arange(0, block_columns)[:, None]  # [block_columns, 1]
    channel = group * block_channels + tl.arange(0, block_channels)[None, :]  # [1, block_channels]
    total = tl.zeros([block_columns, block_channels], tl.float32)
    rounds = tl.cdiv(2 * reach + block_columns, 2 * block_columns)
    for turn in range(side * rounds):
        dy = turn // rounds  # from 0 up
        first_other = first_x - reach + (turn % rounds) * (2 * block_columns)
        y_other = y + dy - reach
        columns = columns_in(y_other, height, width)
        x_across = first_other + tl.arange(0, 2 * block_columns)[None, :]  # [1, 2 * block_columns]
        x_down = first_other + tl.arange(0, 2 * block_columns)[:, None]  # [2 * block_columns, 1]
        dx = x_across - x + reach  # [block_columns, 2 * block_columns], from 0 up
        if to_f2:
            place = ((side - 1 - dy) * side + (side - 1 - dx)) * frame + (y_other * width + x_across)
        else:
            place = (dy * side + dx) * frame + (y * width + x)
        in_band = (dx >= 0) & (dx < side) & (x < width) & (x_across >= 0) & (x_across < columns)
        band = tl.load(gradient + place, in_band, 0.0)
        row = other + channel * frame + (y_other * width + x_down)  # [2 * block_columns, block_channels]
        features = tl.load(row, (x_down >= 0) & (x_down < columns) & (channel < channels), 0.0)
        total = tl.dot(band.to(product_type), features.to(product_type), total, input_precision="tf32x3")
    place = result + image * channels * frame + (channel * frame + (y * width + x))
    tl.store(place, (total * scale).to(result.dtype.element_ty), (x < width) & (channel < channels))


@device
def columns_in(y: tl.tensor, height: tl.int32, width: tl.int32) -> tl.tensor:
    """How many columns of row y lie in the frame: all or none."""
    return tl.where((y >= 0) & (y < height), width, 0)
