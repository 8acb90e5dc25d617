"""The Triton version of crf_refine against its definition and against sums over all pairs in float64.

Without a GPU it runs in Triton's interpreter, where a window of a thousand pixels takes a second.
"""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import torch
from gpu_material import DEVICE, poisoned_empty
from kernel_versions import pairwise
from torch import Tensor

from f2f.kernels import crf_refine as public_crf_refine
from f2f.kernels import dispatch, reference

pytest.importorskip("triton", reason="Triton is not installed, so its versions, for CUDA, cannot run")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no CUDA, and TRITON_INTERPRET is not 1", allow_module_level=True)

from f2f.kernels import gpu
from f2f.kernels.gpu.crf_refine import MANY_LABELS, SOME_LABELS, TWO_LABELS

__all__ = ["poisoned_empty"]

EXACT = 5e-5
"""how far probabilities may be from those of float64"""
NEAR = 1e-4
"""from the definition's, whose exponents are matrix products in float32, in which something cancels"""
MARGIN = 1e-3
"""labels of pixels are the same where the likeliest one leads by this much"""
FACTORS: dict[str, list[Any]] = {
    "labels": [1, 2, 3, 16, 17, 70],  # either side of what a kernel takes at once
    "size_hw": [(1, 1), (9, 7), (1, 40), (33, 2), (16, 13)],
    "windows": [1, 2, 3],
    "steps": [0, 1, 5],
}
DEFAULTS = {
    "gaussian_px": 3.0,
    "gaussian_weight": 3.0,
    "bilateral_px": 60.0,
    "bilateral_rgb": 8.0,
    "bilateral_weight": 5.0,
}

needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU with CUDA")


def windows_of(windows: int, labels: int, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Energies [B, L, H, W] and images [B, 3, H, W] of a few flat colours, a little uneven."""
    palette = torch.rand(6, 3)
    image = palette[torch.randint(6, (windows, *size_hw))].permute(0, 3, 1, 2) + 0.02 * torch.randn(1, 3, *size_hw)
    return (2 * torch.randn(windows, labels, *size_hw)).to(DEVICE), image.to(DEVICE)


def in_float64(unary: Tensor, image: Tensor, steps: int = 5, **changes: float) -> Tensor:
    """The whole kernels and all steps in float64, on the CPU; [B, L, H, W]."""
    options = DEFAULTS | changes
    height, width = unary.shape[2:]
    colours = image.double().cpu().clamp(0, 1).flatten(2).mT * 255  # [B, N, 3]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double().view(-1, 2)  # [N, 2]
    gaussian = alike(places, options["gaussian_px"])
    bilateral = alike(places, options["bilateral_px"]) * alike(colours, options["bilateral_rgb"])  # [B, N, N]
    kernels = options["gaussian_weight"] * normalised(gaussian) + options["bilateral_weight"] * normalised(bilateral)
    logits = -unary.double().cpu().flatten(2)  # [B, L, N]
    shares = logits.softmax(1)
    for _ in range(steps):
        shares = (logits + shares @ kernels).softmax(1)
    return shares.view(unary.shape)


def alike(points: Tensor, deviation: float) -> Tensor:
    """[..., N, D] -> [..., N, N]."""
    return torch.exp(-torch.cdist(points, points).square() / (2 * deviation**2))


def normalised(kernel: Tensor) -> Tensor:
    """Symmetrically, [..., N, N]."""
    root = kernel.sum(-1).sqrt()
    return kernel / (root[..., :, None] * root[..., None, :])


def assert_same(found: Tensor, unary: Tensor, image: Tensor, **options: Any) -> None:
    """Near the sums in float64 and the definition; and the same labels where these are sure."""
    assert (found.shape, found.dtype, found.device) == (unary.shape, torch.float32, unary.device)
    assert (found.cpu() - in_float64(unary, image, **options)).abs().max() < EXACT
    wanted = reference.crf_refine(unary, image, **options)
    assert (found - wanted).abs().max() < NEAR
    first, second = torch.cat([wanted, torch.zeros_like(wanted[:, :1])], 1).topk(2, dim=1).values.unbind(1)
    sure = first - second > MARGIN  # [B, H, W]
    assert torch.equal(found.argmax(1)[sure], wanted.argmax(1)[sure])


@pytest.mark.parametrize("case", list(pairwise(FACTORS)), ids=lambda case: "-".join(map(str, case.values())))
def test_crf_refine_is_the_definition(case: dict[str, Any]) -> None:
    given = windows_of(case["windows"], case["labels"], case["size_hw"])
    assert_same(gpu.crf_refine(*given, steps=case["steps"]), *given, steps=case["steps"])


@pytest.mark.parametrize("labels", [2, 5])
def test_more_pixels_than_a_block(labels: int) -> None:
    given = windows_of(1, labels, (23, 37))
    assert given[0][0, 0].numel() > max(blocks["block_pixels"] for blocks in (TWO_LABELS, SOME_LABELS, MANY_LABELS))
    assert_same(gpu.crf_refine(*given, steps=2), *given, steps=2)


@pytest.mark.parametrize("labels", [2, 4])
@pytest.mark.parametrize(
    "change",
    [
        {"gaussian_weight": 0.0},
        {"bilateral_weight": 0.0},
        {"gaussian_px": 30.0, "gaussian_weight": 1.0},
        {"bilateral_px": 5.0, "bilateral_rgb": 30.0},
        {"bilateral_px": 1e6, "bilateral_rgb": 1e6, "bilateral_weight": 1.0},
    ],
    ids=str,
)
def test_other_kernels(labels: int, change: dict[str, Any]) -> None:
    given = windows_of(2, labels, (11, 13))
    assert_same(gpu.crf_refine(*given, **change), *given, **change)


@pytest.mark.parametrize("deviation", [0.05, 0.3])
def test_the_smallest_deviations_lose_nothing(deviation: float) -> None:
    """Thousands of deviations apart: differences of features keep their bits where a matrix product would not."""
    unary, image = windows_of(1, 3, (7, 9))
    changes: dict[str, Any] = {"bilateral_px": 60.0, "bilateral_rgb": deviation}
    image[..., ::2] = image[..., :1]  # equal colours, far from zero
    assert (gpu.crf_refine(unary, image, **changes).cpu() - in_float64(unary, image, **changes)).abs().max() < EXACT


@pytest.mark.parametrize("labels", [2, 3])
def test_what_is_not_finite_does_not_spread(labels: int) -> None:
    unary, image = windows_of(1, labels, (10, 12))
    unary[0, 1, 3, 4] = math.nan  # not this label
    unary[0, :, 5] = math.nan  # nothing is known
    unary[0, 0, 7, 7], unary[0, -1, 8, 8] = -math.inf, math.inf
    image[0, :, :, 9], image[0, 0, 9, 0], image[0, 1, 9, 1] = math.nan, math.inf, -math.inf
    refined = gpu.crf_refine(unary, image)
    assert ((refined.sum(1) - 1).abs() < 1e-5).all()
    assert [refined[0, label, y, x].item() for label, y, x in ((1, 3, 4), (0, 7, 7), (-1, 8, 8))] == [0, 1, 0]
    wanted = in_float64(unary.nan_to_num(1e4, 1e4, -1e4), image.nan_to_num(0.0))
    assert (refined.cpu() - wanted).abs().max() < 1e-3  # where all energies are 1e4, a message has no bits below that


def test_windows_do_not_mix_and_runs_repeat() -> None:
    unary, image = windows_of(3, 4, (9, 8))
    together = gpu.crf_refine(unary, image)
    assert torch.equal(gpu.crf_refine(unary, image), together)
    for window in range(3):
        alone = gpu.crf_refine(unary[window : window + 1], image[window : window + 1])
        assert (alone[0] - together[window]).abs().max() < 1e-6


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0)], ids=str)
def test_views_are_taken_and_left_alone(order: tuple[int, ...]) -> None:
    unary, image = windows_of(2, 3, (8, 11))
    back = [order.index(dimension) for dimension in range(4)]
    turned, turned_image = (given.permute(order).contiguous().permute(back) for given in (unary, image))
    wanted = gpu.crf_refine(unary, image)
    refined = gpu.crf_refine(turned.requires_grad_(), turned_image)
    assert not refined.requires_grad
    assert (refined - wanted).abs().max() < 1e-5
    assert torch.equal(turned.detach(), unary)


def test_the_public_operator_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.ENVIRONMENT, "triton")
    given = windows_of(1, 2, (6, 7))
    assert torch.equal(public_crf_refine(*given), gpu.crf_refine(*given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unary": torch.zeros(1, 0, 4, 5)}, "L = 0 labels; accepted: L >= 1"),
        ({"image": torch.zeros(1, 1, 4, 5)}, r"image is \[1, 1, 4, 5\]; accepted: \[1, 3, 4, 5\]"),
        ({"steps": -1}, "steps is -1; accepted: 0 or more"),
        ({"bilateral_rgb": math.nan}, "bilateral_rgb is nan; accepted: 0.05 or more"),
    ],
)
def test_crf_refine_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gpu.crf_refine(**({"unary": torch.zeros(1, 2, 4, 5), "image": torch.zeros(1, 3, 4, 5)} | change))


@needs_cuda
@pytest.mark.parametrize("labels", [2, 5, 21])
def test_a_whole_frame_needs_no_matrix_of_all_pairs(labels: int) -> None:
    unary, image = windows_of(1, labels, (240, 427))
    wanted = reference.crf_refine(unary, image)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    refined = gpu.crf_refine(unary, image)
    assert torch.cuda.max_memory_allocated() - before < 20 * (unary.nbytes + image.nbytes)
    assert (refined - wanted).abs().mean() < NEAR
    assert torch.equal(gpu.crf_refine(unary, image), refined)
    assert (refined.argmax(1) == wanted.argmax(1)).float().mean() > 0.999
