"""The installed package: nothing of it is importable by a folder's bare name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points, files, requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["kernels", "engine", "training", "csrc", "benchmarks"])
def test_no_folder_becomes_a_top_level_package(name: str, tmp_path: Path) -> None:
    """A package named `kernels` would stand in the way of others of that name."""
    script = f"from importlib.util import find_spec; print(find_spec({name!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert str(ROOT) not in done.stdout


def test_only_f2f_is_installed() -> None:
    installed = files("f2f")
    assert installed is not None
    tops = {path.parts[0] for path in installed if path.suffix == ".py" and path.parts[0] != ".."}
    assert all(top == "f2f" or top.startswith("__editable__") for top in tops)


def test_metadata() -> None:
    assert version("f2f")
    (script,) = [point for point in entry_points(group="console_scripts") if point.name == "f2f"]
    assert script.value == "f2f.engine.cli:main"
    needed = requires("f2f") or []
    assert not any("onnxruntime" in line and "extra" not in line for line in needed), "a runtime is the user's choice"


@pytest.mark.parametrize("package", ["f2f.engine", "f2f.kernels", "f2f.training"])
def test_types_are_shipped(package: str) -> None:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert (Path(spec.origin).parent / "py.typed").is_file()
