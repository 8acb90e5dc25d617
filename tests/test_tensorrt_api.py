"""Our types of TensorRT's API, and the stand-in of the tests, beside names of the real bindings of both majors."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest

from f2f.engine.runtimes.tensorrt_api import CLASSES, ENUMERATIONS, version_numbers

REAL: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "tensorrt_api.json").read_text())
OURS = [(name, member) for name, cls in CLASSES.items() for member in sorted(vars(cls)) if not member.startswith("_")]


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def takes(overload: list[str], given: list[str]) -> bool:
    """Whether parameters of a real method can be given as these: the first ones, and the rest has defaults."""
    names = [name.removesuffix("=") for name in overload]
    return names[: len(given)] == given and all(name.endswith("=") for name in overload[len(given) :])


def test_the_table_is_of_both_majors() -> None:
    assert {version_numbers(version)[0] for version in REAL} == {10, 11}
    assert min(map(version_numbers, REAL)) >= (10, 13)
    assert len(OURS) > 20


@pytest.mark.parametrize("version", REAL)
@pytest.mark.parametrize(("cls", "member"), OURS)
def test_what_we_call_exists(version: str, cls: str, member: str) -> None:
    found = REAL[version]["classes"][cls]
    assert member in found, f"{cls}.{member} does not exist in TensorRT {version}"
    ours = vars(CLASSES[cls])[member]
    if isinstance(ours, property):
        assert found[member] is None
    else:
        assert any(takes(overload, parameters(ours)) for overload in found[member]), found[member]


@pytest.mark.parametrize("version", REAL)
def test_enumerations_and_constructors(version: str) -> None:
    for name, members in ENUMERATIONS.items():
        assert set(members) <= set(REAL[version]["enumerations"][name])
    assert REAL[version]["constructors"] == {
        "ILogger": [[]],
        "Builder": [["logger"]],
        "OnnxParser": [["network", "logger"]],
        "Runtime": [["logger"]],
    }
    severities = REAL[version]["severities"]
    assert (severities["INTERNAL_ERROR"], severities["ERROR"], severities["WARNING"]) == (0, 1, 2)


@pytest.mark.parametrize("version", REAL)
@pytest.mark.parametrize("cls", fake_tensorrt.CLASSES)
def test_the_stand_in_has_no_methods_of_its_own(version: str, cls: str) -> None:
    fake, real = fake_tensorrt.CLASSES[cls], REAL[version]["classes"][cls]
    for name, member in vars(fake).items():
        if callable(member) and not name.startswith("_"):
            assert name in real, f"{cls}.{name} is invented"
            names = [[parameter.removesuffix("=") for parameter in overload] for overload in real[name]]
            assert parameters(member) in names, (name, names)
