"""activate_cams and compose_labels against brute force."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from f2f.kernels import activate_cams, compose_labels, pack_planes, unpack_planes
from f2f.kernels.reference import cam_taps

NONE = -1


def brute_force_maps(cams: list[Tensor], flips: list[bool], size_hw: tuple[int, int]) -> Tensor:
    """F.interpolate, un-mirror, maximum, ReLU: float32 [B, C, H, W]."""
    maps = [F.interpolate(cam, size=size_hw, mode="bilinear", align_corners=False) for cam in cams]
    maps = [full.flip(-1) if flip else full for full, flip in zip(maps, flips, strict=True)]
    return torch.stack(maps).amax(0).relu()


@pytest.mark.parametrize("planes", [1, 20, 31, 32, 33])
@pytest.mark.parametrize("size_hw", [(1, 1), (2, 2), (63, 63), (121, 77)], ids=str)
def test_activate_cams_is_upsample_max_threshold(size_hw: tuple[int, int], planes: int) -> None:
    batch, channels, theta = 2, 40, 0.3
    cams = [torch.randn(batch, channels, h, w) for h, w in ((3, 5), (3, 5), (11, 16), (1, 7))]
    flips = [False, True, True, False]
    classes = torch.stack([torch.randperm(channels)[:planes] for _ in range(batch)])
    bits, peaks = activate_cams(cams, flips, classes, size_hw, theta)
    maps = brute_force_maps(cams, flips, size_hw).gather(
        1, classes[..., None, None].expand(-1, -1, *size_hw)
    )  # [B, P, H, W]
    torch.testing.assert_close(peaks, maps.amax(dim=(-2, -1)), rtol=1e-5, atol=1e-6)
    margin = maps - theta * (maps.amax(dim=(-2, -1), keepdim=True) + 1e-5)
    sure = margin.abs() > 1e-5  # F.interpolate rounds in another order, so leave a thin band out
    assert sure.float().mean() > 0.999 or size_hw == (1, 1)
    assert torch.equal(unpack_planes(bits, planes)[sure], (margin > 0)[sure])


@pytest.mark.parametrize(("in_size", "out_size"), [(1, 1), (1, 9), (9, 1), (7, 7), (5, 23), (23, 5), (41, 321)])
def test_taps_are_those_of_align_corners_false(in_size: int, out_size: int) -> None:
    low, high, low_weight, high_weight = cam_taps(in_size, out_size)
    values = torch.rand(in_size, dtype=torch.float64)
    expected = F.interpolate(values[None, None], size=out_size, mode="linear", align_corners=False)[0, 0]
    torch.testing.assert_close(values[low] * low_weight + values[high] * high_weight, expected, rtol=0, atol=1e-6)
    assert low_weight.dtype == high_weight.dtype == torch.float32


def test_equal_sizes_copy_the_cam() -> None:
    cam = torch.rand(1, 1, 6, 9) + 0.1
    _, peaks = activate_cams([cam], [False], torch.tensor([[0]]), (6, 9), 0.5)
    bits, _ = activate_cams([cam], [False], torch.tensor([[0]]), (6, 9), 0.5)
    assert peaks.item() == cam.max().item()
    assert torch.equal(unpack_planes(bits, 1)[0, 0], cam[0, 0] > 0.5 * (cam.max() + 1e-5))


def test_a_flipped_cam_is_unflipped() -> None:
    cam = torch.zeros(1, 1, 4, 8)
    cam[..., 0] = 1.0  # left in the mirrored image: right in the frame
    bits, _ = activate_cams([cam], [True], torch.tensor([[0]]), (8, 16), 0.5)
    columns = unpack_planes(bits, 1)[0, 0].any(dim=0).nonzero().flatten()
    assert columns.tolist() == [14, 15]
    both, _ = activate_cams([cam, cam.flip(-1)], [True, False], torch.tensor([[0]]), (8, 16), 0.5)
    assert torch.equal(both, bits)


def test_relu_comes_after_the_upsampling() -> None:
    cam = torch.tensor([-3.0, 1.0]).reshape(1, 1, 1, 2)
    bits, peaks = activate_cams([cam], [False], torch.tensor([[0]]), (1, 4), 0.2)
    assert peaks.item() == 1.0
    assert unpack_planes(bits, 1).flatten().tolist() == [False, False, False, True]  # maps are -3, -2, 0, 1


@pytest.mark.parametrize("value", [0.0, -0.0, -2.0, math.nan, -math.inf])
def test_a_class_without_response_sets_nothing(value: float) -> None:
    bits, peaks = activate_cams([torch.full((1, 2, 3, 3), value)], [False], torch.tensor([[0, 1]]), (9, 9), 0.0)
    assert not bits.any()
    assert peaks.tolist() == [[0.0, 0.0]]


def test_nan_in_one_scale_leaves_the_others() -> None:
    good, broken = torch.rand(1, 1, 3, 3), torch.full((1, 1, 5, 5), math.nan)
    alone = activate_cams([good], [False], torch.tensor([[0]]), (9, 9), 0.2)
    for cams in ([good, broken], [broken, good]):
        bits, peaks = activate_cams(cams, [False, False], torch.tensor([[0]]), (9, 9), 0.2)
        assert torch.equal(bits, alone[0])
        assert torch.equal(peaks, alone[1])


def test_unlisted_planes_stay_empty_and_batches_do_not_mix() -> None:
    cams = [torch.rand(3, 5, 4, 4), torch.rand(3, 5, 6, 6)]
    classes = torch.tensor([[0, NONE], [NONE, NONE], [4, 2]])
    bits, peaks = activate_cams(cams, [False, True], classes, (20, 20), 0.4)
    masks = unpack_planes(bits, 2)
    assert not masks[0, 1].any()
    assert not masks[1].any()
    assert peaks[0, 1] == peaks[1, 0] == 0
    for b in range(3):
        alone, _ = activate_cams([cam[b : b + 1] for cam in cams], [False, True], classes[b : b + 1], (20, 20), 0.4)
        assert torch.equal(alone[0], bits[b])
    empty, _ = activate_cams([cam[:0] for cam in cams], [False, True], classes[:0], (20, 20), 0.4)
    assert empty.shape == (0, 1, 20, 20)


# compose_labels


def brute_force_labels(masks: Tensor, classes: Tensor, saliency: Tensor | None, theta_b: float) -> Tensor:
    """Pixel by pixel for one image: masks [P, H, W], classes [P], saliency [H, W]."""
    labels = torch.empty(masks.shape[1:], dtype=torch.uint8)
    areas = masks.sum(dim=(1, 2)).tolist()
    for y in range(masks.shape[1]):
        for x in range(masks.shape[2]):
            claims = [(areas[p], int(c) + 1) for p, c in enumerate(classes) if c >= 0 and masks[p, y, x]]
            background = saliency is not None and bool(saliency[y, x] < theta_b)
            labels[y, x] = min(claims)[1] if claims else (0 if background else 255)
    return labels


@given(st.integers(1, 35), st.integers(1, 7), st.integers(1, 7), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_compose_labels(planes: int, height: int, width: int, with_saliency: bool, seed: int) -> None:
    torch.manual_seed(seed)
    masks = torch.rand(2, planes, height, width) < torch.rand(2, planes, 1, 1) * 0.3
    classes = torch.stack([torch.randperm(254)[:planes] for _ in range(2)])
    classes[torch.rand(classes.shape) < 0.2] = NONE
    saliency = torch.rand(2, 1, height, width) if with_saliency else None
    labels = compose_labels(pack_planes(masks), classes, saliency, 0.5)
    assert labels.dtype == torch.uint8
    for b in range(2):
        prior = None if saliency is None else saliency[b, 0]
        assert torch.equal(labels[b], brute_force_labels(masks[b], classes[b], prior, 0.5))


def test_smaller_area_wins_then_lower_label() -> None:
    masks = torch.zeros(1, 3, 1, 4, dtype=torch.bool)
    masks[0, 0, 0, :3] = masks[0, 1, 0, 1:3] = masks[0, 2, 0, 2:] = True  # areas 3, 2, 2
    labels = compose_labels(pack_planes(masks), torch.tensor([[5, 9, 7]]), None, 0.5)
    assert labels.tolist() == [[[6, 10, 8, 8]]]


def test_a_class_keeps_its_pixels_whatever_the_saliency() -> None:
    masks = torch.zeros(1, 1, 1, 3, dtype=torch.bool)
    masks[..., 0] = True
    saliency = torch.tensor([0.0, 0.0, math.nan]).reshape(1, 1, 1, 3)
    assert compose_labels(pack_planes(masks), torch.tensor([[253]]), saliency, 0.5).tolist() == [[[254, 0, 255]]]


def test_the_threshold_itself_is_not_background() -> None:
    saliency = torch.tensor([0.12, 0.11999]).reshape(1, 1, 1, 2)
    bits = torch.zeros(1, 1, 1, 2, dtype=torch.int32)
    assert compose_labels(bits, torch.tensor([[0]]), saliency, 0.12).tolist() == [[[255, 0]]]


def test_compose_labels_of_nothing() -> None:
    empty = torch.zeros(0, 1, 3, 3, dtype=torch.int32)
    assert compose_labels(empty, torch.zeros(0, 2, dtype=torch.int64), None, 0.5).shape == (0, 3, 3)
    no_planes = torch.zeros(1, 0, 2, 2, dtype=torch.int32)
    labels = compose_labels(no_planes, torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 1, 2, 2), 0.5)
    assert labels.tolist() == [[[0, 0], [0, 0]]]
