"""Who competes in the kernel benchmark, and how far each may be from the reference.

Ours are all versions of the public function that run on the device, the torch reference first: it is the definition.
The others come from `kernel_baselines`. Everyone gets the inputs in the form it likes, made outside the time, and
everyone's result is compared with the reference's before it is timed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from kernel_timing import Call
from kernel_workloads import (
    BOTH,
    THETA_B,
    THETA_F,
    CamInputs,
    Case,
    CrfInputs,
    LabelInputs,
    Level,
    SoftUnionInputs,
    WarpUnionInputs,
)
from torch import Tensor

import f2f.kernels
from f2f.kernels import dispatch, reference, unpack_planes

Finish = Callable[[Any], Sequence[Tensor]]

CRF_BAND = 0.02  # share of pixels that may have another label than the exact dense CRF gives them
_MOST_PAIRS = 1e9  # of pixels; with more the exact dense CRF takes minutes on a CPU

# How far a cost volume may be off, by dtype, as a share of its largest value.
_ROUNDING = {torch.float32: 1e-5, torch.float16: 5e-3}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to do a case's work."""

    backend: str
    form: str = ""
    """which of several forms, launches, modes"""
    call: Call
    """what is timed"""
    finish: Finish
    """brings what `call` returns into the form of the reference's result, outside the time"""
    band: float = 0.0
    """largest `disagreement` with which a time is reported"""


@dataclass(frozen=True, kw_only=True)
class Absent:
    """One that cannot run here, and why."""

    backend: str
    form: str = ""
    reason: str


def disagreement(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """How far `results` are from the reference's, tensor by tensor; the worst one counts.

    Masks (bool): pixels that differ as a share of those set in either. Labels (uint8): share of pixels that differ.
    Floats: largest difference as a share of the largest value. Other shapes or dtypes differ altogether: inf.
    """
    if len(results) != len(expected):
        return float("inf")
    return max(_distance(result, wanted) for result, wanted in zip(results, expected, strict=True))


def _distance(result: Tensor, wanted: Tensor) -> float:
    if result.shape != wanted.shape or result.dtype != wanted.dtype:
        return float("inf")
    if wanted.dtype == torch.bool:
        return _share((result ^ wanted).sum(), (result | wanted).sum())
    if wanted.dtype == torch.uint8:
        return float((result != wanted).double().mean())
    error = (result.double() - wanted.double()).abs().max()
    return float("inf") if bool(error.isnan()) else _share(error, wanted.double().abs().max())


def _share(part: Tensor, whole: Tensor) -> float:
    return 0.0 if float(part) == 0 else float(part) / float(whole)


def ours(case: Case, inputs: Any, device: str) -> list[Contender | Absent]:
    """The versions of f2f's operator, the torch reference first."""
    names = [dispatch.TORCH, *(version for version in dispatch.VERSIONS[case.op] if version != dispatch.TORCH)]
    found: list[Contender | Absent] = []
    for version in names:
        reason = _obstacle(case.op, version, device)
        if version == dispatch.TORCH and takes_minutes(case, device):
            reason = "sums over all pairs of pixels, which takes minutes; compared at a smaller size"
        if reason:
            found.append(Absent(backend=f"f2f {version}", reason=reason))
        else:
            found.append(_our_contender(case, inputs, version))
    if case.op == "warp_union" and device == "cuda":
        found += _launches(case, inputs)
    return found


def defined(case: Case, inputs: Any) -> Sequence[Tensor]:
    """The right result: that of the reference itself, with autograd's gradients."""
    work, finish = _PUBLIC[case.op](case, inputs, getattr(reference, case.op))
    return finish(work())


def _obstacle(operator: str, version: str, device: str) -> str:
    """Why `version` of `operator` does not run on `device`; empty if it does."""
    try:
        with forced(version):
            chosen = dispatch.choose(operator, device)
    except ValueError as error:
        return str(error)
    return "" if chosen == version else f"{chosen} runs in its place"


def takes_minutes(case: Case, device: str) -> bool:
    """Whether the reference does."""
    pairs = (case.size_hw[0] * case.size_hw[1]) ** 2
    return case.op == "crf_refine" and device == "cpu" and pairs > _MOST_PAIRS


@contextmanager
def forced(version: str) -> Iterator[None]:
    """Let the public functions run `version` inside the block."""
    before = os.environ.get(dispatch.ENVIRONMENT)
    os.environ[dispatch.ENVIRONMENT] = version
    try:
        yield
    finally:
        os.environ.pop(dispatch.ENVIRONMENT)
        if before is not None:
            os.environ[dispatch.ENVIRONMENT] = before


def _our_contender(case: Case, inputs: Any, version: str) -> Contender:
    function = getattr(f2f.kernels, case.op)
    work, finish = _PUBLIC[case.op](case, inputs, function)

    def call() -> Any:
        with forced(version):
            return work()

    band = CRF_BAND if case.op == "crf_refine" else rounding_band(case) if case.op.endswith("cost_volume") else 0.0
    return Contender(backend=f"f2f {version}", call=call, finish=finish, band=band)


def rounding_band(case: Case) -> float:
    """How far a sum over channels in another order may be off; ten times that where places are rounded before."""
    return _ROUNDING[case.dtype] * (10 if case.op == "warp_cost_volume" else 1)


def _public_warp_union(case: Case, inputs: WarpUnionInputs, function: Callable[..., Any]) -> tuple[Call, Finish]:
    return lambda: function(inputs.bits, inputs.flow_xy_px), lambda bits: [unpack_planes(bits, case.planes)]


def _public_activate_cams(case: Case, inputs: CamInputs, function: Callable[..., Any]) -> tuple[Call, Finish]:
    arguments = (inputs.cams, inputs.flips, inputs.classes, inputs.size_hw, THETA_F)
    return lambda: function(*arguments), lambda result: [unpack_planes(result[0], case.planes), result[1]]


def _public_compose_labels(case: Case, inputs: LabelInputs, function: Callable[..., Any]) -> tuple[Call, Finish]:
    del case
    return lambda: function(inputs.bits, inputs.classes, inputs.saliency, THETA_B), lambda labels: [labels]


def _public_crf_refine(case: Case, inputs: CrfInputs, function: Callable[..., Any]) -> tuple[Call, Finish]:
    del case
    options = {"bilateral_rgb": 5.0, "bilateral_weight": 4.0}  # the engine's
    return lambda: function(inputs.unary, inputs.image, **options), lambda shares: [likeliest(shares)]


def _public_soft_union(case: Case, inputs: SoftUnionInputs, function: Callable[..., Any]) -> tuple[Call, Finish]:
    del case
    arguments = (inputs.maps, inputs.flow_xy_px, inputs.return_xy_px)
    return lambda: function(*arguments), lambda united: [in_bytes(united)]


def in_bytes(maps: Tensor) -> Tensor:
    """Maps of 0..1 as uint8: where there and back agree just so, a last bit decides whether a value is carried."""
    return (maps * 255).round().to(torch.uint8)


def likeliest(shares: Tensor) -> Tensor:
    """The label of every pixel, uint8 [B, H, W], of probabilities [B, L, H, W]."""
    return shares.argmax(1).to(torch.uint8)


def _public_cost_volume(case: Case, inputs: Sequence[Level], function: Callable[..., Any]) -> tuple[Call, Finish]:
    return over_levels(function, inputs, case), list


_PUBLIC: dict[str, Callable[[Case, Any, Callable[..., Any]], tuple[Call, Finish]]] = {
    "warp_union": _public_warp_union,
    "activate_cams": _public_activate_cams,
    "compose_labels": _public_compose_labels,
    "cost_volume": _public_cost_volume,
    "warp_cost_volume": _public_cost_volume,
    "crf_refine": _public_crf_refine,
    "soft_union": _public_soft_union,
}


def over_levels(function: Callable[..., Tensor], levels: Sequence[Level], case: Case) -> Call:
    """`function` of every pyramid level's features; with its gradients where the case asks for them."""

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [function(*level.features) for level in levels]

    def forward_and_backward() -> list[Tensor]:
        results: list[Tensor] = []
        for level in levels:
            features = [part.detach().requires_grad_() for part in level.features]
            volume = function(*features)
            results += [volume.detach(), *torch.autograd.grad(volume, features, level.gradient)]
        return results

    return forward_and_backward if case.mode == BOTH else forward


def _launches(case: Case, inputs: WarpUnionInputs) -> list[Contender | Absent]:
    """Both launch structures of the Triton `warp_union`, and for one clip the launches replayed as a CUDA graph."""
    try:
        function = importlib.import_module("f2f.kernels.gpu.warp_union").warp_union
    except (ImportError, AttributeError) as error:
        return [Absent(backend="f2f triton", form="launch", reason=str(error))]

    def launcher(launch: str) -> Call:
        return lambda: function(inputs.bits, inputs.flow_xy_px, launch_as=launch)

    def finish(bits: Tensor) -> list[Tensor]:
        return [unpack_planes(bits, case.planes)]

    found: list[Contender | Absent] = [
        Contender(backend="f2f triton", form=f"launch {launch}", call=launcher(launch), finish=finish)
        for launch in ("clip", "steps")
    ]
    if case.clips == 1:
        found.append(_replayed(launcher("steps"), finish))
    return found


def _replayed(call: Call, finish: Finish) -> Contender | Absent:
    """`call` captured in a CUDA graph."""
    try:
        call()  # compiles; a graph cannot
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()
    except Exception as error:  # whatever stops it is the row's reason
        return Absent(backend="f2f triton", form="CUDA graph", reason=one_line(error))

    def replay() -> Any:
        graph.replay()
        return result

    return Contender(backend="f2f triton", form="CUDA graph", call=replay, finish=finish)


def one_line(error: BaseException) -> str:
    """What went wrong, on one line of a table."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200]


def float_masks(inputs: WarpUnionInputs, planes: int) -> Tensor:
    """The masks as those hold them who know no bit planes: float32 [B, K, P, H, W]."""
    return torch.stack([reference.unpack_planes(bits, planes).float() for bits in inputs.bits])
