"""Which folder is which package, and the C++ extension; everything else is in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

FOLDERS = {"f2f.engine": "engine", "f2f.kernels": "kernels", "f2f.training": "training"}


def packages() -> list[str]:
    """Every package below the three folders: import path = `f2f.` + file path."""
    return sorted(
        ".".join(["f2f", *init.parent.parts])
        for folder in FOLDERS.values()
        for init in Path(folder).rglob("__init__.py")
    )


ParallelCompile("F2F_BUILD_JOBS", default=0).install()  # 0: one job per core

setup(
    packages=packages(),
    package_dir=FOLDERS,
    package_data={
        "f2f.engine": ["py.typed", "networks/*.onnx"],
        "f2f.kernels": ["py.typed"],
        "f2f.training": ["py.typed", "networks/*.safetensors"],
        "f2f.training.recipes": ["*.toml"],
    },
    ext_modules=[
        Pybind11Extension(
            "f2f.kernels._C",
            sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            include_dirs=["csrc"],
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            cxx_std=20,
            # No fused multiply-add: results must be the same bits as the reference.
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"],
        )
    ],
)
