"""How the Triton kernels are declared and started, and the numbers that decide it.

Nothing is autotuned: block sizes are written where the kernels are, one set for the GPU and one for Triton's
interpreter (TRITON_INTERPRET=1, CPU tensors), which runs programs one after another and is quick only with few of
them. Sizes are never compiled in, so each kernel has the few variants that `variants.py` lists and no others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
import triton
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)
MAX_PROGRAMS = (2**31 - 1, 65535, 65535)  # CUDA's limits of a grid
INTERPRETED_L2_BYTES = 2**20
INTERPRETED_MULTIPROCESSORS = 4

Body = TypeVar("Body", bound=Callable[..., Any])


class Kernel(Protocol):
    """What `triton.jit` makes of a function, as far as it is used here."""

    __name__: str
    fn: Callable[..., None]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """The kernel on a grid of programs."""


@dataclass(frozen=True)
class Blocks:
    """Block sizes of a kernel, by the names of its parameters, and warps per program."""

    gpu: Mapping[str, int]
    interpreter: Mapping[str, int]
    warps: int = 4
    stages: int = 1
    fuse: bool = False
    """a * b + c may round once: only where nothing asks for the definition's bits"""

    def __getitem__(self, name: str) -> int:
        """The size in use here."""
        return self.sizes[name]

    @property
    def sizes(self) -> Mapping[str, int]:
        """The sizes in use here."""
        return self.interpreter if INTERPRETED else self.gpu

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told. Without fusion a * b + c rounds twice, as in the definitions."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": self.fuse}


def device(body: Body) -> Body:
    """Mark a function that kernels call."""
    return cast(Body, triton.jit(body))


def kernel(body: Callable[..., None]) -> Kernel:
    """Mark a kernel. Triton would compile it anew for arguments that are 1 or divisible by 16: not wanted here.

    Nothing is lost: a warp reads 32 neighbouring elements with one instruction, whatever their alignment.
    """
    parameters = inspect.signature(body).parameters.values()
    sizes = [parameter.name for parameter in parameters if "constexpr" not in str(parameter.annotation)]
    return cast(Kernel, triton.jit(body, do_not_specialize=sizes))


def start(body: Kernel, grid: tuple[int, ...], blocks: Blocks, *arguments: object, **flags: object) -> None:
    """Run a kernel on the device of its first argument, a tensor."""
    for size, most in zip(grid, MAX_PROGRAMS, strict=False):
        if size > most:
            raise ValueError(f"{body.__name__} would need a grid of {grid}; accepted: {MAX_PROGRAMS}; split the batch")
    first = arguments[0]
    assert isinstance(first, Tensor)
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]  # torch leaves it untyped
        body[grid](*arguments, **flags, **blocks.sizes, **blocks.options)


def check_device(name: str, tensor: Tensor) -> None:
    """Refuse a tensor where the kernels cannot run."""
    if tensor.device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"{name} is on {tensor.device}; accepted: cuda for the Triton version; move it with .cuda(), or set "
            "TRITON_INTERPRET=1 before Triton is imported"
        )


def check_offsets(name: str, shape: torch.Size) -> None:
    """Refuse images so large that a place in one of them is no int32; the batch may be of any size."""
    if shape[1:].numel() >= 2**31:
        raise ValueError(f"{name} is {list(shape)}; accepted: fewer than 2^31 elements per image; cut it into tiles")


def tiles(size: int, block: int) -> int:
    """How many blocks cover `size`."""
    return -(-size // block)


def multiprocessors(where: torch.device) -> int:
    """How many programs of any size run at once."""
    return _properties(where)[0] if where.type == "cuda" else INTERPRETED_MULTIPROCESSORS


def l2_bytes(where: torch.device) -> int:
    """Size of the cache that all multiprocessors share."""
    return _properties(where)[1] if where.type == "cuda" else INTERPRETED_L2_BYTES


@lru_cache
def _properties(where: torch.device) -> tuple[int, int]:
    found = torch.cuda.get_device_properties(where)
    return int(found.multi_processor_count), int(found.L2_cache_size)


Structure = Literal["clip", "steps"]


def warp_structure(clips: int, where: torch.device) -> Structure:
    """One launch with a program per clip keeps one multiprocessor busy per clip: worth it once all have one."""
    return "clip" if clips >= multiprocessors(where) else "steps"


def clips_per_chunk(frame_bytes: int, where: torch.device) -> int:
    """How many clips go through the steps together: their two frames of unions fill half the L2 at most."""
    return min(max(1, l2_bytes(where) // 2 // (2 * frame_bytes)), MAX_PROGRAMS[2])
