"""What this installation can do: versions, devices, runtimes, and which version of every kernel runs where."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2f.engine.machine import MachineState, lines, look_at_machine

if TYPE_CHECKING:
    from f2f.engine.runtimes.report import RuntimeState

PACKAGES = (
    "f2f",
    "torch",
    "triton",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "opencv-python-headless",
    "av",
)


@dataclass(frozen=True)
class Checkup:
    """The findings; `as_table` prints them, `dataclasses.asdict` gives them to programs."""

    versions: dict[str, str]
    """package -> version, "not installed" where it is not"""
    cuda_devices: list[str]
    """names of the CUDA devices torch sees"""
    runtimes: list[str]
    """ONNX Runtime's execution providers"""
    network_runtimes: list[RuntimeState]
    """what can run networks here, and what would"""
    machine: MachineState
    """FFmpeg's build, room on disks, limits"""
    kernels: dict[str, dict[str, str]]
    """device type -> operator -> the version that runs: cpp, triton, torch"""
    kernel_obstacles: dict[str, dict[str, str]]
    """device type -> version -> why it cannot serve that device"""
    cpu_isa: str
    """instruction set of the C++ kernels; empty where they do not load"""
    cpu_isas: list[str]
    """those F2F_CPU_ISA may name here, best first"""
    environment: dict[str, str]
    """f2f's switches that are set"""

    def print_table(self, console: Console) -> None:
        """Print for a person."""
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, found in self.versions.items():
            table.add_row(name, found)
        table.add_row("CUDA devices", ", ".join(self.cuda_devices) or "none")
        table.add_row("ONNX Runtime", ", ".join(self.runtimes) or "none: install f2f[cpu] or f2f[gpu]")
        table.add_row("C++ kernels", f"{self.cpu_isa} (of {', '.join(self.cpu_isas)})" if self.cpu_isa else "none")
        for name, value in self.environment.items():
            table.add_row(name, value)
        console.print(table)
        print_runtimes(self.network_runtimes, console)
        for line in lines(self.machine):
            console.print(escape(line), soft_wrap=True)
        for device, operators in self.kernels.items():
            console.print(_kernel_table(device, operators))
            for kernel, obstacle in self.kernel_obstacles[device].items():
                console.print(f"  no {kernel} on {device}: {obstacle}", style="dim", soft_wrap=True)


def check_up() -> Checkup:
    """Look at this installation. Raises ValueError where F2F_KERNELS or F2F_CPU_ISA cannot be met."""
    import torch

    from f2f.engine.runtimes.report import runtime_report
    from f2f.kernels import backend_in_use
    from f2f.kernels.dispatch import obstacles
    from f2f.kernels.native import isa_in_use, load_error, usable_isas

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    kinds = ["cpu", "cuda"] if devices else ["cpu"]
    loaded = load_error() is None
    return Checkup(
        versions={"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        cuda_devices=devices,
        runtimes=_onnx_providers(),
        network_runtimes=runtime_report(),
        machine=look_at_machine(),
        kernels={kind: backend_in_use(kind) for kind in kinds},
        kernel_obstacles={kind: {name: why for name, why in obstacles(kind).items() if why} for kind in kinds},
        cpu_isa=isa_in_use() if loaded else "",
        cpu_isas=usable_isas() if loaded else [],
        environment={name: value for name, value in sorted(os.environ.items()) if name.startswith("F2F_")},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _onnx_providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def print_runtimes(runtimes: list[RuntimeState], console: Console) -> None:
    """A line per runtime: whether it works, what it is chosen for, and why."""
    table = Table(title="runtimes of networks", title_justify="left", box=None, show_header=False, pad_edge=False)
    for one in runtimes:
        chosen = f"runs {one.chosen}" if one.chosen else ""
        table.add_row(f"  {one.name}", one.version, "works" if one.works else "no", chosen, escape(one.why))
    console.print(table)


def _kernel_table(device: str, operators: dict[str, str]) -> Table:
    table = Table(title=f"kernels on {device}", title_justify="left", box=None, show_header=False, pad_edge=False)
    for operator, kernel in operators.items():
        table.add_row(f"  {operator}", kernel)
    return table
