"""The camera's motion: the homography that most of a frame's flow follows. What moves against it moves by itself."""

from __future__ import annotations

import torch
from torch import Tensor

_SPACING_PX = 8
_STEPS = 8
_LEAST_SPREAD_PX = 0.3
"""flow is not known better than this: smaller deviations from the camera's motion mean nothing"""


def residual_motion(flow_xy_px: Tensor) -> Tensor:
    """How far flow [2, H, W] px deviates from the camera's, [H, W] px."""
    deviation: Tensor = (flow_xy_px - camera_flow(flow_xy_px)).norm(dim=0)
    return deviation


def camera_flow(flow_xy_px: Tensor) -> Tensor:
    """The flow [2, H, W] px of the homography fitted to flow [2, H, W] px on a grid of points.

    Iteratively reweighted least squares with Geman and McClure's weights; their scale follows the median deviation, so
    that objects of less than half the frame drop out. The same flow gives the same fit: nothing in it is random.
    """
    height, width = flow_xy_px.shape[-2:]
    pixels = _pixels(height, width)  # [2, H, W]
    middle = torch.tensor([width / 2, height / 2], dtype=torch.float64).view(2, 1, 1)
    unit_px = max(height, width) / 2
    here = (pixels - middle) / unit_px  # about -1..1, for the sake of the equations' condition
    there = here + flow_xy_px.double() / unit_px
    offset, step = min(_SPACING_PX, height, width) // 2, _SPACING_PX
    points, targets = (place[:, offset::step, offset::step].flatten(1) for place in (here, there))  # [2, n]
    homography = _fitted(points, targets, _LEAST_SPREAD_PX / unit_px)
    return ((_moved(homography, here.flatten(1)).view_as(here) - here) * unit_px).float()


def _pixels(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    return torch.stack([x, y])


def _fitted(points: Tensor, targets: Tensor, least_spread: float) -> Tensor:
    """The eight parameters that bring points [2, n] to targets [2, n]."""
    to_x, to_y = _equations(points, targets)  # [n, 8] each
    shift = (targets - points).median(dim=1, keepdim=True).values
    deviation = (targets - points - shift).norm(dim=0)  # [n]
    parameters = torch.zeros(8, dtype=torch.float64)
    for _ in range(_STEPS):
        spread = max(1.48 * float(deviation.median()), least_spread)
        weights = (1 + (deviation / spread).square()).pow(-2)[:, None]  # [n, 1]
        normal = to_x.T @ (weights * to_x) + to_y.T @ (weights * to_y)
        wanted = to_x.T @ (weights[:, 0] * targets[0]) + to_y.T @ (weights[:, 0] * targets[1])
        parameters = torch.linalg.solve(normal + 1e-9 * torch.eye(8, dtype=torch.float64), wanted)
        deviation = (targets - _moved(parameters, points)).norm(dim=0)
    return parameters


def _equations(points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the linear equations for x' and y' of every point, after multiplying by the denominator."""
    x, y = points
    one, none = torch.ones_like(x), torch.zeros_like(x)
    to_x = torch.stack([x, y, one, none, none, none, -targets[0] * x, -targets[0] * y], dim=1)
    to_y = torch.stack([none, none, none, x, y, one, -targets[1] * x, -targets[1] * y], dim=1)
    return to_x, to_y


def _moved(parameters: Tensor, points: Tensor) -> Tensor:
    """Points [2, n] under a homography whose ninth parameter is 1."""
    x, y = points
    across = parameters[6] * x + parameters[7] * y + 1
    return torch.stack(
        [
            (parameters[0] * x + parameters[1] * y + parameters[2]) / across,
            (parameters[3] * x + parameters[4] * y + parameters[5]) / across,
        ]
    )
