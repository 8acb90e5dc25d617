"""Every version of the kernels that can run here, called alike, and pairwise combinations of what tests vary."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import pytest
from gpu_material import DEVICE
from torch import Tensor

from f2f.kernels import native

INTERPRETED = DEVICE == "cpu"
ISAS = ("avx512", "avx512_nogather", "avx2", "avx2_nogather", "scalar")
VERSIONS = (*ISAS, "triton")


def call(version: str, operator: str, *arguments: Any, **options: Any) -> Any:
    """Run one version of an operator on CPU tensors; the results are on the CPU too. Skips what cannot run here."""
    if version == "triton":
        return _to(_triton(operator)(*_to(arguments, DEVICE), **options), "cpu")
    if version not in native.usable_isas():
        pytest.skip(f"this processor has no {version}")
    before = native.isa_in_use()
    native.use_isa(version)
    try:
        return getattr(native, operator)(*arguments, **options)
    finally:
        native.use_isa(before)


def _triton(operator: str) -> Callable[..., Any]:
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed, so its versions, for CUDA, cannot run")
    if INTERPRETED and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no CUDA, and TRITON_INTERPRET is not 1")
    import f2f.kernels.gpu

    function: Callable[..., Any] = getattr(f2f.kernels.gpu, operator)
    return function


def _to(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(_to(part, device) for part in value)
    return value


def pairwise(factors: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Combinations in which every pair of values of two factors occurs; greedy, always the same ones."""
    names = list(factors)
    missing = {
        (a, x, b, y)
        for a, b in itertools.combinations(range(len(names)), 2)
        for x in range(len(factors[names[a]]))
        for y in range(len(factors[names[b]]))
    }
    while missing:
        chosen = _next_combination([len(factors[name]) for name in names], missing)
        missing -= {(a, chosen[a], b, chosen[b]) for a, b in itertools.combinations(range(len(names)), 2)}
        yield {name: factors[name][index] for name, index in zip(names, chosen, strict=True)}


def _next_combination(sizes: list[int], missing: set[tuple[int, int, int, int]]) -> list[int]:
    """Start from a missing pair; give every other factor the value that closes most missing pairs."""
    a, x, b, y = min(missing)
    chosen = {a: x, b: y}
    for factor in range(len(sizes)):
        if factor in chosen:
            continue
        gains = [
            sum(_pair(factor, value, *other) in missing for other in chosen.items()) for value in range(sizes[factor])
        ]
        chosen[factor] = gains.index(max(gains))
    return [chosen[factor] for factor in range(len(sizes))]


def _pair(a: int, x: int, b: int, y: int) -> tuple[int, int, int, int]:
    return (a, x, b, y) if a < b else (b, y, a, x)
