"""Which version of an operator runs: chosen once per operator and kind of device, can be forced, can be asked for.

`F2F_KERNELS=torch|cpp|triton` forces. It raises where it cannot be met: a name that is none, an extension that does
not load, a device the version does not serve. An operator that has no such version runs its torch definition;
`backend_in_use` and `f2f doctor` show it. What is missing is said once, in the log.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from f2f.kernels import native

ENVIRONMENT = "F2F_KERNELS"
TORCH, CPP, TRITON = "torch", "cpp", "triton"

_MODULES = {CPP: "f2f.kernels.native", TRITON: "f2f.kernels.gpu", TORCH: "f2f.kernels.reference"}

# Operator -> its versions, best first; each serves the devices it can.
VERSIONS: dict[str, tuple[str, ...]] = {
    "activate_cams": (CPP, TRITON, TORCH),
    "warp_union": (CPP, TRITON, TORCH),
    "cost_volume": (CPP, TRITON, TORCH),
    "warp_cost_volume": (CPP, TRITON, TORCH),
    "compose_labels": (CPP, TRITON, TORCH),
    "minimum_barrier": (CPP, TORCH),
    "crf_refine": (CPP, TRITON, TORCH),
    "soft_union": (CPP, TRITON, TORCH),
}

_log = logging.getLogger(__name__)


def choose(operator: str, device_type: str = "cpu") -> str:
    """The version of `operator` that runs on tensors of `device_type` ("cpu", "cuda")."""
    return _choose(operator, device_type, os.environ.get(ENVIRONMENT, ""))


def implementation(operator: str, device_type: str, suffix: str = "") -> Callable[..., Any]:
    """The function that runs `operator` (or, with suffix "_backward", its gradient) on `device_type`."""
    module = importlib.import_module(_MODULES[choose(operator, device_type)])
    function: Callable[..., Any] = getattr(module, operator + suffix)
    return function


def backend_in_use(device_type: str = "cpu") -> dict[str, str]:
    """Every operator and the version of it that runs on `device_type`: "cpp", "triton" or "torch"."""
    return {operator: choose(operator, device_type) for operator in VERSIONS}


def obstacles(device_type: str = "cpu") -> dict[str, str]:
    """Why each version cannot serve `device_type`; empty where it can."""
    return {version: _obstacle(version, device_type) for version in _MODULES}


@cache
def _choose(operator: str, device_type: str, forced: str) -> str:
    if forced:
        _refuse_impossible(forced, device_type)
    available = [version for version in VERSIONS[operator] if not _obstacle(version, device_type)]
    if device_type == "cpu" and forced != TRITON and TRITON in available:
        available.remove(TRITON)  # the interpreter: for tests, never a choice of ours
    version = forced if forced in available else available[0]
    _tell_degraded(device_type, version, forced)
    _log.debug("%s on %s runs its %s version", operator, device_type, version)
    return version


def _obstacle(version: str, device_type: str) -> str:
    """Why `version` cannot serve `device_type`; empty if it can."""
    if version == CPP and device_type != "cpu":
        return f"the C++ versions serve the CPU, not {device_type}"
    if version == CPP and native.load_error() is not None:
        return f"the C++ extension does not load: {native.load_error()}"
    if version == TRITON:
        return _triton_obstacle(device_type)
    return ""


def _triton_obstacle(device_type: str) -> str:
    if find_spec("triton") is None:
        return "Triton is not installed"
    if device_type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "the Triton versions serve CUDA, and the CPU only in Triton's interpreter (TRITON_INTERPRET=1)"
    return "" if device_type in {"cpu", "cuda"} else f"the Triton versions serve CUDA, not {device_type}"


def _tell_degraded(device_type: str, version: str, forced: str) -> None:
    best = {"cpu": CPP, "cuda": TRITON}.get(device_type)
    if best and not forced and version == TORCH and (reason := _obstacle(best, device_type)):
        _tell_once(f"{reason}; the torch definitions run instead, many times slower")


@cache
def _tell_once(message: str) -> None:
    _log.warning(message)


def _refuse_impossible(forced: str, device_type: str) -> None:
    reason = _obstacle(forced, device_type) if forced in _MODULES else "there is no such version"
    if reason:
        usable = ", ".join(version for version, obstacle in obstacles(device_type).items() if not obstacle)
        raise ValueError(
            f"{ENVIRONMENT}={forced} cannot be met ({reason}); accepted here: {usable}; "
            f"unset {ENVIRONMENT} to have the best one chosen"
        )
