"""What the packages offer: every public name resolves, and importing a package imports nothing heavy."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("f2f.engine", "f2f.kernels", "f2f.training")
HEAVY = ("torch", "onnx", "onnxruntime", "pyarrow", "cv2", "lightning")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_resolves(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense


@pytest.mark.parametrize(
    "module",
    [
        *PACKAGES,
        "f2f.training.segmentation",
        "f2f.engine.decode",
        "f2f.engine.pool",
        "f2f.engine.cli",
        "f2f.engine.options",
    ],
)
def test_importing_is_light(module: str) -> None:
    script = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_documented_call() -> None:
    from f2f.engine import LabelOptions, label

    assert callable(label)
    assert LabelOptions.__name__ == "LabelOptions"
