"""How good a flow network is: end-point error beside two baselines. Letters: H, W frame size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from f2f.engine.errors import UsageError
from f2f.engine.flow import DisFlow, Flow
from f2f.training.flow_methods import ZeroFlow
from f2f.training.pairs import Pair

Image = NDArray[np.uint8]
FlowPredictor = Callable[[Image, Image], NDArray[np.float32]]
"""(first, second), [H,W,3] RGB each -> flow [H,W,2] px on the first, pointing to the second"""


@dataclass(frozen=True)
class FlowErrors:
    """Mean end-point errors over all pixels of all pairs, px; `visible` where the point is seen in both frames."""

    network_all: float
    network_visible: float
    zero_all: float
    zero_visible: float
    dis_all: float
    """OpenCV DIS, medium preset; nan without OpenCV"""
    dis_visible: float
    pairs: int

    def as_dict(self) -> dict[str, float]:
        """The figures, rounded for a report."""
        return {name: round(float(value), 3) for name, value in asdict(self).items()}


def evaluate_flow(predict: FlowPredictor, pairs: Iterable[Pair], with_dis: bool = True) -> FlowErrors:
    """End-point error of a predictor beside zero flow and OpenCV DIS, on the same pairs."""
    methods: dict[str, FlowPredictor] = {"network": predict, "zero": engine_predictor(ZeroFlow())}
    if with_dis:
        methods["dis"] = engine_predictor(DisFlow())
    sums = dict.fromkeys([f"{name}_{part}" for name in ("network", "zero", "dis") for part in ("all", "visible")], 0.0)
    pixels, seen, count = 0, 0, 0
    for pair in pairs:
        for name, method in methods.items():
            error = np.linalg.norm(method(pair.first, pair.second) - pair.flow_xy_px, axis=-1)
            sums[f"{name}_all"] += float(error.sum())
            sums[f"{name}_visible"] += float(error[pair.visible].sum())
        pixels, seen, count = pixels + pair.visible.size, seen + int(pair.visible.sum()), count + 1
    if count == 0:
        raise UsageError("there are no pairs to evaluate flow on; give at least one")
    means = {name: value / (seen if name.endswith("visible") else pixels) for name, value in sums.items()}
    if not with_dis:
        means |= {"dis_all": float("nan"), "dis_visible": float("nan")}
    return FlowErrors(**means, pairs=count)


def engine_predictor(flow: Flow) -> FlowPredictor:
    """What the engine takes as flow as a predictor: flow lives on the later frame, so `first` is handed over last."""
    return lambda first, second: flow([[second, first]])[0, 0].permute(1, 2, 0).numpy()


def flow_predictor(network: Callable[[Tensor], Tensor]) -> FlowPredictor:
    """A network by the flow contract as a predictor: flow lives on the later frame, so `first` is handed over last."""

    def predict(first: Image, second: Image) -> NDArray[np.float32]:
        frames = torch.from_numpy(np.stack([second, first])).permute(0, 3, 1, 2)[None].float() / 255
        with torch.inference_mode():
            flow: NDArray[np.float32] = network(frames)[0, 0].permute(1, 2, 0).numpy()
        return flow

    return predict
