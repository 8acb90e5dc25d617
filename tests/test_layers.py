"""Imports run one way: csrc <- kernels <- engine <- training, and never in a circle, not even inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("kernels", "engine", "training")  # each may import itself and what stands before it


def modules() -> dict[str, Path]:
    """Every module of the package by its import path."""
    found = {}
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(["f2f", *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Modules of f2f that a file imports anywhere, also inside functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def own_imports(name: str) -> set[str]:
    return {target for target in imports(MODULES[name]) if target.split(".")[0] == "f2f"} - {name}


def layer_of(name: str) -> int:
    return LAYERS.index(name.split(".")[1])


def test_there_is_something_to_check() -> None:
    assert {"f2f.kernels", "f2f.engine.decode", "f2f.training"} <= MODULES.keys()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name: str) -> None:
    for target in own_imports(name):
        assert target in MODULES or target == "f2f.kernels._C", f"{name} imports {target}, which does not exist"
        assert layer_of(target) <= layer_of(name), f"{name} imports {target}"


@pytest.mark.parametrize(
    "layer",
    [
        "kernels",
        "engine",
        "training",
    ],
)
def test_no_circles(layer: str) -> None:
    """Packages' own `__init__` files are left out: they hand out names lazily."""
    names = {name for name in MODULES if name.startswith(f"f2f.{layer}.")}
    graph = {name: own_imports(name) & names for name in names}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*above, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_engine_defines_no_network() -> None:
    """Networks are exported artefacts; the engine only runs them."""
    for name, path in MODULES.items():
        if layer_of(name) == LAYERS.index("engine"):
            assert "nn.Module" not in path.read_text(encoding="utf-8"), name
