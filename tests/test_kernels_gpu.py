"""What only the Triton versions have: launch structures, block choices, lists of variants, behaviour on a GPU.

Without a GPU they run in Triton's interpreter. Comparisons over many sizes are in the tests of all versions.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import pytest
import torch
from gpu_material import DEVICE, poisoned_empty, random_clips, random_features
from torch import Tensor

from f2f.kernels import checks, pack_planes, reference

pytest.importorskip("triton", reason="Triton is not installed, so its versions, for CUDA, cannot run")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no CUDA, and TRITON_INTERPRET is not 1", allow_module_level=True)

from f2f.kernels import gpu
from f2f.kernels.gpu import launch, variants

__all__ = ["poisoned_empty"]
STRUCTURES: tuple[Literal["clip", "steps"], ...] = ("clip", "steps")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)

needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU with CUDA")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Every kernel started from now on: (name, types of its pointers, flags and block sizes on a GPU)."""
    seen: list[tuple[str, str, str]] = []
    start = launch.start

    def record(
        body: launch.Kernel, grid: tuple[int, ...], blocks: launch.Blocks, *arguments: object, **flags: object
    ) -> None:
        types = (short_type(value) for value in arguments if isinstance(value, Tensor))
        seen.append((body.__name__, " ".join(types), flag_text({**flags, **blocks.gpu})))
        start(body, grid, blocks, *arguments, **flags)

    monkeypatch.setattr(launch, "start", record)
    return seen


def flag_text(flags: Mapping[str, object]) -> str:
    """Flags without the type of products, which the pointers imply; the interpreter has one of its own for bfloat16."""
    return str({name: value for name, value in flags.items() if name != "product_type"})


def short_type(tensor: Tensor) -> str:
    """Triton's name of an element type."""
    name = str(tensor.dtype).removeprefix("torch.")
    return name.replace("bfloat", "bf").replace("float", "fp").replace("uint", "u").replace("int", "i")


# warp_union


@pytest.mark.parametrize("words", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_both_structures_are_the_definition(structure: Literal["clip", "steps"], frames: int, words: int) -> None:
    bits, flow = random_clips(2, frames, words, (23, 37))
    united = gpu.warp_union(bits, flow, launch_as=structure)
    assert torch.equal(united, reference.warp_union(bits, flow))
    steps = gpu.warp_union(bits, flow, launch_as=structure, return_steps=True)
    assert torch.equal(steps, reference.warp_union(bits, flow, return_steps=True))


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 63), (65, 2), (1, 130)], ids=str)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_frames_smaller_and_longer_than_a_block(structure: Literal["clip", "steps"], size_hw: tuple[int, int]) -> None:
    bits, flow = random_clips(1, 3, 1, size_hw)
    assert torch.equal(gpu.warp_union(bits, flow, launch_as=structure), reference.warp_union(bits, flow))


def test_a_clip_longer_than_a_block() -> None:
    bits, flow = random_clips(1, 2, 1, (61, 140))
    (blocks,) = {v.blocks["block_pixels"] for v in variants.all_variants() if v.kernel.__name__ == "clip_kernel"}
    assert bits[0, 0, 0].numel() > blocks
    assert torch.equal(gpu.warp_union(bits, flow, launch_as="clip"), reference.warp_union(bits, flow))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_odd_flows(structure: Literal["clip", "steps"], dtype: torch.dtype) -> None:
    bits, flow = random_clips(1, 2, 1, (9, 16))
    odd = [0.0, -0.0, 0.5, 1 / 512, 2.0**20, -(2.0**20), 2.0**20 + 1, 1e30, math.nan, math.inf, -math.inf]
    flow[0, 0, 0, 0, : len(odd)] = flow[0, 0, 1, 1, : len(odd)] = torch.tensor(odd, device=DEVICE)
    flow = flow.to(dtype)
    assert torch.equal(gpu.warp_union(bits, flow, launch_as=structure), reference.warp_union(bits, flow))


@pytest.mark.parametrize("return_steps", [False, True])
@pytest.mark.parametrize("frames", [2, 3, 4])
def test_a_small_cache_takes_few_clips_at_a_time(
    monkeypatch: pytest.MonkeyPatch, started: list[Any], frames: int, return_steps: bool
) -> None:
    bits, flow = random_clips(3, frames, 1, (11, 7))
    frame_bytes = 11 * 7 * 4
    monkeypatch.setattr(launch, "l2_bytes", lambda where: 2 * 2 * 2 * frame_bytes)  # half of it: two clips' pairs
    assert launch.clips_per_chunk(frame_bytes, bits.device) == 2
    united = gpu.warp_union(bits, flow, launch_as="steps", return_steps=return_steps)
    assert torch.equal(united, reference.warp_union(bits, flow, return_steps=return_steps))
    assert len(started) == 2 * (frames - 1)


def test_a_frame_larger_than_the_cache_goes_alone() -> None:
    assert launch.clips_per_chunk(2**40, torch.device(DEVICE)) == 1
    assert launch.clips_per_chunk(1, torch.device(DEVICE)) <= launch.MAX_PROGRAMS[2]


def test_a_clip_per_multiprocessor_makes_one_launch(monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
    monkeypatch.setattr(launch, "multiprocessors", lambda where: 3)
    for clips, expected in ((2, ["step_kernel"] * 2), (3, ["clip_kernel"])):
        started.clear()
        gpu.warp_union(*random_clips(clips, 3, 1, (3, 5)))
        assert [name for name, _, _ in started] == expected


# activate_cams and compose_labels


def random_cams(channels: int) -> tuple[list[Tensor], list[bool]]:
    """CAMs of two images at several scales, mirrored or not."""
    sizes = ((3, 5), (3, 5), (7, 10), (1, 1))
    return [torch.randn(2, channels, *size, device=DEVICE) for size in sizes], [False, True, True, False]


@pytest.mark.parametrize(("planes", "size_hw"), [(1, (23, 37)), (5, (1, 1)), (33, (2, 130)), (32, (35, 3))], ids=str)
def test_activate_cams_is_the_definition(planes: int, size_hw: tuple[int, int]) -> None:
    cams, flips = random_cams(6)
    cams[0][0, 0, 0, 0], cams[1][1, 2, 0, 0] = math.nan, -math.inf
    classes = torch.randint(-1, 6, (2, planes), device=DEVICE)
    for theta in (0.0, 0.3, 1.0) if planes < 32 else (0.3,):
        found = gpu.activate_cams(cams, flips, classes, size_hw, theta)
        expected = reference.activate_cams(cams, flips, classes, size_hw, theta)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("saliency", [False, True])
@pytest.mark.parametrize(("planes", "size_hw"), [(0, (3, 4)), (3, (1, 1)), (33, (23, 37)), (65, (2, 63))], ids=str)
def test_compose_labels_is_the_definition(planes: int, size_hw: tuple[int, int], saliency: bool) -> None:
    bits = pack_planes(torch.rand(2, planes, *size_hw) < 0.2).to(DEVICE)
    classes = torch.randint(-1, 254, (2, planes), device=DEVICE)
    salient = torch.rand(2, 1, *size_hw, device=DEVICE) if saliency else None
    if salient is not None:
        salient[0, 0, 0, 0], salient[1, 0, 0, 0] = math.nan, 0.4
    expected = reference.compose_labels(bits, classes, salient, 0.4)
    assert torch.equal(gpu.compose_labels(bits, classes, salient, 0.4), expected)


def test_equal_areas_give_the_lower_label() -> None:
    bits = pack_planes(torch.ones(1, 3, 4, 5, dtype=torch.bool)).to(DEVICE)
    labels = gpu.compose_labels(bits, torch.tensor([[7, 2, 9]], device=DEVICE), None, 0.5)
    assert set(labels.flatten().tolist()) == {3}


def test_impossible_class_numbers_count_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU nobody looks at the numbers before the kernels do."""
    monkeypatch.setattr(checks, "check_class_range", lambda classes, limit, because: None)
    impossible = torch.tensor([[0, 4, -2, 2**40], [-(2**40), 3, 255, 254]], device=DEVICE)
    none = torch.tensor([[0, -1, -1, -1], [-1, 3, -1, -1]], device=DEVICE)
    cams, flips = random_cams(4)
    found, expected = (gpu.activate_cams(cams, flips, classes, (9, 8), 0.3) for classes in (impossible, none))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    bits = pack_planes(torch.rand(2, 4, 9, 8) < 0.4).to(DEVICE)
    impossible[0, 1], none[0, 1] = 254, -1
    labels = [gpu.compose_labels(bits, classes, None, 0.3) for classes in (impossible, none)]
    assert torch.equal(*labels)


# soft_union


def soft_clips(clips: int, frames: int, planes: int, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Maps [B, K, P, H, W] and flow [B, K-1, 2, H, W] both ways that agrees in some places."""
    flow = torch.randn(clips, frames - 1, 2, *size_hw, device=DEVICE)
    return torch.rand(clips, frames, planes, *size_hw, device=DEVICE), flow, 0.4 * torch.randn_like(flow) - flow


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_a_small_cache_takes_few_soft_clips_at_a_time(
    monkeypatch: pytest.MonkeyPatch, started: list[Any], frames: int
) -> None:
    given = soft_clips(3, frames, 2, (11, 7))
    monkeypatch.setattr(launch, "l2_bytes", lambda where: 2 * 2 * 2 * (2 * 11 * 7 * 4))  # half of it: two clips' pairs
    assert torch.equal(gpu.soft_union(*given), reference.soft_union(*given))
    assert len(started) == 2 * (frames - 1)


# all of them


def test_nothing_to_do_needs_no_kernel(started: list[Any]) -> None:
    bits, flow = random_clips(0, 3, 1, (4, 5))
    assert gpu.warp_union(bits, flow).shape == (0, 1, 4, 5)
    assert gpu.warp_union(*random_clips(2, 3, 0, (4, 5)), return_steps=True).shape == (2, 3, 0, 4, 5)
    cams, flips = random_cams(3)
    none = torch.zeros(2, 0, dtype=torch.int64, device=DEVICE)
    active, peaks = gpu.activate_cams(cams, flips, none, (4, 5), 0.3)
    assert (active.shape, peaks.shape) == ((2, 0, 4, 5), (2, 0))
    assert gpu.compose_labels(active[:0], none[:0], None, 0.3).shape == (0, 4, 5)
    for clips, frames, maps in ((0, 3, 2), (2, 1, 2), (2, 3, 0)):
        assert gpu.soft_union(*soft_clips(clips, frames, maps, (4, 5))).shape == (clips, maps, 4, 5)
    for shape in ((0, 2, 4, 5), (1, 2, 0, 5)):
        image = torch.zeros(shape[0], 3, *shape[2:], device=DEVICE)
        assert gpu.crf_refine(torch.zeros(shape, device=DEVICE), image).shape == shape
    features = torch.zeros(0, 3, 4, 5, device=DEVICE)
    volume = gpu.warp_cost_volume(features, features, torch.zeros(0, 2, 4, 5, device=DEVICE))
    assert volume.shape == (0, 81, 4, 5)
    assert gpu.cost_volume_backward(volume, features, features, 4)[1].shape == features.shape
    assert not started


def test_memory_order_does_not_matter() -> None:
    bits, flow = random_clips(2, 3, 2, (7, 6))
    turned = gpu.warp_union(bits.mT.contiguous().mT, flow.mT.contiguous().mT)
    assert torch.equal(turned, reference.warp_union(bits, flow))


def everything() -> Iterator[Callable[[], object]]:
    """Calls that start every kernel in every variant."""
    bits, flow = random_clips(1, 3, 1, (2, 3))
    for given, structure, keep in itertools.product((flow, flow.half()), STRUCTURES, (False, True)):
        yield partial(gpu.warp_union, bits, given, launch_as=structure, return_steps=keep)
    cams, flips = random_cams(2)
    classes = torch.zeros(2, 1, dtype=torch.int64, device=DEVICE)
    active, _ = gpu.activate_cams(cams, flips, classes, (2, 3), 0.3)
    yield partial(gpu.activate_cams, cams, flips, classes, (2, 3), 0.3)
    for saliency in (None, torch.rand(2, 1, 2, 3, device=DEVICE)):
        yield partial(gpu.compose_labels, active, classes, saliency, 0.3)
    yield partial(gpu.soft_union, *soft_clips(1, 3, 1, (2, 3)))
    for labels in (2, 3, 17):
        unary, image = (torch.rand(1, channels, 2, 3, device=DEVICE) for channels in (labels, 3))
        yield partial(gpu.crf_refine, unary, image, steps=1)
    for dtype, channels in itertools.product(FLOATS, (1, 40, 70)):
        f1, f2, shift = random_features(channels, (2, 3), dtype)
        volume = gpu.cost_volume(f1, f2, 1)
        yield partial(gpu.cost_volume, f1, f2, 1)
        yield partial(gpu.warp_cost_volume_backward, volume, f1, f2, shift, 1)


def test_the_list_of_variants_is_complete(started: list[tuple[str, str, str]]) -> None:
    """What is compiled ahead of time in tests is what runs."""
    for call in everything():
        call()
    listed = {(v.kernel.__name__, v.pointers, flag_text({**v.flags, **v.blocks.gpu})) for v in variants.all_variants()}
    assert {(name, types, flags) for name, types, flags in started} == listed


def test_only_numbers_and_pointers_reach_the_kernels() -> None:
    for variant in variants.all_variants():
        kinds = variants.parameter_kinds(variant.kernel)
        assert list(kinds.values()).count("") == len(variant.pointers.split()), variant.name
        fixed = {name for name, kind in kinds.items() if kind == "constexpr"}
        assert fixed == {*variant.flags, *variant.blocks.gpu}, variant.name
        assert variant.blocks.gpu.keys() == variant.blocks.interpreter.keys(), variant.name


def test_cpu_tensors_are_refused_where_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "INTERPRETED", False)
    f1 = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="f1 is on cpu; accepted: cuda"):
        gpu.cost_volume(f1, f1)


def test_offsets_and_grids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"f1 is \[1, 65536, 256, 128\]; accepted: fewer than 2\^31 elements"):
        launch.check_offsets("f1", torch.Size((1, 65536, 256, 128)))
    variant = next(variants.all_variants())
    with pytest.raises(ValueError, match="step_kernel would need a grid"):
        launch.start(variant.kernel, (1, 1, 65536), variant.blocks)


@needs_cuda
def test_a_cuda_graph_captures_the_mask_operators() -> None:
    bits, flow = random_clips(2, 4, 1, (64, 96))
    expected = reference.warp_union(bits, flow)
    for structure in STRUCTURES:
        gpu.warp_union(bits, flow, launch_as=structure)  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            united = gpu.warp_union(bits, flow, launch_as=structure)
        united.zero_()
        graph.replay()
        assert torch.equal(united, expected)


@needs_cuda
def test_a_cuda_graph_captures_soft_union() -> None:
    given = soft_clips(2, 4, 3, (64, 96))
    expected = gpu.soft_union(*given)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        united = gpu.soft_union(*given)
    united.zero_()
    graph.replay()
    assert torch.equal(united, expected)
    assert torch.equal(united, reference.soft_union(*given))


@needs_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_nothing_waits_for_the_gpu() -> None:
    calls = list(everything())
    for call in calls:
        call()  # compiles, and moves tables to the GPU
    torch.cuda.set_sync_debug_mode("error")
    try:
        for call in calls:
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_offsets_beyond_32_bits() -> None:
    """Clips and images that start more than 2^31 elements into a tensor."""
    bits = torch.zeros(33, 2, 1, 8192, 4096, dtype=torch.int32, device=DEVICE)  # 2.2 G elements, 9 GB
    flow = torch.zeros(33, 1, 2, 8192, 4096, dtype=torch.float16, device=DEVICE)
    bits[32, 0, 0, -1, -1] = 5
    for structure in STRUCTURES:
        assert gpu.warp_union(bits, flow, launch_as=structure)[32, 0, -1, -1].item() == 5
