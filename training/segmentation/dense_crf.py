"""The dense CRF inside the losses: exact, with whole matrices, on maps of some 41×41 cells.

`f2f.kernels.crf_refine` is for masks of full size. Here an image has few cells, and its pairwise kernel is one matrix
that serves all steps, all labels and, while the image stays the same, all refinements. Letters: B images, L labels,
h, w cells, N = h * w.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor

from f2f.kernels import checks
from f2f.kernels.reference_crf import MAX_ENERGY, gaussian_matrix


@dataclass(frozen=True, kw_only=True)
class CrfOptions:
    """The two kernels; defaults are those of SEC and DSRG for 41 cells per side, 1/12 of their test images' pixels."""

    gaussian_px: float = 3 / 12
    """standard deviation of the smoothness kernel, cells"""
    gaussian_weight: float = 3.0
    """0 leaves it out"""
    bilateral_px: float = 80 / 12
    """standard deviation of the appearance kernel in place, cells"""
    bilateral_rgb: float = 13.0
    """and in colour, of 0..255"""
    bilateral_weight: float = 10.0
    """0 leaves it out"""


PUBLISHED_CELLS = 41


def crf_of_grid(size_hw: tuple[int, int]) -> CrfOptions:
    """The published kernels on a grid of [h, w] cells: as large a part of the image as on 41 cells."""
    scale = max(size_hw) / PUBLISHED_CELLS
    usual = CrfOptions()
    gaussian_px = max(checks.MIN_DEVIATION, scale * usual.gaussian_px)
    return replace(usual, gaussian_px=gaussian_px, bilateral_px=scale * usual.bilateral_px)


TRAINING_CRF = CrfOptions()
TRAINING_STEPS = 10
LEAST_EXPONENT = -60.0
"""of the appearance kernel: e^-60 is nothing beside the 1 on its diagonal, while subnormal numbers are slow"""


@torch.no_grad()
def refine(unary: Tensor, image: Tensor, steps: int = TRAINING_STEPS, options: CrfOptions = TRAINING_CRF) -> Tensor:
    """`crf_refine` of `f2f.kernels`, to rounding: unary [B,L,h,w], energies, image [B,3,h,w], RGB 0..1 -> [B,L,h,w].

    SEC takes -logits as energies, DSRG -probabilities. The result is detached and float32, whatever the precision of
    the training. Raises ValueError where `crf_refine` does.
    """
    unary, image = unary.float(), image.float()
    checks.check_crf(unary, image, steps, *astuple(options))
    return mean_field(unary, pairwise_kernel(image, options), steps)


@torch.no_grad()
def pairwise_kernel(image: Tensor, options: CrfOptions = TRAINING_CRF) -> Tensor:
    """The weighted sum of both kernels, each normalised symmetrically and with i = j: [B,3,h,w] -> float32 [B,N,N]."""
    height, width = image.shape[2:]
    y, x = (torch.arange(size, device=image.device, dtype=torch.float32) for size in (height, width))
    places = torch.cartesian_prod(y, x).view(-1, 2) / options.bilateral_px  # [N,2]
    colours = image.float().nan_to_num(0.0).clamp(0, 1) * 255 / options.bilateral_rgb
    vertical, horizontal = (gaussian_matrix(size, options.gaussian_px, places) for size in (height, width))
    kernel = (options.gaussian_weight * torch.kron(vertical, horizontal)).repeat(len(image), 1, 1)
    for matrix, colour in zip(kernel, colours.flatten(2).transpose(1, 2), strict=True):
        appearance = _affinity(torch.cat([places, colour], 1))
        matrix.add_(appearance, alpha=options.bilateral_weight)
    return kernel


@torch.no_grad()
def mean_field(unary: Tensor, kernel: Tensor, steps: int = TRAINING_STEPS) -> Tensor:
    """Q = softmax(-unary), then `steps` times Q = softmax(-unary + kernel Q): [B,L,h,w], [B,N,N] -> [B,L,h,w]."""
    with torch.autocast(unary.device.type, enabled=False):
        logits = -unary.float().flatten(2).nan_to_num(MAX_ENERGY).clamp(-MAX_ENERGY, MAX_ENERGY)  # [B,L,N]
        shares = logits.softmax(1)
        for _ in range(steps):
            shares = torch.baddbmm(logits, shares, kernel).softmax(1)  # the kernel is symmetric
        return shares.view(unary.shape)


def _affinity(features: Tensor) -> Tensor:
    """exp(-|f_i - f_j|² / 2) of features [N,F], normalised symmetrically: [N,N]."""
    apart = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    matrix = torch.exp((-0.5 * apart.square()).clamp_min(LEAST_EXPONENT))
    norm = matrix.sum(1).rsqrt()
    return norm[:, None] * matrix * norm
