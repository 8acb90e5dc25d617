"""The cost volumes in the operators of ONNX, as an exported network holds them.

Written as the definition is, with a shift of f2 at a time, ONNX Runtime spends most of a narrow PWC-Net on copying
shifts. Here all horizontal shifts of a tile of 8 pixels are one small matrix product: 16 columns of f2 hold the 9
shifts of all 8 pixels on its diagonals, and a reshape by one column more per row turns diagonals into columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.kernels.reference import warp_features


def cost_volume(f1: Tensor, f2: Tensor, max_displacement: int = 4) -> Tensor:
    """As `reference.cost_volume`, float [B, C, H, W] twice -> [B, (2d + 1)^2, H, W], up to rounding."""
    batch, channels, height, width = f1.shape
    shifts, tile = 2 * max_displacement + 1, max(8, 2 * max_displacement)  # a tile's shifts reach into the next only
    spare, above = (-width) % tile, max_displacement
    here = F.pad(f1 / channels, [0, spare]).reshape(batch, channels, height, -1, tile).permute(0, 2, 3, 4, 1)
    framed = F.pad(f2, [above, spare + tile - above, above, above])
    tiles = framed.reshape(batch, channels, height + 2 * above, -1, tile).permute(0, 2, 3, 1, 4)
    there = torch.cat([tiles[:, :, :-1], tiles[:, :, 1:, :, : 2 * above]], dim=4)  # [B, H + 2d, tiles, C, tile + 2d]
    costs = [_diagonals(here @ there[:, y : y + height], shifts) for y in range(shifts)]  # [B, H, tiles, tile, shifts]
    volume = torch.cat(costs, dim=4).permute(0, 4, 1, 2, 3)  # [B, shifts^2, H, tiles, tile]
    return volume.flatten(3)[..., :width]


def _diagonals(products: Tensor, shifts: int) -> Tensor:
    """[..., tile, tile + 2d] -> [..., tile, shifts]: row i from its column i on."""
    *outer, tile, columns = products.shape
    flat = F.pad(products.flatten(-2), [0, tile])
    return flat.reshape(*outer, tile, columns + 1)[..., :shifts]


def warp_cost_volume(f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int = 4) -> Tensor:
    """As `reference.warp_cost_volume`, up to rounding."""
    return cost_volume(f1, warp_features(f2, flow_xy_px), max_displacement)
