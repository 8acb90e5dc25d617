"""Which version of an operator runs: chosen once per operator and kind of device, can be forced, can be asked for.

`F2F_KERNELS=torch|cpp|triton` forces. It raises where it cannot be met: a version that no operator has yet, an
extension that does not load, a device the version does not serve. An operator that exists only as its torch
definition runs that definition under any choice that can be met; `backend_in_use` shows it.
"""

from __future__ import annotations

import logging
import os
from functools import cache

from f2f.kernels import native

ENVIRONMENT = "F2F_KERNELS"
TORCH, CPP, TRITON = "torch", "cpp", "triton"

# Operator -> its versions, best first. All have the torch definition.
VERSIONS: dict[str, tuple[str, ...]] = {
    "activate_cams": (TORCH,),
    "warp_union": (CPP, TORCH),
    "cost_volume": (TORCH,),
    "warp_cost_volume": (TORCH,),
    "compose_labels": (TORCH,),
    "minimum_barrier": (CPP, TORCH),
}

_log = logging.getLogger(__name__)


def choose(operator: str, device_type: str = "cpu") -> str:
    """The version of `operator` that runs on tensors of `device_type` ("cpu", "cuda")."""
    return _choose(operator, device_type, os.environ.get(ENVIRONMENT, ""))


def backend_in_use(device_type: str = "cpu") -> dict[str, str]:
    """Every operator and the version of it that runs on `device_type`: "torch" or "cpp"."""
    return {operator: choose(operator, device_type) for operator in VERSIONS}


@cache
def _choose(operator: str, device_type: str, forced: str) -> str:
    if forced:
        _refuse_impossible(forced, device_type)
    available = [version for version in VERSIONS[operator] if not _obstacle(version, device_type)]
    version = forced if forced in available else available[0]
    _log.debug("%s on %s runs its %s version", operator, device_type, version)
    return version


def _obstacle(version: str, device_type: str) -> str:
    """Why `version` cannot serve `device_type`; empty if it can."""
    if version == CPP and device_type != "cpu":
        return f"the C++ versions serve the CPU, not {device_type}"
    if version == CPP and native.load_error() is not None:
        return f"the C++ extension does not load: {native.load_error()}"
    return ""


def _refuse_impossible(forced: str, device_type: str) -> None:
    existing = sorted({version for versions in VERSIONS.values() for version in versions})
    reason = _obstacle(forced, device_type)
    if forced == TRITON:
        reason = "there are no Triton versions yet"
    elif forced not in existing:
        reason = "there is no such version"
    if reason:
        usable = ", ".join(version for version in existing if not _obstacle(version, device_type))
        raise ValueError(
            f"{ENVIRONMENT}={forced} cannot be met ({reason}); accepted here: {usable}; "
            f"unset {ENVIRONMENT} to have the best one chosen"
        )
