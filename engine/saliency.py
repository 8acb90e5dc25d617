"""A saliency map without a network: minimum barrier distance in Lab, after MB+ (Zhang et al., ICCV 2015).

What differs from its colours on every way to the frame's border is salient. The paper's backgroundness term (colour
distance to the border bands) joins with a small weight, its centre map at half strength, and the result is smoothed.
Used by the background stage: saliency below `theta_b` becomes background, so losing an object costs more than keeping
some ground. Each image is worked on by itself, so a map does not depend on what shares its batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.kernels import minimum_barrier

CLASSICAL_THETA_B = 0.2
"""`theta_b` for this saliency: the highest at which at most 4 % of the objects' pixels are called background.

Chosen on the synthetic web (120 stills: 3.6 % of the objects' pixels and 69 % of the ground lie below it), checked on
real video (nine DAVIS sequences, 56 frames: 0.5 % and 51 %; 0.3 would be 4 % and 70 % there, but 15 % on the stills).
"""

# All distances are in px of the shrunk frame. Real video decided the values: shrinking to 300 px, as the paper does,
# is no better (AUC .924-.926 for 120 to 300 px); more weight for the bands costs coverage, though it lifts the worst
# video; a full centre map scores higher still, but on material whose objects are centred.
WORKING_SIDE_PX = 160
BAND_SHARE = 0.1
BAND_WEIGHT = 0.25
CENTRE_WEIGHT = 0.5
BLUR_SHARE = 0.02
COLOUR_NOISE_LAB = 2.0
CONTRAST_FLOOR_LAB = 10.0


def classical_saliency(image: Tensor) -> Tensor:
    """Saliency of RGB frames, float32 [B, 3, H, W] in 0..1 -> float32 [B, 1, H, W] in 0..1; H, W >= 1.

    Raises ValueError for another shape or dtype.
    """
    if image.dim() != 4 or image.shape[1] != 3 or image.dtype != torch.float32 or 0 in image.shape[2:]:
        raise ValueError(
            f"image is {list(image.shape)} {image.dtype}; accepted: [B,3,H,W] float32 RGB in 0..1; "
            "for a frame of bytes use frame.permute(2, 0, 1)[None].float() / 255"
        )
    maps = [_frame_saliency(frame.contiguous()) for frame in image]
    return torch.stack(maps) if maps else image.new_zeros(0, 1, *image.shape[2:])


def _frame_saliency(frame: Tensor) -> Tensor:
    """One frame, [3, H, W] -> [1, H, W]."""
    lab = _blur(_lab(_shrink(frame[None].clamp(0, 1))), 1)  # [1, 3, h, w]
    barrier = _relative(minimum_barrier(lab.contiguous()), CONTRAST_FLOOR_LAB)  # [1, h, w]
    contrast = _relative(_distance_to_bands(lab[0]), 1.0)  # [h, w]
    salient = (barrier + BAND_WEIGHT * contrast) * _centre_map(*barrier.shape[-2:]).to(frame.device)
    smooth = _blur(salient[None], round(BLUR_SHARE * max(lab.shape[-2:])))  # [1, 1, h, w]
    full = F.interpolate(_relative(smooth, 0.25), size=frame.shape[-2:], mode="bilinear", align_corners=False)
    return full[0].clamp(0, 1)


def _relative(values: Tensor, floor: float) -> Tensor:
    """Values over their maximum, or over `floor` where that is larger: a blank frame is not stretched to 0..1."""
    return values / values.max().clamp_min(floor)


def _shrink(frame: Tensor) -> Tensor:
    """[1, 3, H, W] to at most WORKING_SIDE_PX on the longer side, antialiased."""
    scale = WORKING_SIDE_PX / max(frame.shape[-2:])
    if scale >= 1:
        return frame
    size_hw = [max(1, round(side * scale)) for side in frame.shape[-2:]]
    return F.interpolate(frame, size=size_hw, mode="bilinear", antialias=True, align_corners=False)


def _blur(maps: Tensor, radius_px: int) -> Tensor:
    """Two box means of 2 * radius_px + 1, borders repeated; [B, C, h, w]."""
    for _ in range(2):
        maps = F.avg_pool2d(F.pad(maps, [radius_px] * 4, mode="replicate"), 2 * radius_px + 1, stride=1)
    return maps


def _lab(rgb: Tensor) -> Tensor:
    """sRGB in 0..1 to CIE L*a*b* (D65), [B, 3, h, w]; L in 0..100, a and b about ±100."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    red, green, blue = linear.unbind(1)  # each [B, h, w]
    x = (0.4124564 * red + 0.3575761 * green + 0.1804375 * blue) / 0.95047
    y = 0.2126729 * red + 0.7151522 * green + 0.0721750 * blue
    z = (0.0193339 * red + 0.1191920 * green + 0.9503041 * blue) / 1.08883
    fx, fy, fz = (torch.where(v > 216 / 24389, v ** (1 / 3), v * (841 / 108) + 4 / 29) for v in (x, y, z))
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=1)


def _distance_to_bands(lab: Tensor) -> Tensor:
    """How unlike the frame's four border bands a colour is, [3, h, w] -> [h, w].

    The Mahalanobis distance to each band, relative to its maximum; the least similar band is left out, since an
    object may lie across it (MB+, §4.2).
    """
    height, width = lab.shape[-2:]
    rows, columns = max(1, round(BAND_SHARE * height)), max(1, round(BAND_SHARE * width))
    bands = (lab[:, :rows], lab[:, -rows:], lab[:, :, :columns], lab[:, :, -columns:])
    distances = torch.stack([_relative(_mahalanobis(lab, band.flatten(1)), 1.0) for band in bands])  # [4, h, w]
    return distances.sum(0) - distances.amax(0)


def _mahalanobis(lab: Tensor, samples: Tensor) -> Tensor:
    """Distance of every colour in `lab` [3, h, w] to the distribution of `samples` [3, n], in deviations, [h, w]."""
    samples = samples.double()
    mean = samples.mean(dim=1)  # [3]
    spread = samples - mean[:, None]
    covariance = (spread[:, None] * spread[None]).mean(dim=2)  # [3, 3]
    noise = COLOUR_NOISE_LAB**2 * torch.eye(3, dtype=torch.float64, device=lab.device)
    inverse: Tensor = torch.linalg.inv(covariance + noise)  # [3, 3]
    offset = lab.double() - mean[:, None, None]  # [3, h, w]
    squared: Tensor = (offset[:, None] * offset[None] * inverse[:, :, None, None]).sum(dim=(0, 1))
    return squared.clamp_min(0).sqrt().float()


def _centre_map(height: int, width: int) -> Tensor:
    """1 in the middle, 1 - CENTRE_WEIGHT in the corners, linear between; [h, w]."""
    y = (torch.arange(height) - (height - 1) / 2)[:, None] / height
    x = (torch.arange(width) - (width - 1) / 2) / width
    return 1 - CENTRE_WEIGHT * torch.sqrt((x * x + y * y) * 2)
