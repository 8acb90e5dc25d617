"""ONNX Runtime on a GPU: which provider is chosen and told, what is bound where, graphs; on the CPU's memory.

A real session of ONNX Runtime runs, with real IO binding, behind a stand-in for the GPU. Nothing here shows that the
CUDA provider does what it is asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from fake_gpu import FakeGpu, FakeQueue
from material import CLASSES, TinyNetworks, saliency_file
from onnx import helper

from f2f.engine.errors import MachineError, NetworkError, UsageError, VideoError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes import cuda, onnx_cuda, telling
from f2f.engine.runtimes.network import Network
from f2f.engine.runtimes.onnx_cuda import CUDA_PROVIDER, MOST_GRAPHS
from f2f.engine.runtimes.onnx_runtime import CPU_PROVIDER, open_session
from f2f.engine.runtimes.open import open_network

AUTO = RuntimeOptions(threads=1)
FORCED = RuntimeOptions(threads=1, runtime="onnxruntime-cuda")
CPU = RuntimeOptions(threads=1, runtime="onnxruntime-cpu")


class Session:
    """A session on the CPU that says it runs on a GPU."""

    def __init__(self, real: Any, machine: Machine) -> None:
        self._real, self._machine = real, machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return self._machine.providers

    def io_binding(self) -> Any:
        return Binding(self._real.io_binding(), self._machine)

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        self._machine.gpu.record("run", options.get_run_config_entry("gpu_graph_id") if self._machine.graphs else "")
        if self._machine.failure is not None and self._machine.fails():
            raise self._machine.failure
        self._real.run_with_iobinding(binding.real, options)
        if self._machine.drift:
            binding.spoil(self._machine.drift)


class Binding:
    """IO binding that records addresses."""

    def __init__(self, real: Any, machine: Machine) -> None:
        self.real, self._machine = real, machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def bind_input(self, name: str, *place: Any) -> None:
        self._machine.gpu.record("input", name, place[0], place[3], place[4])
        self.real.bind_input(name, *place)

    def bind_output(self, name: str, *place: Any) -> None:
        self._machine.gpu.record("output", name, place[0], place[4] if len(place) > 2 else None)
        self.real.bind_output(name, *place)

    def spoil(self, drift: float) -> None:
        for output in self.real.get_outputs():
            output.numpy()[...] += drift


class Machine:
    """A machine with a GPU, and what is wrong with it."""

    def __init__(self) -> None:
        self.gpu = FakeGpu()
        self.providers = [CUDA_PROVIDER, CPU_PROVIDER]
        self.asked: list[dict[str, str]] = []
        self.graphs = False
        self.refuses_graphs = False
        self.drift = 0.0
        self.failure: Exception | None = None
        self.fails: Callable[[], bool] = lambda: True

    def open_session(self, ort: Any, model: Any, name: str, threads: int, providers: Any) -> Session:
        (provider, options), rest = providers
        assert (provider, rest) == (CUDA_PROVIDER, CPU_PROVIDER)
        self.asked.append(options)
        self.graphs = options["enable_cuda_graph"] == "1"
        if self.graphs and self.refuses_graphs:
            raise NetworkError("This session cannot use the CUDA Graph feature as requested by the user")
        return Session(open_session(ort, model, name, threads), self)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    telling.tell_once.cache_clear()
    monkeypatch.setattr(cuda, "open_queue", lambda: FakeQueue(made.gpu))
    monkeypatch.setattr(cuda, "gpu_obstacle", lambda: "")
    monkeypatch.setattr(onnx_cuda, "open_session", made.open_session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    return made


def opened(networks: TinyNetworks, options: RuntimeOptions = AUTO) -> Network:
    return open_network(str(networks.classifier), "classifier", options)


def assert_same(network: Network, networks: TinyNetworks, batch: torch.Tensor) -> None:
    for given, wanted in zip(network(batch), opened(networks, CPU)(batch), strict=True):
        assert torch.allclose(given, wanted, atol=1e-5)


# ---- the choice


@pytest.mark.parametrize("options", [AUTO, FORCED, RuntimeOptions(threads=1, runtime="onnxruntime")])
def test_the_gpu_is_used_where_there_is_one(networks: TinyNetworks, machine: Machine, options: RuntimeOptions) -> None:
    network = opened(networks, options)
    assert network.info.runtime == f"onnxruntime {onnxruntime.__version__} CUDA Fake GPU (9.0)"
    assert network.info.classes == CLASSES
    assert machine.asked == [
        {
            "device_id": "0",
            "user_compute_stream": "4711",
            "use_tf32": "0",
            "cudnn_conv_algo_search": "HEURISTIC",
            "enable_cuda_graph": "1",
        }
    ]


def test_the_cpu_is_used_where_it_is_asked_for(networks: TinyNetworks, machine: Machine) -> None:
    assert opened(networks, CPU).info.runtime == f"onnxruntime {onnxruntime.__version__} CPU"
    assert machine.asked == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_said(networks: TinyNetworks, caplog: pytest.LogCaptureFixture) -> None:
    telling.tell_once.cache_clear()
    with caplog.at_level(logging.INFO):
        assert opened(networks).info.runtime == f"onnxruntime {onnxruntime.__version__} CPU"
    assert caplog.messages == []
    with pytest.raises(UsageError, match="--runtime onnxruntime-cuda cannot be met: torch sees no NVIDIA GPU"):
        opened(networks, FORCED)


def _without_provider(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(onnxruntime, "get_available_providers", lambda: [CPU_PROVIDER])


def _dropped_provider(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    machine.providers = [CPU_PROVIDER]


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (_without_provider, "is built for the CPU alone; install f2f[gpu] instead of f2f[cpu]"),
        (_dropped_provider, "its CUDA provider does not load; install the CUDA and cuDNN that it was built for"),
    ],
)
def test_a_provider_that_is_missing_is_told_once_and_pinned(
    networks: TinyNetworks,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[Machine, pytest.MonkeyPatch], None],
    why: str,
) -> None:
    trouble(machine, monkeypatch)
    for _ in range(2):
        assert opened(networks).info.runtime == f"onnxruntime {onnxruntime.__version__} CPU"
    (message,) = caplog.messages
    assert message.startswith("networks run on the CPU although there is a GPU: ")
    assert why in message
    with pytest.raises(UsageError, match="--runtime onnxruntime-cuda cannot be met"):
        opened(networks, FORCED)


def test_drift_means_the_cpu(networks: TinyNetworks, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.drift = 0.01
    assert opened(networks).info.runtime.endswith(" CPU")
    assert "gives another scores than ONNX Runtime on the CPU" in caplog.text
    with pytest.raises(NetworkError, match="it is not used"):
        opened(networks, FORCED)


def pooled(path: Path, size_px: int) -> Path:
    """A saliency network that refuses frames below a size."""
    model = onnx.load(saliency_file(path))
    model.graph.node[0].output[0] = "red"
    model.graph.node.append(helper.make_node("AveragePool", ["red"], ["saliency"], kernel_shape=[size_px] * 2))
    onnx.save(model, path)
    return path


def test_a_network_that_refuses_small_frames_is_checked_on_larger_ones(machine: Machine, tmp_path: Path) -> None:
    network = open_network(str(pooled(tmp_path / "150.onnx", 150)), "saliency", FORCED)
    assert network(torch.rand(1, 3, 160, 170))[0].shape == (1, 1, 11, 21)
    with pytest.raises(NetworkError, match=r"cannot be checked: .* refuses inputs of \(2, 3, 96, 128\) and larger"):
        open_network(str(pooled(tmp_path / "900.onnx", 900)), "saliency", FORCED)


def test_a_file_that_is_no_network_is_named(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(NetworkError, match=r"x\.onnx cannot be opened as ONNX"):
        open_network(str(tmp_path / "x.onnx"), "classifier", AUTO)


# ---- binding


def test_it_gives_what_the_cpu_gives(networks: TinyNetworks, machine: Machine) -> None:
    network = opened(networks)
    batches = [torch.rand(count, 3, 64, width) for width in (64, 80, 128) for count in (1, 3)]
    for _ in range(3):
        for batch in (*batches, *batches[::-1]):
            assert_same(network, networks, batch)
    flow = open_network(str(networks.flow), "flow", AUTO)
    assert torch.equal(flow(torch.rand(2, 3, 3, 40, 48))[0], torch.zeros(2, 2, 2, 40, 48))


def test_batches_of_any_layout(networks: TinyNetworks, machine: Machine) -> None:
    network = opened(networks)
    batch = torch.rand(2, 64, 80, 3).permute(0, 3, 1, 2)
    assert not batch.is_contiguous()
    for _ in range(4):
        assert_same(network, networks, batch)


def test_without_graphs_nothing_is_copied(networks: TinyNetworks, machine: Machine) -> None:
    machine.refuses_graphs = True
    network = opened(networks)
    batch = torch.rand(2, 3, 64, 64)
    network(batch)
    machine.gpu.calls.clear()
    scores, cam = network(batch)
    assert machine.gpu.calls == [
        ("begin",),
        ("input", "image", "cpu", (2, 3, 64, 64), batch.data_ptr()),
        ("output", "scores", "cpu", scores.data_ptr()),
        ("output", "cam", "cpu", cam.data_ptr()),
        ("run", ""),
        ("give",),
        ("end",),
    ]
    assert_same(network, networks, batch)
    assert [asked["enable_cuda_graph"] for asked in machine.asked] == ["1", "0"]


def test_a_shape_is_captured_when_it_comes_again(networks: TinyNetworks, machine: Machine) -> None:
    network = opened(networks)
    runs: list[list[str]] = []
    beginnings: list[str] = []
    for _ in range(3):
        machine.gpu.calls.clear()
        network(torch.rand(1, 3, 64, 96))
        runs.append([call[1] for call in machine.gpu.calls if call[0] == "run"])
        beginnings.append(machine.gpu.last_beginning)
    assert beginnings == ["begin", "begin alone", "begin"]
    assert runs[0] == ["-1", "-1"]  # sizes of the outputs, then into memory of ours
    assert runs[1] == runs[2]
    assert len(runs[1]) == 1
    assert int(runs[1][0]) > 0
    other = torch.rand(1, 3, 64, 104)
    for _ in range(2):
        network(other)
    last = machine.gpu.calls[-3]
    assert last[0] == "run"
    assert last[1] not in runs[1]


def test_graphs_have_an_end(networks: TinyNetworks, machine: Machine) -> None:
    network = opened(networks)
    batches = [torch.rand(1, 3, 64, 40 + 8 * number) for number in range(MOST_GRAPHS + 3)]
    for _ in range(3):
        for batch in batches:
            assert_same(network, networks, batch)
    numbers = {call[1] for call in machine.gpu.calls if call[0] == "run"} - {"-1"}
    assert numbers == {str(number) for number in range(1, MOST_GRAPHS + 1)}


def test_an_output_is_not_written_to_by_the_next_call(networks: TinyNetworks, machine: Machine) -> None:
    network = opened(networks)
    for _ in range(3):
        first = network(torch.zeros(1, 3, 64, 64))
        kept = [output.clone() for output in first]
        network(torch.rand(1, 3, 64, 64))
        assert all(torch.equal(one, other) for one, other in zip(first, kept, strict=True))


def test_threads_take_turns(networks: TinyNetworks, machine: Machine) -> None:
    network, plain = opened(networks), opened(networks, CPU)
    batches = [torch.rand(1, 3, 64, 64) for _ in range(4)]
    wanted = [plain(batch)[1] for batch in batches]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not torch.allclose(network(batches[number])[1], wanted[number], atol=1e-5):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_another_thread_captures_anew_and_alone(networks: TinyNetworks, machine: Machine) -> None:
    network, batch = opened(networks), torch.rand(1, 3, 64, 64)
    for _ in range(3):
        network(batch)
    machine.gpu.calls.clear()
    thread = threading.Thread(target=network, args=(batch,))
    thread.start()
    thread.join()
    assert machine.gpu.last_beginning == "begin alone"


def test_a_capture_that_fails_ends_captures_and_costs_no_input(networks: TinyNetworks, machine: Machine) -> None:
    network, batch = opened(networks), torch.rand(1, 3, 64, 64)
    network(batch)
    machine.failure = RuntimeError("CUDA failure 901: operation failed due to a previous error during capture")
    machine.fails = lambda: machine.gpu.calls[-1] != ("run", "-1")
    machine.gpu.calls.clear()
    for _ in range(3):
        assert_same(network, networks, batch)
    assert sum(call[0] == "run" and call[1] != "-1" for call in machine.gpu.calls) == 1
    assert machine.gpu.last_beginning == "begin"


def test_turns() -> None:
    """Work together waits for who waits to be alone."""
    turns, order = cuda.Turns(), list[str]()

    def work(name: str, alone: bool) -> None:
        with turns.taken(alone=alone):
            order.append(name)

    with turns.taken(alone=False), turns.taken(alone=False):
        first = threading.Thread(target=work, args=("alone", True))
        first.start()
        while not turns._waiting:
            time.sleep(0.001)
        second = threading.Thread(target=work, args=("together", False))
        second.start()
        order.append("begun")
    first.join()
    second.join()
    assert order == ["begun", "alone", "together"]


# ---- errors


def test_input_that_the_network_refuses(networks: TinyNetworks, machine: Machine) -> None:
    network = opened(networks)
    with pytest.raises(VideoError, match="the classifier network refused a 1x5x16x16 input"):
        network(torch.zeros(1, 5, 16, 16))
    assert_same(network, networks, torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_a_gpu_that_fails_stops_the_run(networks: TinyNetworks, machine: Machine, failure: Exception) -> None:
    network = opened(networks)
    machine.failure = failure
    with pytest.raises(
        MachineError, match=r"the GPU (failed|has no memory left) .*run the same command again to go on"
    ):
        network(torch.rand(1, 3, 64, 64))


def test_graphs_that_fail_when_they_run_are_done_without(networks: TinyNetworks, machine: Machine) -> None:
    machine.failure = RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
    machine.fails = lambda: machine.graphs
    network = opened(networks)
    assert network.info.runtime.endswith("Fake GPU (9.0)")
    assert machine.asked[-1]["enable_cuda_graph"] == "0"
