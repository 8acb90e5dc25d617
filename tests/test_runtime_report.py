"""What doctor says of the runtimes.

On a stand-in for TensorRT and its GPU. Nothing here shows that TensorRT itself does what it is asked for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import onnxruntime
import pytest
import torch
from fake_gpu import FakeGpu, install_gpu
from fake_tensorrt import FakeTensorRT, install_tensorrt

from f2f.engine.cli import main
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes import cpu_choice
from f2f.engine.runtimes.report import RuntimeState, runtime_report


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return install_gpu(monkeypatch)


@pytest.fixture
def trt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install_tensorrt(gpu, monkeypatch)


def states() -> dict[str, RuntimeState]:
    return {state.name: state for state in runtime_report()}


@pytest.fixture(autouse=True)
def onnxruntime_is_quickest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu_choice, "_gain", lambda *_: 1.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_report_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = states()
    assert set(found) | {"auto", "onnxruntime"} == set(get_args(get_type_hints(RuntimeOptions)["runtime"]))
    assert [name for name, state in found.items() if state.works] == ["onnxruntime-cpu", "openvino", "torch"]
    assert {state.chosen: name for name, state in found.items() if state.chosen} == {
        ".onnx": "onnxruntime-cpu",
        ".pt2": "torch",
    }
    assert "torch sees no NVIDIA GPU" in found["onnxruntime-cuda"].why
    assert "install f2f[gpu]" in found["tensorrt"].why


def test_report_with_a_gpu_that_onnx_runtime_does_not_use(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    found = states()
    assert found["tensorrt"].works
    assert found["tensorrt"].chosen == ".engine"
    assert not found["onnxruntime-cuda"].works
    assert "is built for the CPU alone; install f2f[gpu]" in found["onnxruntime-cuda"].why
    assert found["onnxruntime-cpu"].chosen == ".onnx"


def test_report_without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = states()
    assert (found["onnxruntime-cpu"].works, found["onnxruntime-cpu"].version) == (False, "")
    assert "install f2f[cpu]" in found["onnxruntime-cpu"].why


def test_doctor_prints_the_runtimes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "runtimes of networks" in printed
    assert "install f2f[gpu]" in printed
    assert main(["doctor", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["network_runtimes"]] == [*states()]
