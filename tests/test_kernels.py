"""Bit planes, warp_union and minimum_barrier.

Every version is compared with its definition (`f2f.kernels.reference`), and the definitions with brute force.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gpu_material import poisoned_empty
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from f2f.kernels import minimum_barrier, native, pack_planes, reference, unpack_planes, warp_union

__all__ = ["poisoned_empty"]

# tests/test_kernels_versions.py compares every version; here are the properties of the method.
WARP_VERSIONS = [native.warp_union, warp_union]
BARRIER_VERSIONS = [native.minimum_barrier, minimum_barrier]
NAMES = ["cpp", "public"]

Masks = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

every_warp = pytest.mark.parametrize("run", [reference.warp_union, *WARP_VERSIONS], ids=["reference", *NAMES])
every_barrier = pytest.mark.parametrize(
    "run", [reference.minimum_barrier, *BARRIER_VERSIONS], ids=["reference", *NAMES]
)
other_warps = pytest.mark.parametrize("run", WARP_VERSIONS, ids=NAMES)
other_barriers = pytest.mark.parametrize("run", BARRIER_VERSIONS, ids=NAMES)

SIZES = [(1, 1), (2, 2), (1, 63), (63, 2), (63, 63)]
ODD_FLOWS = [0.0, -0.0, 0.5, -0.5, 1.0, 1 / 512, -1e-40, 2.0**20, -(2.0**20), 2.0**20 + 1, 1e30]
NO_FLOWS = [math.nan, math.inf, -math.inf]


def random_bits(clips: int, frames: int, planes: int, size_hw: tuple[int, int], density: float = 0.5) -> Tensor:
    """Random masks as bit planes, int32 [B, K, N, H, W]."""
    return pack_planes(torch.rand(clips, frames, planes, *size_hw) < density)


def random_flow(
    clips: int, frames: int, size_hw: tuple[int, int], step_px: float = 0.0, reach_px: float = 4.0
) -> Tensor:
    """Random flow, float32 [B, K-1, 2, H, W], on multiples of `step_px` where that is not 0."""
    flow = (torch.rand(clips, frames - 1, 2, *size_hw) * 2 - 1) * reach_px
    return torch.round(flow / step_px) * step_px if step_px else flow


# Bit planes


@pytest.mark.parametrize("planes", [0, 1, 20, 31, 32, 33, 64, 65])
def test_planes_survive_packing(planes: int) -> None:
    masks = torch.rand(2, 3, planes, 5, 7) < 0.5
    bits = pack_planes(masks)
    assert bits.shape == (2, 3, -(-planes // 32), 5, 7)
    assert bits.dtype == torch.int32
    assert torch.equal(unpack_planes(bits, planes), masks)


def test_plane_p_is_bit_p_mod_32_of_word_p_div_32() -> None:
    for plane in (0, 5, 31, 32, 40):
        masks = torch.zeros(41, 1, 1, dtype=torch.bool)
        masks[plane] = True
        words = [word & 0xFFFFFFFF for word in pack_planes(masks).flatten().tolist()]
        assert words == [(1 << plane) & 0xFFFFFFFF, (1 << plane) >> 32]


def test_unused_bits_are_zero() -> None:
    assert pack_planes(torch.ones(3, 2, 2, dtype=torch.bool)).tolist() == [[[0b111] * 2] * 2]


# warp_union against float64, tap by tap


def brute_force_warp(mask: Doubles, flow_xy_px: Doubles) -> Masks:
    """Bilinear sample of one float64 mask [H, W] at p + snapped flow [2, H, W], thresholded above one half."""
    height, width = mask.shape
    with np.errstate(invalid="ignore"):
        valid = (np.abs(flow_xy_px) <= 2.0**20).all(axis=0)
    snapped = (2 * np.floor(256 * np.where(valid, flow_xy_px, 0.0)) + 1) / 512
    x, y = snapped[0] + np.arange(width), snapped[1] + np.arange(height)[:, None]
    x0, y0 = np.floor(x), np.floor(y)
    total = np.zeros_like(mask)
    for tap_y, weight_y in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for tap_x, weight_x in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            inside = (tap_x >= 0) & (tap_x < width) & (tap_y >= 0) & (tap_y < height)
            rows, columns = np.where(inside, tap_y, 0).astype(int), np.where(inside, tap_x, 0).astype(int)
            total += np.where(inside, weight_x * weight_y * mask[rows, columns], 0)
    above: Masks = total > 0.5
    return above & valid


def brute_force_union(masks: Masks, flow_xy_px: Doubles) -> Masks:
    """`masks` bool [K, P, H, W], `flow_xy_px` [K-1, 2, H, W] float64 -> every step's union, bool [K, P, H, W]."""
    steps = [masks[0]]
    for k in range(len(masks) - 1):
        warped = [brute_force_warp(plane.astype(np.float64), flow_xy_px[k]) for plane in steps[-1]]
        steps.append(masks[k + 1] | np.stack(warped))
    return np.stack(steps)


@pytest.mark.parametrize("step_px", [0.0, 1.0, 0.5, 0.25, 1 / 256, 1 / 512])
@pytest.mark.parametrize("size_hw", [(1, 1), (2, 2), (1, 63), (23, 37)])
def test_reference_is_the_bilinear_warp_above_one_half(size_hw: tuple[int, int], step_px: float) -> None:
    masks = torch.rand(1, 4, 6, *size_hw) < 0.5
    flow = random_flow(1, 4, size_hw, step_px)
    steps = reference.warp_union(pack_planes(masks), flow, return_steps=True)
    expected = brute_force_union(masks[0].numpy(), flow[0].double().numpy())
    assert np.array_equal(unpack_planes(steps, 6)[0].numpy(), expected)


@pytest.mark.parametrize("value", ODD_FLOWS + NO_FLOWS)
def test_reference_on_odd_flows(value: float) -> None:
    masks = torch.rand(1, 2, 3, 9, 11) < 0.5
    flow = random_flow(1, 2, (9, 11))
    flow[:, :, 0, ::2] = value
    united = reference.warp_union(pack_planes(masks), flow)
    expected = brute_force_union(masks[0].numpy(), flow[0].double().numpy())[-1]
    assert np.array_equal(unpack_planes(united, 3)[0].numpy(), expected)


# warp_union, every version


@other_warps
@pytest.mark.parametrize("size_hw", SIZES, ids=str)
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_warp_union_sizes(run: Callable[..., Tensor], size_hw: tuple[int, int], frames: int) -> None:
    bits, flow = random_bits(2, frames, 20, size_hw), random_flow(2, frames, size_hw)
    assert torch.equal(run(bits, flow), reference.warp_union(bits, flow))
    steps = run(bits, flow, return_steps=True)
    assert steps.shape == bits.shape
    assert torch.equal(steps, reference.warp_union(bits, flow, return_steps=True))


@other_warps
def test_warp_union_of_a_full_frame(run: Callable[..., Tensor]) -> None:
    bits, flow = random_bits(1, 5, 20, (321, 500)), random_flow(1, 5, (321, 500), reach_px=30)
    assert torch.equal(run(bits, flow), reference.warp_union(bits, flow))


@other_warps
@pytest.mark.parametrize("planes", [1, 20, 31, 32, 33])
@pytest.mark.parametrize("step_px", [0.0, 1.0, 0.5, 1 / 512])
def test_warp_union_planes_and_grids(run: Callable[..., Tensor], planes: int, step_px: float) -> None:
    bits, flow = random_bits(3, 3, planes, (63, 41)), random_flow(3, 3, (63, 41), step_px, reach_px=9)
    assert torch.equal(run(bits, flow), reference.warp_union(bits, flow))
    assert torch.equal(run(bits, flow.half()), reference.warp_union(bits, flow.half().float()))


@other_warps
@pytest.mark.parametrize("value", ODD_FLOWS + NO_FLOWS)
def test_warp_union_odd_flows(run: Callable[..., Tensor], value: float) -> None:
    bits, flow = random_bits(1, 3, 33, (17, 37)), random_flow(1, 3, (17, 37))
    for channel in (0, 1):
        odd = flow.clone()
        odd[:, :, channel, :, ::3] = value
        assert torch.equal(run(bits, odd), reference.warp_union(bits, odd))


@every_warp
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zero_flow_is_the_identity(run: Callable[..., Tensor], zero: float) -> None:
    bits = random_bits(2, 2, 33, (13, 17))
    bits[:, 1] = 0
    assert torch.equal(run(bits, torch.full((2, 1, 2, 13, 17), zero)), bits[:, 0])


@every_warp
@pytest.mark.parametrize("value", [*NO_FLOWS, 2.0**20 + 1, 2.0**20, -1e30, 5000.0])
def test_flow_from_nowhere_brings_nothing(run: Callable[..., Tensor], value: float) -> None:
    bits = torch.full((1, 2, 1, 13, 17), -1, dtype=torch.int32)
    bits[:, 1] = 0
    assert not run(bits, torch.full((1, 1, 2, 13, 17), value)).any()


@every_warp
def test_flow_points_from_the_later_frame_to_the_earlier(run: Callable[..., Tensor]) -> None:
    masks = torch.zeros(1, 2, 1, 9, 9, dtype=torch.bool)
    masks[0, 0, 0, 2, 3] = True  # frame 0: the object at (x, y) = (3, 2)
    flow = torch.zeros(1, 1, 2, 9, 9)
    flow[:, :, 0], flow[:, :, 1] = -2.0, -4.0  # it came from 2 px further left and 4 px further up
    (found,) = unpack_planes(run(pack_planes(masks), flow), 1)[0, 0].nonzero().tolist()
    assert found == [6, 5]  # frame 1: (x, y) = (5, 6)


@every_warp
def test_warp_union_of_nothing(run: Callable[..., Tensor]) -> None:
    assert run(random_bits(0, 5, 20, (4, 6)), random_flow(0, 5, (4, 6))).shape == (0, 1, 4, 6)
    assert run(random_bits(2, 2, 0, (4, 6)), random_flow(2, 2, (4, 6))).shape == (2, 0, 4, 6)
    assert run(random_bits(2, 2, 1, (0, 6)), random_flow(2, 2, (0, 6))).shape == (2, 1, 0, 6)


@other_warps
def test_warp_union_takes_views_and_leaves_them_alone(run: Callable[..., Tensor]) -> None:
    bits, flow = random_bits(4, 3, 20, (12, 14))[::2].flip(-1), random_flow(2, 3, (14, 12)).transpose(-1, -2)
    bits_before, flow_before = bits.clone(), flow.clone()
    united = run(bits, flow)
    assert torch.equal(united, reference.warp_union(bits.contiguous(), flow.contiguous()))
    united.zero_()  # the result is the caller's own
    assert torch.equal(bits, bits_before)
    assert torch.equal(flow, flow_before)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_do_not_change_the_bits(threads: int) -> None:
    bits, flow = random_bits(5, 4, 40, (33, 47)), random_flow(5, 4, (33, 47))
    assert torch.equal(native.warp_union(bits, flow, threads=threads), reference.warp_union(bits, flow))
    channels = torch.rand(5, 3, 33, 47)
    assert torch.equal(native.minimum_barrier(channels, threads=threads), reference.minimum_barrier(channels))


flows = st.floats(width=32) | st.integers(-1200, 1200).map(lambda q: q / 512) | st.sampled_from(ODD_FLOWS + NO_FLOWS)


@given(
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(),
    st.data(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_warp_union_properties(
    clips: int, frames: int, planes: int, height: int, width: int, seed: int, data: st.DataObject
) -> None:
    torch.manual_seed(seed & 0xFFFF)
    masks = torch.rand(clips, frames, planes, height, width) < 0.5
    choices = torch.tensor(data.draw(st.lists(flows, min_size=1, max_size=12)), dtype=torch.float32)
    flow = choices[torch.randint(len(choices), (clips, frames - 1, 2, height, width))]
    steps = native.warp_union(pack_planes(masks), flow, return_steps=True)
    assert torch.equal(steps, reference.warp_union(pack_planes(masks), flow, return_steps=True))
    assert torch.equal(steps[:, -1], native.warp_union(pack_planes(masks), flow))
    united = unpack_planes(steps, planes)
    assert (united | ~masks).all(), "a union holds what it unites"
    alone = native.warp_union(pack_planes(masks[:, :, :1]), flow)
    assert torch.equal(unpack_planes(alone, 1), united[:, -1, :1]), "classes do not touch each other"
    fewer = unpack_planes(native.warp_union(pack_planes(masks & (torch.rand(masks.shape) < 0.7)), flow), planes)
    assert (united[:, -1] | ~fewer).all(), "fewer bits in, no more bits out"


# warp_union on a real pair


def read_flo(path: Path) -> Tensor:
    """A `.flo` file as float32 [2, H, W]."""
    words = np.fromfile(path, dtype="<f4")
    width, height = words[1:3].view("<i4")
    assert words[0] == np.float32(202021.25)
    return torch.from_numpy(words[3:].reshape(height, width, 2).transpose(2, 0, 1).copy())


def test_warp_direction_on_a_real_pair(real: Path) -> None:
    """Grey levels as bit planes, carried from frame 10 to 11: less than half as far from frame 11 as left in place."""
    grey = [
        torch.from_numpy(np.array(Image.open(real / "flow" / f"frame_00{frame}.png").convert("L")))
        for frame in (10, 11)
    ]
    levels = torch.arange(8, 256, 8)[:, None, None]  # the mask of level l is grey >= l: 31 planes
    masks = torch.stack([grey[0] >= levels, torch.zeros_like(grey[0] >= levels)])[None]
    to_earlier = read_flo(real / "flow" / "pwcnet_caffe_0011_to_0010.flo")
    errors = {}
    for name, flow in {"warped": to_earlier, "still": 0 * to_earlier, "wrong sign": -to_earlier}.items():
        carried = unpack_planes(warp_union(pack_planes(masks), flow[None, None]), 31)[0]
        errors[name] = float((carried != (grey[1] >= levels)).float().mean())
    assert errors["warped"] < 0.5 * errors["still"], errors
    assert errors["wrong sign"] > errors["still"], errors


# minimum_barrier


def brute_force_barrier(image: list[list[float]], passes: int) -> list[list[float]]:
    """The sweeps pixel by pixel, in float64, for one channel."""
    height, width = len(image), len(image[0])
    border = {(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)}
    paths = {
        (y, x): (image[y][x], image[y][x], 0.0 if (y, x) in border else math.inf)
        for y in range(height)
        for x in range(width)
    }
    for sweep in range(passes):
        step = -1 if sweep % 2 else 1
        for y in range(height)[::step]:
            for x in range(width)[::step]:
                for neighbour in ((y - step, x), (y, x - step)):
                    if (y, x) in border:
                        continue
                    high, low = max(paths[neighbour][0], image[y][x]), min(paths[neighbour][1], image[y][x])
                    if high - low < paths[y, x][2]:
                        paths[y, x] = (high, low, high - low)
    return [[paths[y, x][2] for x in range(width)] for y in range(height)]


@pytest.mark.parametrize("passes", [1, 2, 3, 4])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (3, 3), (12, 9)])
def test_reference_barrier_is_the_sweeps_pixel_by_pixel(size_hw: tuple[int, int], passes: int) -> None:
    image = torch.randint(0, 50, size_hw).float()
    expected = torch.tensor(brute_force_barrier(image.tolist(), passes))
    assert torch.equal(reference.minimum_barrier(image[None, None], passes)[0], expected)


@other_barriers
@pytest.mark.parametrize("size_hw", [(1, 1), (2, 2), (1, 63), (63, 2), (63, 63), (121, 160)], ids=str)
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_minimum_barrier(run: Callable[..., Tensor], size_hw: tuple[int, int], passes: int) -> None:
    channels = torch.rand(2, 3, *size_hw) * 100 - 50
    distance = run(channels, passes)
    assert distance.shape == (2, *size_hw)
    assert torch.equal(distance, reference.minimum_barrier(channels, passes))


@other_barriers
def test_minimum_barrier_of_odd_input(run: Callable[..., Tensor]) -> None:
    assert run(torch.rand(0, 3, 5, 5)).shape == (0, 5, 5)
    assert run(torch.rand(2, 0, 5, 5)).tolist() == torch.zeros(2, 5, 5).tolist()
    assert not run(torch.full((1, 3, 8, 9), 7.0)).any()
    channels = torch.rand(1, 2, 8, 9)
    channels[0, 0, 3:5, 4] = math.nan
    channels[0, 1, 2, 2] = math.inf
    assert torch.equal(run(channels), reference.minimum_barrier(channels))
    assert torch.equal(run(channels.transpose(2, 3)), reference.minimum_barrier(channels.transpose(2, 3).contiguous()))


@every_barrier
def test_a_block_is_as_far_as_it_differs(run: Callable[..., Tensor]) -> None:
    image = torch.full((1, 1, 20, 30), 10.0)
    image[..., 5:12, 8:20] = 35.0
    distance = run(image)[0]
    expected = torch.zeros(20, 30)
    expected[5:12, 8:20] = 25.0
    assert torch.equal(distance, expected)
