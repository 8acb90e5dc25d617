"""Rule f2f: camera motion, the gated soft union, motion as evidence, probabilities and labels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from f2f.engine.camera import camera_flow, residual_motion
from f2f.engine.evidence import MOTION_SHARES, by_motion, motion_share, own_motion
from f2f.engine.refine import prior
from f2f.kernels import soft_union


def homography_flow(height: int, width: int) -> torch.Tensor:
    """Flow [2, H, W] of a camera that pans, zooms, rolls and tilts."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    u, v = (x - width / 2) / width, (y - height / 2) / width
    across = 1 + 0.03 * u - 0.02 * v
    there_x = (1.02 * u + 0.03 * v + 0.02) / across * width + width / 2
    there_y = (-0.03 * u + 1.01 * v - 0.015) / across * width + height / 2
    return torch.stack([there_x - x, there_y - y])


@pytest.mark.parametrize("size_hw", [(240, 427), (97, 60), (16, 16)], ids=str)
def test_a_moving_camera_is_found(size_hw: tuple[int, int]) -> None:
    flow = homography_flow(*size_hw)
    torch.testing.assert_close(camera_flow(flow), flow, rtol=0, atol=0.02)


def test_an_object_of_a_third_of_the_frame_does_not_bend_the_camera() -> None:
    flow = homography_flow(120, 200)
    moving = flow.clone()
    moving[:, 30:110, 40:140] += torch.tensor([6.0, -3.0])[:, None, None]
    noise = 0.1 * torch.randn(2, 120, 200, generator=torch.Generator().manual_seed(0))
    residual = residual_motion(moving + noise)
    inside = torch.zeros(120, 200, dtype=torch.bool)
    inside[30:110, 40:140] = True
    assert residual[~inside].median() < 0.3
    assert abs(float(residual[inside].median()) - 45**0.5) < 0.5


def test_the_fit_of_stillness_is_stillness_and_of_one_pixel_is_no_error() -> None:
    assert camera_flow(torch.zeros(2, 40, 60)).abs().max() < 1e-3
    assert camera_flow(torch.zeros(2, 1, 1)).isfinite().all()


def test_where_only_the_camera_moves_motion_says_nothing() -> None:
    union = torch.rand(2, 120, 200)
    weighted = by_motion(union, own_motion(residual_motion(homography_flow(120, 200))))
    ratio = weighted / union
    assert ratio.amax((1, 2)).sub(ratio.amin((1, 2))).max() < 0.02


def test_what_moves_by_itself_counts_for_more() -> None:
    union, residual = torch.ones(1, 40, 60), torch.zeros(40, 60)
    union[:, 10:30] = 2.0
    residual[10:20] = 9.0  # half of what is active moves
    weighted = by_motion(union, own_motion(residual))[0]
    assert weighted[15, 5] > 5 * weighted[25, 5]


def test_a_still_object_among_moving_things_hangs_little_on_motion() -> None:
    union, moves = torch.full((2, 40, 60), 0.1), torch.zeros(40, 60)
    union[0, 10:20], union[1, 30:] = 1.0, 1.0
    moves[30:] = 1.0
    still, moving = motion_share(union, moves)
    assert (float(still), float(moving)) == pytest.approx(MOTION_SHARES, abs=0.01)


# ---- the union


def test_values_are_carried_where_there_and_back_agree() -> None:
    maps = torch.zeros(1, 2, 1, 8, 12)
    maps[0, 0, 0, 2:5, 3:6] = 0.8
    maps[0, 1, 0, 6, 10] = 0.5
    flow = torch.zeros(1, 1, 2, 8, 12)
    flow[:, :, 0] = -2.0  # what is at x on the second frame was at x - 2 on the first
    united = soft_union(maps, flow, -flow)
    wanted = torch.zeros(8, 12)
    wanted[2:5, 5:8] = 0.8
    wanted[6, 10] = 0.5
    torch.testing.assert_close(united[0, 0], wanted)
    refused = soft_union(maps, flow, 2 - flow)  # the way back ends elsewhere
    torch.testing.assert_close(refused, maps[:, 1])


def test_what_comes_from_outside_the_frame_is_not_carried() -> None:
    maps = torch.zeros(1, 2, 1, 4, 6)
    maps[:, 0] = 1.0
    flow = torch.zeros(1, 1, 2, 4, 6)
    flow[:, :, 0] = 1.5
    united = soft_union(maps, flow, -flow)[0, 0]
    assert united[:, :4].eq(1).all()
    assert not united[:, 4:].any()


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_union_is_never_below_the_last_frame(frames: int) -> None:
    maps = torch.rand(2, frames, 3, 7, 9)
    flow, back = torch.randn(2, 2, frames - 1, 2, 7, 9).unbind()
    united = soft_union(maps, flow, back)
    assert (united >= maps[:, -1]).all()
    assert united.max() <= maps.max()


def test_union_refuses_by_name() -> None:
    maps, flow = torch.rand(1, 3, 1, 4, 4), torch.zeros(1, 2, 2, 4, 4)
    with pytest.raises(ValueError, match=r"return_xy_px is \[1, 1, 2, 4, 4\]; accepted: \[1, 2, 2, 4, 4\]"):
        soft_union(maps, flow, flow[:, :1])
    with pytest.raises(ValueError, match=r"maps is .* float64; accepted: \[B,K,P,H,W\] float32"):
        soft_union(maps.double(), flow, flow)


# ---- probabilities


@given(st.floats(0.05, 0.9), st.integers(1, 4))
def test_a_class_at_theta_is_as_likely_as_not(theta: float, classes: int) -> None:
    evidence = torch.zeros(classes, 1, 3)
    evidence[0, 0] = torch.tensor([0.0, theta, 1.0])
    probabilities = prior(evidence, theta)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(1, 3))
    torch.testing.assert_close(probabilities[1, 0], torch.tensor([0.0, 0.5, 1.0]), rtol=0, atol=1e-4)


def test_of_two_classes_the_stronger_is_the_likelier() -> None:
    probabilities = prior(torch.tensor([0.9, 0.5]).view(2, 1, 1), 0.25)
    assert probabilities[1] > probabilities[2] > probabilities[0]
