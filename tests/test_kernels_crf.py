"""crf_refine: the definition against brute force, the C++ version against the definition and against pydensecrf.

The definition sums over all pairs of pixels; the C++ version, as pydensecrf, over a lattice that comes near them. So
values are compared on average and labels (the likeliest one of each pixel) as the share of pixels that agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gpu_material import poisoned_empty
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_versions import ISAS, call, pairwise
from PIL import Image
from torch import Tensor

from f2f.kernels import crf_refine, native, reference
from f2f.training.synth import random_scene

__all__ = ["poisoned_empty"]

AGREEMENT = 0.98
"""share of pixels with the same label"""
MEAN_DIFFERENCE = 0.01
"""of probabilities, on rendered frames"""
DEFAULTS: dict[str, Any] = {
    "gaussian_px": 3.0,
    "gaussian_weight": 3.0,
    "bilateral_px": 60.0,
    "bilateral_rgb": 8.0,
    "bilateral_weight": 5.0,
}
FACTORS = {
    "isa": ISAS,
    "size_hw": [(1, 1), (2, 2), (1, 130), (63, 63), (95, 3), (23, 37), (70, 90)],
    "labels": [1, 2, 3, 4, 8, 21, 27],
    "windows": [0, 1, 3],
    "steps": [0, 1, 5],
    "threads": [1, 2, 5],
}
VERSIONS = [reference.crf_refine, native.crf_refine, crf_refine]

every_version = pytest.mark.parametrize("run", VERSIONS, ids=["reference", "cpp", "public"])
every_isa = pytest.mark.parametrize("isa", ISAS)


def rendered(labels: int, size_hw: tuple[int, int], seeds: tuple[int, ...] = (4,)) -> tuple[Tensor, Tensor]:
    """Energies [B, L, H, W], coarse and partly wrong, and frames [B, 3, H, W] of the synthetic web."""
    energies, frames = [], []
    for seed in seeds:
        scene = random_scene((77, seed), size_hw)
        frames.append(torch.from_numpy(scene.render(0.5).image).permute(2, 0, 1) / 255)
        energies.append(coarse_energies(torch.from_numpy(scene.labels(0.5)) > 0, labels))
    return torch.stack(energies), torch.stack(frames)


def coarse_energies(mask: Tensor, labels: int) -> Tensor:
    """Energies [L, H, W] of a mask [H, W] seen through 8 px cells and noise; labels beyond two are unlikely blobs."""
    small = [math.ceil(size / 8) for size in mask.shape]
    seen = F.interpolate(mask[None, None].float(), small, mode="area") + 0.2 * torch.randn(1, 1, *small)
    inside = F.interpolate(seen, mask.shape, mode="bicubic")[0].clamp(0.1, 0.9)  # [1, H, W]
    others = F.interpolate(torch.rand(1, labels, *small), mask.shape, mode="bicubic")[0, 2:].clamp(0.01, 1) * 0.4
    likely = torch.cat([1 - inside, inside, others])[:labels]
    return -(likely / likely.sum(0)).log()


def agreement(found: Tensor, wanted: Tensor) -> float:
    """Share of pixels with the same label, of probabilities [B, L, H, W]."""
    return float((found.argmax(1) == wanted.argmax(1)).double().mean())


def assert_probabilities(shares: Tensor, like: Tensor) -> None:
    """Finite, of 0..1, and 1 in sum."""
    assert (shares.shape, shares.dtype) == (like.shape, torch.float32)
    assert (shares >= 0).all()
    assert ((shares.sum(1) - 1).abs() < 1e-5).all()


# The definition


@pytest.mark.parametrize("labels", [1, 2, 5])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (7, 5)], ids=str)
def test_the_definition_is_the_papers_sum_over_pairs(size_hw: tuple[int, int], labels: int) -> None:
    options = {"gaussian_px": 1.5, "gaussian_weight": 2.0, "bilateral_px": 4.0, "bilateral_rgb": 40.0}
    unary, image = torch.randn(2, labels, *size_hw), torch.rand(2, 3, *size_hw)
    refined = reference.crf_refine(unary, image, steps=3, bilateral_weight=1.5, **options)
    for window in range(2):
        wanted = brute_force(unary[window].double(), image[window].double() * 255)
        assert (refined[window] - wanted).abs().max() < 1e-5


def brute_force(unary: Tensor, colours: Tensor) -> Tensor:
    """Three steps on one window in float64, with the whole kernels."""
    labels, height, width = unary.shape
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()  # [N, 2]
    apart = torch.cdist(places, places).square()
    similar = torch.cdist(colours.flatten(1).T, colours.flatten(1).T).square()  # [N, N]
    kernels = (torch.exp(-apart / (2 * 1.5**2)), torch.exp(-apart / (2 * 4.0**2) - similar / (2 * 40.0**2)))
    gaussian, bilateral = (k / (k.sum(0).sqrt() * k.sum(1, keepdim=True).sqrt()) for k in kernels)
    shares = (-unary.flatten(1)).softmax(0)
    for _ in range(3):
        shares = (-unary.flatten(1) + shares @ (2.0 * gaussian + 1.5 * bilateral)).softmax(0)
    return shares.view(labels, height, width)


# The C++ version beside it


@pytest.mark.parametrize(
    "case",
    list(pairwise(FACTORS)),
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_the_lattice_comes_near_the_definition(case: dict[str, Any]) -> None:
    unary, image = rendered(case["labels"], (96, 160), (4, 7, 9)[: case["windows"]] or (4,))
    height, width = case["size_hw"]
    unary, image = (part[: case["windows"], :, -height:, :width] for part in (unary, image))
    refined = call(case["isa"], "crf_refine", unary, image, steps=case["steps"], threads=case["threads"])
    assert_probabilities(refined, unary)
    if unary.numel():
        wanted = reference.crf_refine(unary, image, steps=case["steps"])
        assert (refined - wanted).abs().mean() < MEAN_DIFFERENCE
        assert agreement(refined, wanted) >= AGREEMENT


@every_isa
@pytest.mark.parametrize("labels", [2, 6])
@pytest.mark.parametrize(
    "change",
    [
        {"gaussian_weight": 0.0},
        {"bilateral_weight": 0.0},
        {"gaussian_px": 30.0, "gaussian_weight": 1.0},
        {"bilateral_px": 5.0, "bilateral_rgb": 30.0},
        {"bilateral_px": 0.05, "bilateral_rgb": 0.05},
        {"bilateral_px": 1e6, "bilateral_rgb": 1e6, "bilateral_weight": 1.0},
    ],
    ids=str,
)
def test_other_kernels(isa: str, labels: int, change: dict[str, float]) -> None:
    """With the smallest deviations a key of the lattice takes 128 bits; with the largest all pixels are one."""
    unary, image = rendered(labels, (40, 64))
    refined = call(isa, "crf_refine", unary, image, **{**DEFAULTS, **change})
    wanted = reference.crf_refine(unary, image, **{**DEFAULTS, **change})
    assert (refined - wanted).abs().mean() < 2 * MEAN_DIFFERENCE
    assert agreement(refined, wanted) >= AGREEMENT


def test_without_the_bilateral_kernel_nothing_is_approximate() -> None:
    """But for the cut at four deviations."""
    unary, image = rendered(4, (50, 70))
    options = {**DEFAULTS, "bilateral_weight": 0.0}
    refined, wanted = (run(unary, image, **options) for run in (native.crf_refine, reference.crf_refine))
    assert (refined - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("labels", [2, 3, 21])
def test_the_number_of_threads_changes_no_bit(labels: int) -> None:
    unary, image = rendered(labels, (150, 200), (4, 7, 9))
    alone = native.crf_refine(unary, image, threads=1)
    for threads in (2, 3, 5, 8):
        assert torch.equal(native.crf_refine(unary, image, threads=threads), alone)
    for window in range(3):
        single = native.crf_refine(unary[window : window + 1], image[window : window + 1], threads=4)
        assert torch.equal(single[0], alone[window])


@every_version
def test_views_are_taken_and_left_alone(run: Callable[..., Tensor]) -> None:
    unary, image = torch.rand(4, 20, 14, 3).permute(0, 3, 1, 2)[::2], torch.rand(2, 3, 14, 20).transpose(2, 3)
    before = unary.clone(), image.clone()
    assert torch.equal(run(unary, image), run(unary.contiguous(), image.contiguous()))
    assert torch.equal(unary, before[0])
    assert torch.equal(image, before[1])


@every_version
def test_what_is_not_finite_does_not_spread(run: Callable[..., Tensor]) -> None:
    unary, image = torch.rand(1, 3, 20, 30), torch.rand(1, 3, 20, 30)
    unary[0, 1, 3, 4] = math.nan  # not this label
    unary[0, :, 5] = math.nan  # nothing is known
    unary[0, 0, 7, 7], unary[0, 2, 8, 8] = -math.inf, math.inf
    image[0, :, :, 9], image[0, 0, 9, 0], image[0, 1, 9, 1] = math.nan, math.inf, -math.inf
    refined = run(unary, image)
    assert_probabilities(refined, unary)
    assert [refined[0, label, y, x].item() for label, y, x in ((1, 3, 4), (0, 7, 7), (2, 8, 8))] == [0, 1, 0]
    cleaned, colours = unary.nan_to_num(1e4, 1e4, -1e4), image.nan_to_num(0.0).clamp(0, 1)
    assert torch.equal(run(cleaned, colours), refined)


@every_version
def test_energies_that_say_nothing_stay_so(run: Callable[..., Tensor]) -> None:
    refined = run(torch.full((1, 4, 9, 40), 3.0), torch.rand(1, 3, 9, 40))
    assert (refined - 0.25).abs().max() < 1e-5


@every_version
def test_a_hole_is_closed_along_the_edge(run: Callable[..., Tensor]) -> None:
    """Unknown pixels take the label of those that look like them, on either side of an edge in the image."""
    image = torch.full((1, 3, 40, 60), 0.2)
    image[..., 30:] = 0.8
    unary = torch.zeros(1, 2, 40, 60)
    unary[:, 1, :, :20] = unary[:, 0, :, 40:] = 2.0
    labels = run(unary, image).argmax(1)[0]
    assert not labels[:, :30].any()
    assert labels[:, 30:].all()


def test_the_result_is_detached() -> None:
    unary, image = (torch.rand(1, channels, 5, 6, requires_grad=True) for channels in (2, 3))
    for run in VERSIONS:
        assert not run(unary, image).requires_grad


@given(
    st.sampled_from(ISAS), st.integers(0, 3), st.integers(1, 9), st.integers(1, 70), st.integers(1, 70),
    st.integers(0, 3), st.floats(0.05, 100), st.floats(0.05, 300),
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_size_and_deviation_gives_probabilities(
    isa: str, windows: int, labels: int, height: int, width: int, steps: int, px: float, rgb: float
) -> None:
    if isa not in native.usable_isas():
        return
    torch.manual_seed(height * width)
    unary, image = torch.randn(windows, labels, height, width) * 5, torch.rand(windows, 3, height, width)
    options = {"steps": steps, "gaussian_px": px, "bilateral_px": px, "bilateral_rgb": rgb}
    refined = call(isa, "crf_refine", unary, image, **options)
    assert_probabilities(refined, unary)
    assert torch.equal(call(isa, "crf_refine", unary, image, **options, threads=3), refined)


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"unary": torch.zeros(2, 4, 5)},
            r"unary is \[2, 4, 5\] float32; accepted: \[B,L,H,W\] float32; add or remove",
        ),
        ({"unary": torch.zeros(1, 2, 4, 5).double()}, r"unary is \[1, 2, 4, 5\] float64; accepted: .* float32"),
        ({"unary": torch.zeros(1, 0, 4, 5)}, "L = 0 labels; accepted: L >= 1"),
        ({"image": torch.zeros(1, 3, 4, 5, dtype=torch.uint8)}, r"image is \[1, 3, 4, 5\] uint8; accepted"),
        (
            {"image": torch.zeros(1, 1, 4, 5)},
            r"image is \[1, 1, 4, 5\]; accepted: \[1, 3, 4, 5\] \(B, H and W of unary",
        ),
        ({"steps": -1}, "steps is -1; accepted: 0 or more"),
        ({"gaussian_px": 0.0}, "gaussian_px is 0.0; accepted: 0.05 or more"),
        ({"bilateral_rgb": math.nan}, "bilateral_rgb is nan; accepted: 0.05 or more"),
        ({"bilateral_px": math.inf}, "bilateral_px is inf"),
        ({"bilateral_weight": -1.0}, "bilateral_weight is -1.0; accepted: 0 or more; 0 leaves the kernel out"),
    ],
)
@every_version
def test_crf_refine_refuses(run: Callable[..., Tensor], change: dict[str, Any], message: str) -> None:
    arguments = {"unary": torch.zeros(1, 2, 4, 5), "image": torch.zeros(1, 3, 4, 5)} | change
    with pytest.raises(ValueError, match=message):
        run(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 8, [1, 2, 4, 5], 5, [3, 3, 60, 8, 5], 1), r"unary is \[1, 2, 4, 5\] at a null pointer"),
        ((8, 0, 8, [1, 2, 4, 5], 5, [3, 3, 60, 8, 5], 1), r"image is \[1, 3, 4, 5\] at a null pointer"),
        ((8, 8, 0, [1, 2, 4, 5], 5, [3, 3, 60, 8, 5], 1), r"probabilities is \[1, 2, 4, 5\] at a null pointer"),
        ((8, 8, 8, [1, 0, 4, 5], 5, [3, 3, 60, 8, 5], 1), "labels is 0; accepted: 1 or more"),
        ((8, 8, 8, [1, 2, 4, 5], 5, [3, 3, 60, 8, 5], 0), "threads is 0; accepted: 1 or more"),
        ((8, 8, 8, [1, 2, 4, 5], -1, [3, 3, 60, 8, 5], 1), "steps is -1; accepted: 0 or more"),
        ((8, 8, 8, [1, 2, 4, 5], 5, [3, 3, 0, 8, 5], 1), "a standard deviation is 0.0+; accepted: more than 0"),
        ((8, 8, 8, [1, 2, 4, 5], 5, [3, 3, 60, 1e-6, 5], 1), "the image spans .* steps of the bilateral kernel's"),
        ((8, 8, 8, [1, 2, 2**15, 2**15], 5, [3, 3, 60, 8, 5], 1), r"unary has frames of .*; accepted: fewer than"),
    ],
)
def test_the_extension_checks_again(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native._extension().crf_refine(*arguments)


# pydensecrf, and real frames


def by_pydensecrf(unary: Tensor, image: Tensor, steps: int = 5) -> Tensor:
    """The same by pydensecrf: energies [L, H, W], image [3, H, W] of 0..1 -> probabilities [L, H, W]."""
    reason = "pydensecrf, to compare with, is not installed: pip install pydensecrf2==1.1 (compiles for a minute)"
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason=reason)
    labels, height, width = unary.shape
    field = densecrf.DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(unary.flatten(1).contiguous().numpy())
    field.addPairwiseGaussian(sxy=3, compat=3)
    colours = (image * 255).round().byte().permute(1, 2, 0).contiguous()
    field.addPairwiseBilateral(sxy=60, srgb=8, rgbim=colours.numpy(), compat=5)
    return torch.from_numpy(np.array(field.inference(steps))).view(labels, height, width)


@pytest.mark.parametrize("labels", [2, 4, 21])
@pytest.mark.parametrize("seed", [4, 7])
def test_pydensecrf_finds_the_same_labels(seed: int, labels: int) -> None:
    unary, image = rendered(labels, (240, 427), (seed,))
    assert agreement(crf_refine(unary, image), by_pydensecrf(unary[0], image[0])[None]) >= AGREEMENT


@pytest.mark.parametrize(("video", "name"), [("dog", "dog"), ("cow", "cows"), ("bicycle", "bmx-trees")])
def test_pydensecrf_finds_the_same_labels_in_real_frames(real: Path, video: str, name: str) -> None:
    with av.open(str(real / "videos" / video / f"{name}.mp4")) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
    frame = Image.fromarray(pixels).resize((427, 240), Image.Resampling.BILINEAR)
    mask = Image.open(real / "masks" / name / "00000.png").resize((427, 240), Image.Resampling.NEAREST)
    unary = coarse_energies(torch.from_numpy(np.array(mask)).reshape(240, 427, -1).amax(2) > 0, 2)
    image = torch.from_numpy(np.array(frame)).permute(2, 0, 1) / 255
    refined = crf_refine(unary[None], image[None])
    assert agreement(refined, by_pydensecrf(unary, image)[None]) >= AGREEMENT


@pytest.mark.slow
def test_the_exact_form_finds_the_same_labels_in_a_whole_frame() -> None:
    unary, image = rendered(2, (90, 120))
    wanted = reference.crf_refine(unary, image)
    assert agreement((-unary).softmax(1), wanted) < AGREEMENT  # there is something to do
    assert agreement(crf_refine(unary, image), wanted) >= AGREEMENT
