"""soft_union: all versions give the definition's bits, in C++ on every instruction set and number of threads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gpu_material import poisoned_empty
from kernel_versions import VERSIONS, call, pairwise
from torch import Tensor

from f2f.kernels import reference, soft_union

__all__ = ["poisoned_empty"]

# Flow that is huge or no number: Triton's interpreter leaves it to numpy, which has something to say.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

FACTORS = {
    "version": VERSIONS,
    "size_hw": [(1, 1), (1, 18), (33, 1), (2, 2), (23, 37), (40, 64)],
    "clips": [0, 1, 3],
    "frames": [1, 2, 3, 5],
    "planes": [0, 1, 4],
    "threads": [1, 2, 5],
}


def followed(clips: int, frames: int, planes: int, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, and flow both ways that agrees in some places; some of it leaves the frame, some is no number."""
    maps = torch.rand(clips, frames, planes, *size_hw).relu()
    flow = 2 * torch.randn(clips, frames - 1, 2, 1, 1) + 0.5 * torch.randn(clips, frames - 1, 2, *size_hw)
    back = 0.4 * torch.randn(flow.shape) - flow
    for value in (math.nan, math.inf, -math.inf, 1e30):
        flow[torch.rand(flow.shape) < 0.01] = value
        back[torch.rand(flow.shape) < 0.01] = value
    return maps, flow, back


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("case", list(pairwise(FACTORS)), ids=lambda case: "-".join(map(str, case.values())))
def test_the_same_bits_as_the_definition(case: dict[str, Any]) -> None:
    inputs = followed(case["clips"], case["frames"], case["planes"], case["size_hw"])
    wanted = reference.soft_union(*inputs)
    assert wanted.isfinite().all()
    options = {} if case["version"] == "triton" else {"threads": case["threads"]}
    united = call(case["version"], "soft_union", *inputs, **options)
    assert torch.equal(united, wanted)


def test_rows_are_shared_among_threads() -> None:
    inputs = followed(1, 4, 2, (240, 427))
    assert torch.equal(call("scalar", "soft_union", *inputs, threads=3), reference.soft_union(*inputs))


def test_something_is_carried_and_something_is_not() -> None:
    maps, flow, back = followed(1, 2, 1, (40, 64))
    united = soft_union(maps, flow, back)
    assert (united > maps[:, -1]).float().mean() > 0.05
    assert (united == maps[:, -1]).float().mean() > 0.3


def test_tensors_need_not_be_dense_and_the_result_has_no_gradient() -> None:
    maps, flow, back = (value.transpose(-1, -2) for value in followed(2, 3, 2, (20, 31)))
    united = soft_union(maps.requires_grad_(), flow, back)
    assert not united.requires_grad
    assert torch.equal(united, reference.soft_union(maps.contiguous(), flow.contiguous(), back.contiguous()))
