"""`crf_refine` in plain torch: the definition.

Letters: B windows, L labels, H, W size, N = H * W pixels. The kernels are exact, every pixel with every other, and so
they are in the Triton version (the same values within rounding); the C++ version works on a lattice that only comes
near them, so it gives other values and, mostly, the same labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from f2f.kernels import checks

MAX_ENERGY = 1e4
_CHUNK_VALUES = (2**20, 2**26)
"""of the N x N kernel that are made at once: what a CPU's cache holds; on CUDA, what keeps a GPU busy"""


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
    """Refine label probabilities along the edges of an image: mean field in a dense CRF (Krähenbühl & Koltun 2011).

    `unary` is float32 [B, L, H, W], energies -log p, of any scale: a softmax is taken of them. `image` is float32
    [B, 3, H, W], RGB of 0..1. Returns float32 probabilities [B, L, H, W]: Q = softmax(-unary), then `steps` times

        Q = softmax(-unary + gaussian_weight * G Q + bilateral_weight * A Q)

    (their algorithm 1 with the Potts model), where the kernels g_ij = exp(-|p_i - p_j|^2 / 2 gaussian_px^2) and
    a_ij = exp(-|p_i - p_j|^2 / 2 bilateral_px^2 - |c_i - c_j|^2 / 2 bilateral_rgb^2) on positions p in px and colours
    c in 0..255 are normalised symmetrically, G = D^-1/2 g D^-1/2 with D = g 1, and include i = j, as in the authors'
    code and pydensecrf. `bilateral_rgb` is in units of 0..255, as the literature states it.

    Whatever comes in, the result is finite: a NaN in `unary` counts as infinite energy (not this label), energies are
    clamped to ±1e4, colours to 0..1, and a colour that is NaN is 0. There is no gradient: the result is detached, also
    where an input requires one. Raises ValueError for other dtypes or shapes, standard deviations below .05, weights
    below 0 or steps below 0.
    """
    options = (gaussian_px, gaussian_weight, bilateral_px, bilateral_rgb, bilateral_weight)
    checks.check_crf(unary, image, steps, *options)
    with torch.no_grad():
        windows = zip(*finite_inputs(unary, image), strict=True)
        shares = [_mean_field(*window, steps, *options) for window in windows]
        return torch.stack(shares) if shares else torch.empty_like(unary)


def finite_inputs(unary: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, L, H, W] of ±`MAX_ENERGY` and colours [B, 3, H, W] of 0..255, whatever comes in."""
    logits = -unary.nan_to_num(MAX_ENERGY).clamp(-MAX_ENERGY, MAX_ENERGY)
    return logits, image.nan_to_num(0.0).clamp(0, 1) * 255


def _mean_field(
    logits: Tensor,
    colours: Tensor,
    steps: int,
    gaussian_px: float,
    gaussian_weight: float,
    bilateral_px: float,
    bilateral_rgb: float,
    bilateral_weight: float,
) -> Tensor:
    """One window: logits [L, H, W], colours [3, H, W] of 0..255 -> probabilities [L, H, W]."""
    shares = logits.softmax(0)
    if steps == 0 or logits.numel() == 0:
        return shares
    height, width = logits.shape[1:]
    vertical, horizontal = (gaussian_matrix(size, gaussian_px, logits) for size in (height, width))
    features = _features(colours, bilateral_px, bilateral_rgb)  # [N, 5]
    norm = _apply_bilateral(features, features.new_ones(1, height * width)).rsqrt()  # [1, N]
    for _ in range(steps):
        smooth = vertical @ shares @ horizontal.T
        similar = norm * _apply_bilateral(features, norm * shares.flatten(1))  # [L, N]
        messages = gaussian_weight * smooth + bilateral_weight * similar.view_as(logits)
        shares = (logits + messages).softmax(0)
    return shares


def gaussian_matrix(size: int, deviation_px: float, like: Tensor) -> Tensor:
    """The Gaussian of one axis, normalised symmetrically, [size, size]; of both axes it is the product."""
    place = torch.arange(size, dtype=torch.float64, device=like.device)
    matrix = torch.exp(-0.5 * ((place[:, None] - place) / deviation_px) ** 2)
    norm = matrix.sum(1).rsqrt()
    return (norm[:, None] * matrix * norm).to(like.dtype)


def _features(colours: Tensor, deviation_px: float, deviation_rgb: float) -> Tensor:
    """(x, y, r, g, b) of every pixel in standard deviations, [N, 5], about their means, for the sake of float32."""
    height, width = colours.shape[1:]
    y, x = (torch.arange(size, dtype=colours.dtype, device=colours.device) for size in (height, width))
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)]) / deviation_px
    features = torch.cat([places, colours / deviation_rgb]).flatten(1).T  # [N, 5]
    return features - features.mean(0)


def _apply_bilateral(features: Tensor, values: Tensor) -> Tensor:
    """The kernel exp(-|f_i - f_j|^2 / 2), not normalised, times values [L, N] -> [L, N], some columns of it at a time.

    One matrix product gives the exponents, f_i f_j - |f_i|^2 / 2 - |f_j|^2 / 2, of all i with some j.
    """
    half = -0.5 * features.square().sum(1, keepdim=True)  # [N, 1]
    one = torch.ones_like(half)
    everyone, others = torch.cat([features, half, one], 1), torch.cat([features, one, half], 1).T  # [N, 7], [7, N]
    columns = max(1, _CHUNK_VALUES[features.device.type == "cuda"] // len(features))
    sums = torch.empty_like(values)
    buffer = features.new_empty(len(features) * columns)  # one for all: the allocator would keep a new one each time
    for first in range(0, len(features), columns):
        some = others[:, first : first + columns]  # [7, columns]
        kernel = torch.mm(everyone, some, out=buffer[: len(features) * some.shape[1]].view(len(features), -1)).exp_()
        sums[:, first : first + columns] = values @ kernel
    return sums
