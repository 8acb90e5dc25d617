"""The operators as `torch.library` knows them: opcheck, one node each in compiled and exported graphs, dynamic shapes,
gradients; and fake CUDA tensors, which show the contracts of the CUDA path on any machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu_material import DEVICE
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

import f2f.kernels.ops  # noqa: F401  # registers the operators
from f2f import kernels
from f2f.kernels import dispatch, pack_planes

OPERATORS = (
    "activate_cams",
    "warp_union",
    "cost_volume",
    "warp_cost_volume",
    "compose_labels",
    "minimum_barrier",
    "crf_refine",
    "soft_union",
)
CRF_NUMBERS = ("gaussian_px", "gaussian_weight", "bilateral_px", "bilateral_rgb", "bilateral_weight")


def arguments(operator: str, batch: int = 2, height: int = 6, width: int = 7) -> tuple[Any, ...]:
    """Arguments of the `torch.library` operator."""
    size = (height, width)
    features = tuple(torch.randn(batch, 3, *size, requires_grad=True) for _ in range(2))
    bits = pack_planes(torch.rand(batch, 3, 5, *size) < 0.5)
    classes = torch.arange(5).expand(batch, 5).contiguous()
    cams = [torch.randn(batch, 5, 2, 3), torch.randn(batch, 5, 4, 4)]
    return {
        "activate_cams": (cams, [False, True], classes, *size, 0.3),
        "warp_union": (bits, torch.randn(batch, 2, 2, *size), False),
        "cost_volume": (*features, 2),
        "warp_cost_volume": (*features, (torch.rand(batch, 2, *size) * 0.6 + 0.2).requires_grad_(), 2),
        "compose_labels": (bits[:, 0].contiguous(), classes, torch.rand(batch, 1, *size), 0.5),
        "minimum_barrier": (torch.rand(batch, 3, *size), 3),
        "soft_union": (torch.rand(batch, 3, 2, *size), *(torch.randn(batch, 2, 2, *size) for _ in range(2))),
        "crf_refine": (torch.rand(batch, 4, *size), torch.rand(batch, 3, *size), 2, 3.0, 3.0, 60.0, 8.0, 5.0),
    }[operator]


def public(operator: str) -> Callable[..., Any]:
    """The public function, called with the operator's arguments."""
    function: Callable[..., Any] = getattr(kernels, operator)
    if operator == "activate_cams":
        return lambda cams, flips, classes, height, width, theta: function(cams, flips, classes, (height, width), theta)
    if operator == "warp_union":
        return lambda bits, flow, return_steps: function(bits, flow, return_steps=return_steps)
    if operator == "crf_refine":
        return lambda unary, image, steps, *numbers: function(
            unary, image, steps=steps, **dict(zip(CRF_NUMBERS, numbers, strict=True))
        )
    return function


def tensors_of(values: Any) -> list[Tensor]:
    """The tensors among nested values."""
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in tensors_of(value)] if isinstance(values, list | tuple) else []


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck(operator: str) -> None:
    torch.library.opcheck(getattr(torch.ops.f2f, operator).default, arguments(operator))


@pytest.mark.parametrize("operator", ["soft_union", "crf_refine"])
def test_opcheck_of_triton_versions(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := dispatch.obstacles(DEVICE)[dispatch.TRITON]) != "":
        pytest.skip(reason)
    monkeypatch.setenv(dispatch.ENVIRONMENT, dispatch.TRITON)
    given = (value.to(DEVICE) if isinstance(value, Tensor) else value for value in arguments(operator))
    torch.library.opcheck(getattr(torch.ops.f2f, operator).default, tuple(given))


@pytest.mark.parametrize("operator", ["cost_volume", "warp_cost_volume"])
def test_opcheck_of_the_gradients(operator: str) -> None:
    *tensors, reach = arguments(operator)
    inputs = [tensor.detach() for tensor in tensors]
    gradient = torch.randn(2, 25, 6, 7)
    torch.library.opcheck(getattr(torch.ops.f2f, f"{operator}_backward").default, (gradient, *inputs, reach))


@pytest.mark.parametrize("return_steps", [False, True])
def test_opcheck_of_one_frame(return_steps: bool) -> None:
    bits, flow, _ = arguments("warp_union")
    torch.library.opcheck(torch.ops.f2f.warp_union.default, (bits[:, :1], flow[:, :0], return_steps))


@pytest.mark.parametrize("operator", OPERATORS)
def test_compiles_as_one_graph_of_any_size(operator: str) -> None:
    compiled = torch.compile(public(operator), fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 6, 7), (3, 9, 5)):
        given = arguments(operator, *size)
        for found, wanted in zip(tensors_of(compiled(*given)), tensors_of(public(operator)(*given)), strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("operator", ["cost_volume", "warp_cost_volume"])
def test_compiled_gradients(operator: str) -> None:
    given = arguments(operator)
    tensors = tensors_of(given)
    compiled = torch.compile(public(operator), fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*given).square().sum(), tensors)
    wanted = torch.autograd.grad(public(operator)(*given).square().sum(), tensors)
    torch.testing.assert_close(found, wanted)


class _Module(torch.nn.Module):
    def __init__(self, operator: str, constants: tuple[Any, ...]) -> None:
        super().__init__()
        self.operator, self.constants = operator, constants

    def forward(self, *tensors: Tensor) -> Any:
        """The operator; what is no tensor is constant. activate_cams takes (cam, cam, classes)."""
        if self.operator == "activate_cams":
            flips, theta = self.constants
            first, second, classes = tensors
            size_hw = (4 * second.shape[2], 4 * second.shape[3])
            return kernels.activate_cams([first, second], flips, classes, size_hw, theta)
        return public(self.operator)(*tensors, *self.constants)


@pytest.mark.parametrize("operator", OPERATORS)
def test_exports_as_one_node_of_any_size(operator: str) -> None:
    def split(given: tuple[Any, ...]) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        tensors = tuple(tensor.detach() for tensor in tensors_of(given))
        constants = tuple(value for value in given if not tensors_of(value))
        return tensors, (constants[0], constants[3]) if operator == "activate_cams" else constants

    tensors, constants = split(arguments(operator))
    module = _Module(operator, constants)
    batch, any_size = {0: Dim.AUTO}, {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    shapes = {
        "activate_cams": (batch, any_size, batch),
        "compose_labels": (any_size, batch, any_size),
        "warp_union": ({0: Dim.AUTO, 3: Dim.AUTO, 4: Dim.AUTO},) * 2,
        "soft_union": ({0: Dim.AUTO, 3: Dim.AUTO, 4: Dim.AUTO},) * 3,
    }.get(operator, (any_size,) * len(tensors))
    program = torch.export.export(module, tensors, dynamic_shapes={"tensors": shapes})
    node = getattr(torch.ops.f2f, operator).default
    assert [entry.target for entry in program.graph.nodes].count(node) == 1
    others, _ = split(arguments(operator, 3, 11, 9))
    for found, wanted in zip(tensors_of(program.module()(*others)), tensors_of(module(*others)), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("operator", OPERATORS)
def test_fake_cuda_tensors_show_the_cuda_contract(operator: str) -> None:
    real = [tensor.detach() for tensor in tensors_of(public(operator)(*arguments(operator)))]
    with FakeTensorMode(allow_non_fake_inputs=True):
        given = _on_cuda(arguments(operator))
        results = tensors_of(public(operator)(*given))
    assert [(r.shape, r.dtype, r.device.type) for r in results] == [(r.shape, r.dtype, "cuda") for r in real]


def _on_cuda(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="cuda")
    if isinstance(value, list | tuple):
        return type(value)(_on_cuda(part) for part in value)
    return value
