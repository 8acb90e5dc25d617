"""Every compiled form of the kernels, and what each needs of a GPU, found out without one."""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from f2f.kernels.gpu.activate_cams import BLOCKS as CAM_BLOCKS
from f2f.kernels.gpu.activate_cams import mask_kernel, peak_kernel
from f2f.kernels.gpu.compose_labels import AREA_BLOCKS, PICK_BLOCKS, area_kernel, pick_kernel
from f2f.kernels.gpu.cost_volume import (
    FEW_CHANNELS,
    GRADIENT_BLOCKS,
    MANY_CHANNELS,
    SOME_CHANNELS,
    cost_kernel,
    gradient_kernel,
)
from f2f.kernels.gpu.crf_refine import (
    MANY_LABELS,
    SOME_LABELS,
    TWO_LABELS,
    many_labels_kernel,
    two_labels_kernel,
)
from f2f.kernels.gpu.launch import Blocks, Kernel
from f2f.kernels.gpu.soft_union import BLOCKS as SOFT_BLOCKS
from f2f.kernels.gpu.soft_union import soft_step_kernel
from f2f.kernels.gpu.warp_features import SAMPLE_BLOCKS, SCATTER_BLOCKS, sample_kernel, scatter_kernel
from f2f.kernels.gpu.warp_union import CLIP_BLOCKS, STEP_BLOCKS, clip_kernel, step_kernel

CAPABILITIES = (80, 90, 100)
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_TYPES = {"tl.int32": "i32", "tl.int64": "i64", "tl.float32": "fp32"}


@dataclass(frozen=True)
class Variant:
    """One compiled form: the element types of the pointers in order, the flags, and the registers it may use."""

    kernel: Kernel
    blocks: Blocks
    pointers: str
    registers: int
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Kernel, pointers, flags and block sizes in a line."""
        fixed = (f"{name}={value}" for name, value in {**self.flags, **self.blocks.gpu}.items())
        return " ".join([self.kernel.__name__, self.pointers, *fixed])

    @property
    def signature(self) -> dict[str, str]:
        """Type of every parameter as Triton's compiler wants it."""
        pointers = iter(self.pointers.split())
        return {name: kind or f"*{next(pointers)}" for name, kind in parameter_kinds(self.kernel).items()}

    @property
    def source(self) -> Any:
        """What the compiler takes: no argument is known to be 1 or divisible by 16."""
        return ASTSource(self.kernel, self.signature, constexprs={**self.flags, **self.blocks.gpu})


@dataclass(frozen=True)
class Resources:
    """What one thread of a compiled kernel uses, and the bytes its program shares."""

    registers: int
    stack_bytes: int
    local_bytes: int
    local_accesses: int
    shared_bytes: int


def parameter_kinds(kernel: Kernel) -> dict[str, str]:
    """The parameters of a kernel: "constexpr", the type of a number, or "" for a pointer."""
    parameters = inspect.signature(kernel.fn).parameters.values()
    return {
        parameter.name: "constexpr"
        if "constexpr" in str(parameter.annotation)
        else _TYPES.get(parameter.annotation, "")
        for parameter in parameters
    }


def all_variants() -> Iterator[Variant]:
    """Every variant that the launchers can ask for."""
    for flow in ("fp32", "fp16"):
        yield Variant(step_kernel, STEP_BLOCKS, f"i32 {flow} i32 i32", registers=64)
        for keep in (False, True):
            yield Variant(clip_kernel, CLIP_BLOCKS, f"i32 {flow} i32 i32", 64, {"keep_steps": keep})
    yield from _label_variants()
    yield from _soft_variants()
    for name, dot in (("fp32", tl.float32), ("fp16", tl.float16), ("bf16", tl.bfloat16)):
        yield from _feature_variants(name, dot)


def _label_variants() -> Iterator[Variant]:
    yield Variant(peak_kernel, CAM_BLOCKS, "i32 fp32 i64 i64 i32 i32 i64", registers=64)
    yield Variant(mask_kernel, CAM_BLOCKS, "i32 fp32 fp32 i64 i64 i32 i32 i64", registers=64)
    yield Variant(area_kernel, AREA_BLOCKS, "i32 i32", registers=64)
    yield Variant(pick_kernel, PICK_BLOCKS, "u8 i32 i32 i32 fp32", 40, {"given_saliency": True})
    yield Variant(pick_kernel, PICK_BLOCKS, "u8 i32 i32 i32 i32", 40, {"given_saliency": False})


def _soft_variants() -> Iterator[Variant]:
    yield Variant(soft_step_kernel, SOFT_BLOCKS, "fp32 fp32 fp32 fp32 fp32", registers=64)
    yield Variant(two_labels_kernel, TWO_LABELS, "fp32 fp32 fp32", registers=96)
    yield Variant(many_labels_kernel, SOME_LABELS, "fp32 fp32 fp32", registers=128)
    yield Variant(many_labels_kernel, MANY_LABELS, "fp32 fp32 fp32", registers=168)


def _feature_variants(name: str, dot: tl.dtype) -> Iterator[Variant]:
    three = f"{name} {name} {name}"
    for blocks, resident, registers in (
        (FEW_CHANNELS, True, 80),
        (SOME_CHANNELS, True, 144),
        (MANY_CHANNELS, False, 96),
    ):
        yield Variant(cost_kernel, blocks, three, registers, {"resident": resident, "product_type": dot})
    for to_f2 in (False, True):
        yield Variant(gradient_kernel, GRADIENT_BLOCKS, three, 112, {"to_f2": to_f2, "product_type": dot})
    yield Variant(sample_kernel, SAMPLE_BLOCKS, f"{name} {name} fp32", registers=64)
    yield Variant(scatter_kernel, SCATTER_BLOCKS, f"fp32 fp32 {name} {name} fp32", registers=104)


def compile_variant(variant: Variant, capability: int) -> Any:
    """Compile for one compute capability, such as 90; needs neither GPU nor driver."""
    return triton.compile(variant.source, target=GPUTarget("cuda", capability, 32), options=variant.blocks.options)


def resources(compiled: Any) -> Resources:
    """Read a compiled kernel with the tools that come with Triton."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run_tool("cuobjdump", "-res-usage", file.name)
        code = _run_tool("nvdisasm", "-c", file.name)
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", usage)}
    spills = len(re.findall(r"\b(?:LDL|STL)\b", code))
    return Resources(used["REG"], used["STACK"], used["LOCAL"], spills, compiled.metadata.shared)


def _run_tool(name: str, *arguments: str) -> str:
    done = subprocess.run([_TOOLS / name, *arguments], check=True, capture_output=True, text=True)  # noqa: S603 - ours
    return done.stdout
