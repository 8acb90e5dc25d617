"""The dense CRF of the losses against the kernels' definition, their C++ version and pydensecrf."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.kernels import crf_refine, reference
from f2f.training.segmentation.dense_crf import TRAINING_CRF, CrfOptions, mean_field, pairwise_kernel, refine
from f2f.training.synth import random_scene

AGREEMENT = 0.99
"""share of cells with the same label as on a lattice"""
MEAN_DIFFERENCE = 0.01
"""of shares, likewise"""
SHARP = CrfOptions(gaussian_px=1.5, gaussian_weight=2.0, bilateral_px=4.0, bilateral_rgb=40.0, bilateral_weight=1.5)
OPTIONS = {"training": TRAINING_CRF, "sharp": SHARP, "gaussian": CrfOptions(bilateral_weight=0.0)}


def scenes(labels: int, cells_hw: tuple[int, int], seeds: tuple[int, ...] = (4, 7, 9)) -> tuple[Tensor, Tensor]:
    """Energies [B,L,h,w], of coarse and partly wrong scores, and images [B,3,h,w] of the synthetic web."""
    images, energies = [], []
    for seed in seeds:
        frame, mask = rendered(seed)
        images.append(F.interpolate(frame, cells_hw, mode="area")[0])
        blob = F.interpolate(F.interpolate(mask, (8, 8), mode="area"), cells_hw, mode="bicubic")[0]
        others = torch.randn(labels, *cells_hw)
        energies.append(-(torch.cat([1 - blob, blob, torch.zeros(labels, *cells_hw)])[:labels] * 3 + 0.3 * others))
    return torch.stack(energies), torch.stack(images)


@lru_cache
def rendered(seed: int) -> tuple[Tensor, Tensor]:
    """A frame [1,3,240,320] of 0..1 and its mask [1,1,240,320] of 0 and 1."""
    scene = random_scene((77, seed), (240, 320))
    frame = torch.from_numpy(scene.render(0.5).image).permute(2, 0, 1)[None] / 255
    return frame, (torch.from_numpy(scene.labels(0.5)) > 0).float()[None, None]


def agreement(found: Tensor, wanted: Tensor) -> float:
    return float((found.argmax(1) == wanted.argmax(1)).double().mean())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("steps", [0, 1, 10])
@pytest.mark.parametrize(("labels", "cells_hw"), [(8, (30, 31)), (3, (1, 1)), (1, (5, 7)), (4, (1, 30)), (2, (23, 11))])
def test_it_is_the_kernels_definition(labels: int, cells_hw: tuple[int, int], steps: int, options: CrfOptions) -> None:
    unary, image = scenes(labels, cells_hw, (4, 7))
    wanted = reference.crf_refine(unary, image, steps=steps, **vars(options))
    assert (refine(unary, image, steps, options) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("labels", [2, 21])
def test_the_lattice_of_the_kernels_comes_near_it(labels: int) -> None:
    unary, image = scenes(labels, (41, 41))
    near = crf_refine(unary, image, steps=10, **vars(TRAINING_CRF))
    found = refine(unary, image)
    assert agreement(found, near) >= AGREEMENT
    assert (found - near).abs().mean() < MEAN_DIFFERENCE


def by_pydensecrf(unary: Tensor, image: Tensor) -> Tensor:
    """The same, with SEC's constants, by pydensecrf: [L,h,w], [3,h,w] of 0..1 -> [L,h,w]."""
    reason = "pydensecrf, to compare with, is not installed: pip install pydensecrf2==1.1 (compiles for a minute)"
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason=reason)
    labels, height, width = unary.shape
    field = densecrf.DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(unary.flatten(1).contiguous().numpy())
    field.addPairwiseGaussian(sxy=3 / 12, compat=3)
    colours = (image * 255).round().byte().permute(1, 2, 0).contiguous()
    field.addPairwiseBilateral(sxy=80 / 12, srgb=13, rgbim=colours.numpy(), compat=10)
    return torch.from_numpy(np.array(field.inference(10))).view(labels, height, width)


@pytest.mark.parametrize("labels", [2, 5, 21])
def test_pydensecrf_finds_the_same_labels(labels: int) -> None:
    unary, image = scenes(labels, (41, 41))
    wanted = torch.stack([by_pydensecrf(*one) for one in zip(unary, image, strict=True)])
    found = refine(unary, image)
    assert agreement(found, wanted) >= AGREEMENT
    assert (found - wanted).abs().mean() < MEAN_DIFFERENCE


def test_the_kernel_serves_several_refinements() -> None:
    unary, image = scenes(3, (15, 20))
    kernel = pairwise_kernel(image)
    assert kernel.shape == (3, 300, 300)
    torch.testing.assert_close(kernel, kernel.transpose(1, 2))
    for scale in (1.0, 0.2):
        torch.testing.assert_close(mean_field(scale * unary, kernel), refine(scale * unary, image))


def test_an_image_is_refined_the_same_in_any_batch() -> None:
    unary, image = scenes(4, (19, 24))
    whole = refine(unary, image)
    for place in range(3):
        torch.testing.assert_close(refine(unary[place : place + 1], image[place : place + 1])[0], whole[place])
    assert refine(unary[:0], image[:0]).shape == (0, 4, 19, 24)


def test_there_is_no_gradient_and_no_loss_of_precision() -> None:
    unary, image = scenes(4, (12, 13))
    wanted = refine(unary, image)
    with torch.autocast("cpu", torch.bfloat16):
        refined = refine(unary.requires_grad_(), image.requires_grad_())
    assert not refined.requires_grad
    assert torch.equal(refined, wanted)


def test_what_is_not_finite_or_no_colour_is_taken_as_by_the_definition() -> None:
    unary, image = scenes(3, (12, 13))
    unary[0, 1, 3, 4], unary[0, :, 5], unary[0, 0, 7, 7], unary[1, 2, 8, 8] = math.nan, math.nan, -math.inf, math.inf
    image[0, :, :, 9], image[0, 0, 9, 0], image[1, 1, :3], image[1, 1, 5:] = math.nan, math.inf, -0.2, 1.3
    found, wanted = (refine(unary, image, 10, SHARP), reference.crf_refine(unary, image, steps=10, **vars(SHARP)))
    assert found.isfinite().all()
    assert (found - wanted).abs().max() < 2e-3, "energies of 1e4 are rounded to 1e-3"


def test_bad_input_is_refused() -> None:
    unary, image = torch.zeros(1, 2, 4, 5), torch.zeros(1, 3, 4, 5)
    with pytest.raises(ValueError, match=r"image is \[1, 3, 8, 5\]; accepted: \[1, 3, 4, 5\]"):
        refine(unary, torch.zeros(1, 3, 8, 5))
    with pytest.raises(ValueError, match=r"gaussian_px is nan; accepted: 0\.05 or more"):
        refine(unary, image, options=CrfOptions(gaussian_px=math.nan))
    with pytest.raises(ValueError, match="steps is -1; accepted: 0 or more"):
        refine(unary, image, -1)
