"""Every version of every operator against its definition, over pairwise combinations of what can vary.

Integers must be identical; the cost volumes, which sum over channels in another order, agree within TOLERANCE of the
largest value. On CUDA the Triton versions run there, elsewhere in Triton's interpreter on small frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu_material import poisoned_empty
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_versions import INTERPRETED, ISAS, VERSIONS, call, pairwise
from torch import Tensor

from f2f.kernels import native, pack_planes, reference, unpack_planes
from f2f.training.synth import exact_flow, random_scene

__all__ = ["poisoned_empty"]

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
SAMPLED_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
"""for sampled features, whose places the definition finds by way of a normalised grid"""

SIZES = [(1, 1), (2, 2), (63, 63), (1, 257), (257, 2), (23, 37), (321, 500)]
INTERPRETED_PIXELS = 64 * 64
INTERPRETED_SUMMED_PIXELS = 24 * 40
"""for the cost volumes, of which the interpreter makes a thousand pixels in a second"""
PLANES = [1, 20, 31, 32, 33, 80]
FLOWS: dict[str, Callable[..., Tensor]] = {
    "zero": torch.zeros,
    "integer": lambda shape: torch.randint(-4, 5, shape).float(),
    "half-pixel": lambda shape: torch.randint(-9, 10, shape) / 2,
    "1/512 grid": lambda shape: torch.randint(-2048, 2048, shape) / 512,
    "smooth": lambda shape: torch.linspace(-3, 3, shape[-1]).expand(shape).contiguous(),
    "ripple": lambda shape: torch.rand(shape) * 1.9 - torch.randint(2, (1,)),
    "random": lambda shape: torch.randn(shape) * 5,
    "huge": lambda shape: torch.randn(shape) * 1e6,
    "not finite": lambda shape: torch.tensor([0.3, math.nan, math.inf, -math.inf])[torch.randint(4, shape)],
}

every_version = pytest.mark.parametrize("version", VERSIONS)


def cases(interpreted_pixels: int = INTERPRETED_PIXELS, **factors: Any) -> pytest.MarkDecorator:
    """Pairwise combinations of the factors and the versions, without what the interpreter is too slow for."""
    combinations = [
        case
        for case in pairwise({"version": VERSIONS, **factors})
        if not (INTERPRETED and case["version"] == "triton" and math.prod(case["size_hw"]) > interpreted_pixels)
    ]
    return pytest.mark.parametrize("case", combinations, ids=lambda case: "-".join(map(str, case.values())))


def options_for(case: dict[str, Any]) -> dict[str, int]:
    """The number of threads, where the version has any."""
    return {} if case["version"] == "triton" else {"threads": case["threads"]}


def random_planes(*shape: int, planes: int, size_hw: tuple[int, int]) -> Tensor:
    """Random masks as bit planes, int32 [*shape, N, H, W]."""
    return pack_planes(torch.rand(*shape, planes, *size_hw) < 0.5)


# warp_union


@cases(
    size_hw=SIZES,
    frames=range(1, 11),
    planes=PLANES,
    flow=list(FLOWS),
    clips=[0, 1, 3],
    return_steps=[False, True],
    half=[False, True],
    threads=[1, 2, 5],
)
def test_warp_union(case: dict[str, Any]) -> None:
    clips, frames, size_hw = case["clips"], case["frames"], case["size_hw"]
    bits = random_planes(clips, frames, planes=case["planes"], size_hw=size_hw)
    flow = FLOWS[case["flow"]]((clips, frames - 1, 2, *size_hw))
    flow = flow.half() if case["half"] else flow
    steps = {"return_steps": case["return_steps"]}
    given_bits = call(case["version"], "warp_union", bits, flow, **steps, **options_for(case))
    assert torch.equal(given_bits, reference.warp_union(bits, flow, **steps))


@every_version
@pytest.mark.parametrize("size_hw", [(1, 1), (9, 37), (40, 16)], ids=str)
def test_zero_flow_is_the_identity(version: str, size_hw: tuple[int, int]) -> None:
    bits = random_planes(2, 2, planes=33, size_hw=size_hw)
    bits[:, 1] = 0
    assert torch.equal(call(version, "warp_union", bits, torch.zeros(2, 1, 2, *size_hw)), bits[:, 0])


@every_version
@pytest.mark.parametrize("shift_xy", [(0, 0), (1, 0), (-3, 2), (15, -1), (0, 20)])
def test_a_frame_that_moves_as_one_meets_its_borders(version: str, shift_xy: tuple[int, int]) -> None:
    """Plain loads serve what moves together; at the border they must bring zeros in."""
    bits = random_planes(1, 2, planes=5, size_hw=(19, 50))
    flow = torch.tensor(shift_xy).float().view(1, 1, 2, 1, 1).expand(1, 1, 2, 19, 50) + 0.3
    assert torch.equal(call(version, "warp_union", bits, flow), reference.warp_union(bits, flow))


@every_version
@pytest.mark.parametrize("seed", [0, 4, 7])
def test_a_mask_follows_the_synthetic_webs_exact_flow(version: str, seed: int) -> None:
    """Where both frames see the surface, the carried mask is the next exact mask: IoU ≥ .98."""
    size_hw = (240, 426)
    if INTERPRETED and version == "triton" and seed != 4:
        pytest.skip("one scene is enough for Triton's interpreter; with CUDA all run")
    scene = random_scene((77, seed), size_hw)
    earlier, later = (torch.from_numpy(scene.labels(seconds)) for seconds in (0.8, 0.9))
    flow, seen = exact_flow(scene, 0.9, 0.8)
    shown = [label for label in torch.unique(later).tolist() if label > 0]
    before, after = (torch.stack([labels == label for label in shown]) for labels in (earlier, later))
    bits = pack_planes(torch.stack([before, torch.zeros_like(before)])[None])
    united = call(version, "warp_union", bits, torch.from_numpy(flow).permute(2, 0, 1)[None, None])
    carried = unpack_planes(united, len(shown))[0]
    visible = torch.from_numpy(seen)
    overlap = ((carried & after) & visible).sum((1, 2)) / ((carried | after) & visible).sum((1, 2))
    assert (overlap >= 0.98).all(), overlap


# activate_cams


@cases(
    size_hw=SIZES,
    planes=PLANES,
    images=[0, 1, 3],
    cam_sizes=[[(1, 1)], [(3, 5), (3, 5)], [(10, 16), (10, 16), (20, 31), (20, 31)], [(90, 33), (2, 70)]],
    values=["random", "negative", "with NaN"],
    theta=[0.0, 0.2, 1.0],
    threads=[1, 2, 5],
)
def test_activate_cams(case: dict[str, Any]) -> None:
    images, planes, channels = case["images"], case["planes"], case["planes"] + 3
    cams = [torch.randn(images, channels, *size) for size in case["cam_sizes"]]
    if case["values"] == "negative":
        cams = [-cam.abs() for cam in cams]
    if case["values"] == "with NaN":
        cams[0][:, ::2] = math.nan
    flips = [bool(i % 2) for i in range(len(cams))]
    classes = torch.rand(images, channels).argsort(1)[:, :planes].clone()
    classes[:, ::7] = -1
    arguments = (cams, flips, classes, case["size_hw"], case["theta"])
    bits, peaks = call(case["version"], "activate_cams", *arguments, **options_for(case))
    wanted_bits, wanted_peaks = reference.activate_cams(*arguments)
    assert torch.equal(peaks, wanted_peaks)
    assert torch.equal(bits, wanted_bits)


# compose_labels


@cases(
    size_hw=SIZES,
    planes=PLANES,
    images=[0, 1, 3],
    density=[0.0, 0.02, 0.9],
    saliency=["none", "random", "with NaN"],
    threads=[1, 2, 5],
)
def test_compose_labels(case: dict[str, Any]) -> None:
    images, planes, size_hw = case["images"], case["planes"], case["size_hw"]
    bits = pack_planes(torch.rand(images, planes, *size_hw) < case["density"])
    classes = torch.randint(-1, 254, (images, planes))
    saliency = None if case["saliency"] == "none" else torch.rand(images, 1, *size_hw)
    if saliency is not None and case["saliency"] == "with NaN":
        saliency[..., ::2] = math.nan
    labels = call(case["version"], "compose_labels", bits, classes, saliency, 0.5, **options_for(case))
    assert torch.equal(labels, reference.compose_labels(bits, classes, saliency, 0.5))


@every_version
def test_equal_areas_and_repeated_classes(version: str) -> None:
    masks = torch.zeros(1, 4, 4, 40, dtype=torch.bool)
    masks[:, 0, :, :20] = masks[:, 1, :, 10:30] = masks[:, 2, :, 5:25] = masks[:, 3, 0] = True
    classes = torch.tensor([[9, 4, 9, 200]])
    labels = call(version, "compose_labels", pack_planes(masks), classes, None, 0.5)
    assert torch.equal(labels, reference.compose_labels(pack_planes(masks), classes, None, 0.5))


# cost_volume and warp_cost_volume


def assert_near(given: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Within `tolerance` of the largest value."""
    assert given.dtype == wanted.dtype
    assert given.shape == wanted.shape
    assert given.numel() == 0 or (given - wanted).abs().max() <= tolerance * max(1e-30, float(wanted.abs().max()))


COST_FACTORS = {
    "size_hw": [(1, 1), (2, 2), (63, 63), (1, 257), (23, 37)],
    "channels": [1, 20, 31, 32, 33, 80],
    "images": [0, 1, 3],
    "reach": [0, 1, 4, 6],
    "dtype": [torch.float32, torch.float64],
    "threads": [1, 2, 5],
}


@cases(INTERPRETED_SUMMED_PIXELS, **COST_FACTORS)
def test_cost_volume_and_its_gradients(case: dict[str, Any]) -> None:
    shape, reach, dtype = (case["images"], case["channels"], *case["size_hw"]), case["reach"], case["dtype"]
    f1, f2 = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    costs = call(case["version"], "cost_volume", f1, f2, reach, **options_for(case))
    assert_near(costs, reference.cost_volume(f1, f2, reach), TOLERANCE[dtype])
    gradient = torch.randn_like(costs)
    to_inputs = call(case["version"], "cost_volume_backward", gradient, f1, f2, reach, **options_for(case))
    for given_, wanted in zip(to_inputs, reference.cost_volume_backward(gradient, f1, f2, reach), strict=True):
        assert_near(given_, wanted, TOLERANCE[dtype])


@cases(INTERPRETED_SUMMED_PIXELS, **COST_FACTORS, flow=["zero", "random", "smooth", "far out"])
def test_warp_cost_volume_and_its_gradients(case: dict[str, Any]) -> None:
    shape, reach, dtype = (case["images"], case["channels"], *case["size_hw"]), case["reach"], case["dtype"]
    f1, f2 = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    flow_shape = (case["images"], 2, *case["size_hw"])
    flow = torch.full(flow_shape, 9e3) if case["flow"] == "far out" else FLOWS[case["flow"]](flow_shape)
    flow = flow.to(dtype)
    costs = call(case["version"], "warp_cost_volume", f1, f2, flow, reach, **options_for(case))
    assert_near(costs, reference.warp_cost_volume(f1, f2, flow, reach), SAMPLED_TOLERANCE[dtype])
    gradient = torch.randn_like(costs)
    arguments = (gradient, f1, f2, flow, reach)
    to_inputs = call(case["version"], "warp_cost_volume_backward", *arguments, **options_for(case))
    to_f1, to_f2, to_flow = reference.warp_cost_volume_backward(*arguments)
    assert_near(to_inputs[0], to_f1, SAMPLED_TOLERANCE[dtype])
    assert_near(to_inputs[1], to_f2, SAMPLED_TOLERANCE[dtype])
    if case["flow"] in {"random", "far out"}:  # at whole pixels bilinear sampling has a kink, and either side is right
        assert_near(to_inputs[2], to_flow, 10 * SAMPLED_TOLERANCE[dtype])


@every_version
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(version: str, dtype: torch.dtype) -> None:
    """4096 products of .5 and 1: a half-precision sum would stop growing at 2048 (float16) or 256 (bfloat16)."""
    f1, f2 = torch.full((1, 4096, 1, 2), 0.5, dtype=dtype), torch.ones(1, 4096, 1, 2, dtype=dtype)
    costs = call(version, "cost_volume", f1, f2, 0)
    assert costs.dtype == dtype
    assert (costs == 0.5).all()


# Layout, threads, properties


@every_version
def test_views_are_taken_and_left_alone(version: str) -> None:
    bits = random_planes(4, 3, planes=20, size_hw=(12, 14))[::2].flip(-1)
    flow = torch.randn(2, 2, 2, 14, 12).transpose(-1, -2)
    before = bits.clone()
    united = call(version, "warp_union", bits, flow)
    assert torch.equal(united, reference.warp_union(bits, flow))
    united.zero_()
    assert torch.equal(bits, before)
    f1, f2 = torch.randn(2, 12, 14, 6).permute(0, 3, 1, 2), torch.randn(2, 6, 14, 12).transpose(2, 3)
    assert_near(call(version, "cost_volume", f1, f2, 2), reference.cost_volume(f1, f2, 2), 1e-5)
    classes = torch.arange(40).view(20, 2).T[:, ::2].contiguous().view(2, 10)
    cams = [torch.randn(2, 7, 5, 40).transpose(1, 3)]
    for given_, wanted in zip(
        call(version, "activate_cams", cams, [True], classes, (9, 11), 0.3),
        reference.activate_cams(cams, [True], classes, (9, 11), 0.3),
        strict=True,
    ):
        assert torch.equal(given_, wanted)


@given(st.sampled_from(ISAS), st.integers(0, 3), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_warp_union_of_any_flow(
    isa: str, clips: int, frames: int, height: int, width: int, data: st.DataObject
) -> None:
    if isa not in native.usable_isas():
        return
    torch.manual_seed(clips + frames * height * width)
    bits = random_planes(clips, frames, planes=33, size_hw=(height, width))
    drawn = st.floats(width=32) | st.integers(-1200, 1200).map(lambda q: q / 512)
    choices = torch.tensor(data.draw(st.lists(drawn, min_size=1, max_size=8)), dtype=torch.float32)
    flow = choices[torch.randint(len(choices), (clips, frames - 1, 2, height, width))]
    assert torch.equal(call(isa, "warp_union", bits, flow), reference.warp_union(bits, flow))


@given(st.sampled_from(ISAS), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_cams_of_any_size(isa: str, cam_height: int, cam_width: int, height: int, width: int) -> None:
    if isa not in native.usable_isas():
        return
    cams = [torch.randn(1, 2, cam_height, cam_width), torch.randn(1, 2, cam_width, cam_height)]
    arguments = (cams, [True, False], torch.tensor([[1, 0]]), (height, width), 0.3)
    bits, peaks = call(isa, "activate_cams", *arguments)
    wanted_bits, wanted_peaks = reference.activate_cams(*arguments)
    assert torch.equal(bits, wanted_bits)
    assert torch.equal(peaks, wanted_peaks)
