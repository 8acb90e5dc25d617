"""cost_volume and warp_cost_volume: channel order, values, gradients, export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from f2f.kernels import cost_volume, dispatch, exported, reference, warp_cost_volume
from f2f.kernels.reference import warp_features


def brute_force_cost(f1: Tensor, f2: Tensor, reach: int) -> Tensor:
    """The definition, one displacement and pixel at a time, in float64."""
    batch, channels, height, width = f1.shape
    side = 2 * reach + 1
    volume = torch.zeros(batch, side * side, height, width, dtype=torch.float64)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            for y in range(max(0, -dy), min(height, height - dy)):
                for x in range(max(0, -dx), min(width, width - dx)):
                    product = f1[:, :, y, x].double() * f2[:, :, y + dy, x + dx].double()
                    volume[:, (dy + reach) * side + dx + reach, y, x] = product.sum(1) / channels
    return volume


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 2), (1, 6), (7, 5)], ids=str)
@pytest.mark.parametrize("reach", [0, 1, 4])
def test_cost_volume_is_its_formula(size_hw: tuple[int, int], reach: int) -> None:
    f1, f2 = torch.randn(2, 6, *size_hw), torch.randn(2, 6, *size_hw)
    volume = cost_volume(f1, f2, reach)
    torch.testing.assert_close(volume.double(), brute_force_cost(f1, f2, reach), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 7), (4, 8), (5, 19)], ids=str)
@pytest.mark.parametrize("reach", [0, 1, 3, 4, 5])
def test_the_exported_form_is_the_definition(size_hw: tuple[int, int], reach: int) -> None:
    f1, f2, flow = torch.randn(2, 6, *size_hw), torch.randn(2, 6, *size_hw), 2 * torch.randn(2, 2, *size_hw)
    torch.testing.assert_close(exported.cost_volume(f1, f2, reach), reference.cost_volume(f1, f2, reach))
    expected = reference.warp_cost_volume(f1, f2, flow, reach)
    torch.testing.assert_close(exported.warp_cost_volume(f1, f2, flow, reach), expected)


@pytest.mark.parametrize("shift_xy", [(0, 0), (1, 0), (0, 1), (-3, 2), (4, -4)])
def test_a_shift_by_dx_dy_peaks_at_its_channel(shift_xy: tuple[int, int]) -> None:
    dx, dy = shift_xy
    f1 = torch.nn.functional.normalize(torch.randn(1, 32, 24, 24), dim=1)
    f2 = f1.roll((dy, dx), dims=(2, 3))  # what f1 has at p, f2 has at p + (dx, dy)
    inner = cost_volume(f1, f2)[..., 4:-4, 4:-4]
    assert (inner.argmax(dim=1) == (dy + 4) * 9 + (dx + 4)).all()


def test_warp_cost_volume_of_zero_flow_is_the_cost_volume() -> None:
    f1, f2 = torch.randn(2, 5, 9, 11), torch.randn(2, 5, 9, 11)
    torch.testing.assert_close(warp_cost_volume(f1, f2, torch.zeros(2, 2, 9, 11)), cost_volume(f1, f2))


@pytest.mark.parametrize("shift_xy", [(0, 0), (2, 0), (0, -3), (-1, 2)])
def test_whole_pixel_flow_moves_features(shift_xy: tuple[int, int]) -> None:
    dx, dy = shift_xy
    features = torch.rand(1, 3, 8, 9) + 0.5
    flow = torch.tensor([dx, dy], dtype=torch.float32).reshape(1, 2, 1, 1).expand(1, 2, 8, 9)
    expected = torch.zeros_like(features)
    rows = slice(max(0, -dy), min(8, 8 - dy))
    columns = slice(max(0, -dx), min(9, 9 - dx))
    moved = features.roll((-dy, -dx), dims=(2, 3))
    expected[:, :, rows, columns] = moved[:, :, rows, columns]
    torch.testing.assert_close(warp_features(features, flow), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size_hw", [(1, 6), (6, 1), (1, 1)], ids=str)
def test_one_pixel_axes_keep_only_what_stays_in_the_frame(size_hw: tuple[int, int]) -> None:
    features = torch.ones(1, 1, *size_hw)
    flow = torch.full((1, 2, *size_hw), 0.4)
    assert not warp_features(features, flow).any()
    torch.testing.assert_close(warp_features(features, 0 * flow), features)


def test_samples_that_leave_the_frame_are_zero() -> None:
    features = torch.ones(1, 1, 4, 4)
    flow = torch.zeros(1, 2, 4, 4)
    flow[:, 0, :, 0] = -0.01  # .99 of the weight in the frame: not enough
    flow[:, 0, :, 1] = -1.00005  # .99995: kept
    warped = warp_features(features, flow)[0, 0]
    assert warped[:, 0].tolist() == [0.0] * 4
    assert (warped[:, 1] > 0.999).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_are_sampled_in_float32(dtype: torch.dtype) -> None:
    f1, f2 = torch.rand(1, 8, 6, 300, dtype=dtype), torch.rand(1, 8, 6, 300, dtype=dtype)
    flow = torch.full((1, 2, 6, 300), 0.25)
    volume = warp_cost_volume(f1, f2, flow)
    assert volume.dtype == dtype
    torch.testing.assert_close(volume.float(), warp_cost_volume(f1.float(), f2.float(), flow), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("forced", ["cpp", "torch"])
def test_gradients(monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv(dispatch.ENVIRONMENT, forced)
    f1, f2 = (torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: cost_volume(a, b, 2), (f1, f2))
    # Flow that keeps clear of whole pixels, where bilinear sampling has a kink, and of the border.
    flow = (torch.rand(1, 2, 4, 5, dtype=torch.float64) * 0.6 + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b, f: warp_cost_volume(a, b, f, 1), (f1, f2, flow))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("size_hw", [(1, 1), (6, 1), (5, 7)], ids=str)
def test_the_definitions_gradients_are_autograds(dtype: torch.dtype, size_hw: tuple[int, int]) -> None:
    f1, f2 = (torch.randn(2, 3, *size_hw).to(dtype).requires_grad_() for _ in range(2))
    flow = torch.randn(2, 2, *size_hw).to(dtype).requires_grad_()
    costs = reference.warp_cost_volume(f1, f2, flow, 2)
    gradient = torch.randn(costs.shape).to(dtype)
    wanted = torch.autograd.grad(costs, (f1, f2, flow), gradient)
    given = reference.warp_cost_volume_backward(gradient, f1.detach(), f2.detach(), flow.detach(), 2)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2}[dtype]
    torch.testing.assert_close(given, wanted, rtol=tolerance, atol=tolerance)
    wanted = torch.autograd.grad(reference.cost_volume(f1, f2, 1), (f1, f2), gradient[:, :9])
    to_features = reference.cost_volume_backward(gradient[:, :9], f1.detach(), f2.detach(), 1)
    torch.testing.assert_close(to_features, wanted, rtol=tolerance, atol=tolerance)


class _Both(torch.nn.Module):
    """Both operators in one graph, as PWC-Net uses them."""

    def forward(self, f1: Tensor, f2: Tensor, flow_xy_px: Tensor) -> Tensor:
        """[B, C, H, W] twice and [B, 2, H, W] -> [B, 50, H, W]."""
        return torch.cat([cost_volume(f1, f2, 2), warp_cost_volume(f1, f2, flow_xy_px, 2)], dim=1)


def _inputs(batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    return (*torch.rand(2, batch, 4, height, width).unbind(), torch.randn(batch, 2, height, width) * 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Constant folding:UserWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:FutureWarning")
def test_onnx_export_follows_torch_at_any_size(tmp_path: Path) -> None:
    file = tmp_path / "both.onnx"
    axes = {name: {0: "b", 2: "h", 3: "w"} for name in ("f1", "f2", "flow")}
    torch.onnx.export(
        _Both(), _inputs(2, 6, 7), file, input_names=list(axes), dynamic_axes=axes, opset_version=18, dynamo=False
    )
    graph = onnx.load(str(file)).graph
    modes = [a.s for node in graph.node if node.op_type == "GridSample" for a in node.attribute if a.name == "mode"]
    assert modes == [b"bilinear"]
    assert not [node for node in graph.node if node.op_type == "ScatterND"]
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for size in ((2, 6, 7), (1, 11, 5), (3, 9, 16)):
        inputs = _inputs(*size)
        (found,) = session.run(None, {name: t.numpy() for name, t in zip(axes, inputs, strict=True)})
        np.testing.assert_allclose(found, _Both()(*inputs).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("run", [cost_volume, warp_cost_volume])
def test_errors_name_the_tensor(run: Callable[..., Tensor]) -> None:
    f1, f2 = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 6)
    flow = () if run is cost_volume else (torch.zeros(1, 2, 4, 5),)
    with pytest.raises(ValueError, match=r"f2 is \[1, 3, 4, 6\]; accepted: \[1, 3, 4, 5\] \(the shape of f1\)"):
        run(f1, f2, *flow)
    with pytest.raises(ValueError, match=r"f2 is \[1, 3, 4, 5\] float16; accepted: \[B,C,H,W\] float32"):
        run(f1, f1.half(), *flow)
    with pytest.raises(ValueError, match="max_displacement is -1"):
        run(f1, f1, *flow, max_displacement=-1)


def test_flow_errors_name_the_flow() -> None:
    f1 = torch.rand(1, 3, 4, 5)
    with pytest.raises(ValueError, match=r"flow_xy_px is \[1, 2, 5, 4\]; accepted: \[1, 2, 4, 5\]"):
        warp_cost_volume(f1, f1, torch.zeros(1, 2, 5, 4))
