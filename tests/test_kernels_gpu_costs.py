"""The Triton versions of the cost volumes: values and gradients, for every choice of blocks and every dtype."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import pytest
import torch
from gpu_material import DEVICE, poisoned_empty, random_features
from torch import Tensor

from f2f.kernels import reference

pytest.importorskip("triton", reason="Triton is not installed, so its versions, for CUDA, cannot run")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no CUDA, and TRITON_INTERPRET is not 1", allow_module_level=True)

from f2f.kernels import gpu

__all__ = ["poisoned_empty"]
HALVES = (torch.float16, torch.bfloat16)
# Within one rounding of the result, and what float32 sums differ by. Triton's interpreter truncates to bfloat16.
RELATIVE_ERROR = {torch.float32: 2e-6, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-6}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over largest expected value; 0 where both are all zero."""
    difference = (found.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max().clamp_min(1e-30))


def gradients(
    definition: Callable[..., Tensor], gradient: Tensor, *inputs: Tensor, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """Gradients by torch, computed in `dtype`."""
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
    return torch.autograd.grad(definition(*leaves), leaves, gradient.to(dtype))


@pytest.mark.parametrize("dtype", RELATIVE_ERROR)
@pytest.mark.parametrize("channels", [1, 40, 70])  # one for each choice of blocks
def test_cost_volume_against_float64(channels: int, dtype: torch.dtype) -> None:
    f1, f2, _ = random_features(channels, (3, 37), dtype)
    volume = gpu.cost_volume(f1, f2)
    assert volume.dtype == dtype
    assert relative_error(volume, reference.cost_volume(f1.double(), f2.double())) < RELATIVE_ERROR[dtype]


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 70), (5, 1)], ids=str)
@pytest.mark.parametrize("reach", [0, 1, 9])
def test_cost_volume_of_any_reach_and_size(size_hw: tuple[int, int], reach: int) -> None:
    f1, f2, _ = random_features(3, size_hw)
    assert relative_error(gpu.cost_volume(f1, f2, reach), reference.cost_volume(f1, f2, reach)) < 1e-6


def test_a_reach_beyond_a_block() -> None:
    reach = 17
    f1, f2 = (features[:1] for features in random_features(2, (1, 45))[:2])
    volume = gpu.cost_volume(f1, f2, reach)
    assert relative_error(volume, reference.cost_volume(f1, f2, reach)) < 1e-6
    gradient = torch.randn_like(volume)
    found = gpu.cost_volume_backward(gradient, f1, f2, reach)
    expected = gradients(lambda a, b: reference.cost_volume(a, b, reach), gradient, f1, f2)
    assert max(map(relative_error, found, expected)) < 1e-6


@pytest.mark.parametrize("dtype", HALVES)
def test_half_products_are_summed_in_float32(dtype: torch.dtype) -> None:
    """4096 + 1 + 1 + ... stays 4096 in float16 and bfloat16."""
    f1 = torch.ones(1, 129, 1, 1, device=DEVICE, dtype=dtype)
    f2 = f1.clone()
    f1[:, 0] = f2[:, 0] = 64
    assert gpu.cost_volume(f1, f2, 0).item() == pytest.approx((4096 + 128) / 129, rel=RELATIVE_ERROR[dtype])


@pytest.mark.parametrize("dtype", RELATIVE_ERROR)
@pytest.mark.parametrize(("channels", "size_hw", "reach"), [(3, (4, 37), 2), (70, (2, 20), 4), (1, (1, 1), 0)], ids=str)
def test_cost_volume_gradients(channels: int, size_hw: tuple[int, int], reach: int, dtype: torch.dtype) -> None:
    f1, f2, _ = random_features(channels, size_hw, dtype)
    gradient = torch.randn(2, (2 * reach + 1) ** 2, *size_hw, device=DEVICE).to(dtype)
    found = gpu.cost_volume_backward(gradient, f1, f2, reach)
    expected = gradients(lambda a, b: reference.cost_volume(a, b, reach), gradient, f1, f2)
    assert [tensor.dtype for tensor in found] == [dtype, dtype]
    assert max(map(relative_error, found, expected)) < RELATIVE_ERROR[dtype]


@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("size_hw", [(1, 1), (6, 1), (1, 6), (5, 37)], ids=str)
def test_warp_cost_volume_is_the_definition(size_hw: tuple[int, int], channels: int) -> None:
    f1, f2, flow = random_features(channels, size_hw)
    flow *= torch.rand(2, 1, *size_hw, device=DEVICE) < 0.8  # and no flow: one-pixel axes keep samples
    found, expected = (run(f1, f2, flow, 1) for run in (gpu.warp_cost_volume, reference.warp_cost_volume))
    assert relative_error(found, expected) < 1e-5
    gradient = torch.randn_like(found)
    to_all = gpu.warp_cost_volume_backward(gradient, f1, f2, flow, 1)
    # In float32, as the definition: at a whole pixel, rounding decides which side's slope is the gradient.
    by_torch = gradients(
        lambda a, b, f: reference.warp_cost_volume(a, b, f, 1), gradient, f1, f2, flow, dtype=torch.float32
    )
    assert max(map(relative_error, to_all, by_torch)) < 1e-5


@pytest.mark.parametrize("dtype", HALVES)
def test_half_features_are_sampled_in_float32(dtype: torch.dtype) -> None:
    f1, f2, flow = random_features(5, (1, 300), dtype)
    found, expected = gpu.warp_cost_volume(f1, f2, flow, 1), reference.warp_cost_volume(f1, f2, flow, 1)
    assert found.dtype == dtype
    assert relative_error(found, expected) < 4 * RELATIVE_ERROR[dtype]  # samples, products and sums are rounded
    gradient = torch.randn_like(found)
    to_f1, to_f2, to_flow = gpu.warp_cost_volume_backward(gradient, f1, f2, flow.to(dtype), 1)
    assert (to_f1.dtype, to_f2.dtype, to_flow.dtype) == (dtype, dtype, dtype)


def test_flow_that_is_not_finite_samples_nothing() -> None:
    f1, f2, flow = random_features(3, (5, 6))
    flow[0, 0, 2, 1:5] = torch.tensor([math.nan, math.inf, -math.inf, 1e30], device=DEVICE)
    volume = gpu.warp_cost_volume(f1, f2, flow, 0)
    assert not volume[0, 0, 2, 1:5].any()
    to_f1, to_f2, to_flow = gpu.warp_cost_volume_backward(torch.ones_like(volume), f1, f2, flow, 0)
    assert not to_f1[0, :, 2, 1:5].any()
    assert not to_flow[0, :, 2, 1:5].any()
    assert to_f2.isfinite().all()


def test_float64_is_left_to_the_definition() -> None:
    f1, f2, flow = (tensor.double() for tensor in random_features(2, (4, 5)))
    assert torch.equal(gpu.cost_volume(f1, f2, 1), reference.cost_volume(f1, f2, 1))
    volume = gpu.warp_cost_volume(f1, f2, flow, 1)
    assert torch.equal(volume, reference.warp_cost_volume(f1, f2, flow, 1))
    found = gpu.warp_cost_volume_backward(volume, f1, f2, flow, 1)
    assert all(map(torch.equal, found, reference.warp_cost_volume_backward(volume, f1, f2, flow, 1)))


def test_memory_order_does_not_matter() -> None:
    f1, f2, shift = random_features(4, (7, 6))
    last = torch.channels_last
    given = [tensor.to(memory_format=last) for tensor in (f1, f2, shift)]
    volume = gpu.warp_cost_volume(f1, f2, shift, 1)
    assert torch.equal(gpu.warp_cost_volume(given[0], given[1], given[2], 1), volume)
    one = gpu.warp_cost_volume_backward(volume, f1, f2, shift, 1)
    other = gpu.warp_cost_volume_backward(volume.to(memory_format=last), given[0], given[1], given[2], 1)
    assert max(map(relative_error, one, other)) < 1e-6
