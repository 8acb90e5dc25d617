"""Running networks: both runtimes give the same, a broken contract is named, code is trusted only where it was made."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import get_args, get_type_hints

import onnxruntime
import pytest
import torch
from material import CLASSES, POOL_PX, TinyNetworks, classifier_file, flow_file, saliency_file
from torch import Tensor, nn

from f2f.engine.errors import NetworkError, UsageError, VideoError
from f2f.engine.options import RuntimeOptions, TorchOptions
from f2f.engine.runtimes.network import CONTRACTS, Kind, Network
from f2f.engine.runtimes.open import AUTOMATIC, RUNTIMES, bundled, open_network
from f2f.engine.runtimes.trial import relative_difference, trial_input
from f2f.engine.runtimes.trust import is_ours, sign

RUNTIME = RuntimeOptions(threads=1)
METADATA = {"f2f.kind": "classifier", "f2f.classes": json.dumps(CLASSES)}


class TinyClassifier(nn.Module):
    """The same network as the hand-made ONNX one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("contrast", (1.5 * torch.eye(3) - 0.5).view(3, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        cam = nn.functional.avg_pool2d(nn.functional.conv2d(image, self.get_buffer("contrast")), POOL_PX, POOL_PX)
        return torch.sigmoid(30 * (cam.amax((2, 3)) - 0.25)), cam


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A .pt2 file that nobody has signed."""
    size = torch.export.Dim("height", min=2, max=64), torch.export.Dim("width", min=2, max=64)
    shapes = {"image": {0: torch.export.Dim("batch", min=1, max=64), 2: POOL_PX * size[0], 3: POOL_PX * size[1]}}
    exported = torch.export.export(TinyClassifier(), (torch.zeros(2, 3, 32, 48),), dynamic_shapes=shapes)
    path = tmp_path / "classifier.pt2"
    torch.export.save(exported, path, extra_files={"f2f.json": json.dumps(METADATA)})
    return path


def opened(path: Path, options: RuntimeOptions = RUNTIME) -> Network:
    return open_network(str(path), "classifier", options)


def test_both_runtimes_give_the_same(networks: TinyNetworks, program: Path) -> None:
    sign(program)
    onnx, torch_ = opened(networks.classifier), opened(program)
    assert onnx.info.classes == torch_.info.classes == CLASSES
    assert onnx.info.runtime.startswith("onnxruntime ")
    assert torch_.info.runtime.startswith("torch ")
    assert onnx.info.fingerprint != torch_.info.fingerprint
    for shape in ((1, 3, 32, 48), (5, 3, 64, 16)):
        batch = torch.rand(shape)
        for one, other in zip(onnx(batch), torch_(batch), strict=True):
            assert torch.allclose(one, other, atol=1e-5)


# ---- forms of a program


@pytest.mark.parametrize(
    ("options", "words", "most"),
    [
        (TorchOptions(torch_precision="bfloat16"), "bfloat16", 3e-2),
        (TorchOptions(torch_compile=True), "compiled", 1e-5),
    ],
)
def test_a_program_in_another_form(program: Path, options: TorchOptions, words: str, most: float) -> None:
    sign(program)
    plain, other = opened(program), opened(program, RuntimeOptions(threads=1, torch=options))
    assert other.info.runtime == f"{plain.info.runtime} {words}"
    for shape in ((2, 3, 32, 48), (3, 3, 64, 16)):
        batch = trial_input(shape)
        for one, given in zip(plain(batch), other(batch), strict=True):
            assert given.dtype == torch.float32
            assert relative_difference(one, given) <= most


def test_a_form_that_gives_other_numbers_is_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sign(program)
    monkeypatch.setattr("f2f.engine.runtimes.torch_export.REDUCED_TOLERANCE", 1e-9)
    with pytest.raises(
        NetworkError, match=r"bfloat16 gives another .* accepted: 1e-09; .* give --torch-precision float32"
    ):
        opened(program, RuntimeOptions(torch=TorchOptions(torch_precision="bfloat16")))


def test_a_form_that_fails_is_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(*_: object, **__: object) -> object:
        raise RuntimeError("no compiler")

    sign(program)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: compile_)
    with pytest.raises(
        NetworkError, match=r"compiled does not do what the plain program on the CPU does: .*no compiler"
    ):
        opened(program, RuntimeOptions(torch=TorchOptions(torch_compile=True)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_fails_leaves_the_cpu(
    program: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a GPU, one is claimed: moving the program there is what fails."""
    sign(program)
    monkeypatch.setattr("f2f.engine.runtimes.cuda.gpu_obstacle", lambda: "")
    monkeypatch.setattr("f2f.engine.runtimes.cuda.gpu_name", lambda *_: "Fake GPU (9.0)")
    assert opened(program).info.runtime.endswith("CPU")
    assert "networks run on the CPU although there is a GPU" in caplog.text


# ---- trust


def test_code_from_elsewhere_is_refused(program: Path) -> None:
    with pytest.raises(UsageError, match=r"classifier\.pt2 is code .* --trust-code"):
        opened(program)


def test_code_from_elsewhere_is_loaded_on_demand(program: Path) -> None:
    assert opened(program, RuntimeOptions(threads=1, trust_code=True)).info.classes == CLASSES


def test_own_code_that_was_changed_is_refused(program: Path) -> None:
    sign(program)
    assert is_ours(program)
    program.write_bytes(program.read_bytes() + b"\0")
    assert not is_ours(program)
    with pytest.raises(UsageError, match="--trust-code"):
        opened(program)


def test_code_of_another_installation_is_refused(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(program)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    assert not is_ours(program)


def test_the_key_is_its_owners(program: Path, tmp_path: Path) -> None:
    sign(program)
    key = tmp_path / "data" / "f2f" / "signing-key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32


def test_a_key_that_was_cut_off_signs_nothing(program: Path, tmp_path: Path) -> None:
    """An empty key is one that everybody knows."""
    sign(program)
    key = tmp_path / "data" / "f2f" / "signing-key"
    key.write_bytes(b"")
    for use in (sign, is_ours):
        with pytest.raises(UsageError, match=r"signing-key is no signing key \(0 bytes; accepted: 32\)"):
            use(program)


# ---- choice of a runtime


def test_forced_runtime(networks: TinyNetworks, program: Path) -> None:
    assert opened(networks.classifier, RuntimeOptions(threads=1, runtime="onnxruntime")).info.classes == CLASSES
    with pytest.raises(UsageError, match=r"--runtime torch cannot run classifier\.onnx; accepted for \.onnx"):
        opened(networks.classifier, RuntimeOptions(runtime="torch"))
    with pytest.raises(UsageError, match=r"--runtime onnxruntime cannot run classifier\.pt2"):
        opened(program, RuntimeOptions(runtime="onnxruntime"))
    with pytest.raises(
        UsageError, match=r"--runtime tensorrt cannot run classifier\.pt2; accepted for \.pt2: auto, torch;"
    ):
        opened(program, RuntimeOptions(runtime="tensorrt"))


def test_every_value_of_the_option_is_a_runtime_and_every_form_has_one() -> None:
    values = get_args(get_type_hints(RuntimeOptions)["runtime"])
    assert set(values) == {"auto", *RUNTIMES}
    assert sorted(AUTOMATIC) == [".engine", ".onnx", ".pt2"]
    for runtime in (*RUNTIMES.values(), *AUTOMATIC.values()):
        module, function = runtime.opener.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_environment_says_what_auto_is(networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("F2F_ONNX_RUNTIME", "openvino")
    assert opened(networks.classifier).info.runtime.startswith("openvino")
    assert opened(networks.classifier, RuntimeOptions(runtime="onnxruntime-cpu")).info.runtime.startswith("onnxruntime")
    monkeypatch.setenv("F2F_ONNX_RUNTIME", "abacus")
    with pytest.raises(
        UsageError, match=r"F2F_ONNX_RUNTIME abacus cannot run classifier\.onnx; accepted for \.onnx: auto"
    ):
        opened(networks.classifier)


@pytest.mark.parametrize("size_hw", [(97, 131), (75, 101)])
@pytest.mark.parametrize("kind", ["classifier", "flow"])
def test_bundled_networks_give_the_same_bits_wherever_in_a_batch(kind: Kind, size_hw: tuple[int, int]) -> None:
    """Else which frames meet in a batch, which is chance, would show in a run's records."""
    network = open_network(str(bundled(kind)), kind, RuntimeOptions(threads=2, runtime="onnxruntime-cpu"))
    frames = (3, *size_hw) if kind == "classifier" else (3, 3, *size_hw)
    batch = trial_input((5, *frames))
    together = network(batch)
    for parts in ([1, 1, 1, 1, 1], [2, 3], [3, 2]):
        apart = [torch.cat(pieces) for pieces in zip(*map(network, torch.split(batch, parts)), strict=True)]
        assert all(torch.equal(one, other) for one, other in zip(apart, together, strict=True))


def test_onnx_on_the_cpu_is_what_it_was(networks: TinyNetworks) -> None:
    """`auto` without a GPU, and forced, give the bytes of a plain session."""
    batch = torch.rand(2, 3, 40, 56)
    session = onnxruntime.InferenceSession(networks.classifier, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"image": batch.numpy()})
    for runtime in (
        ("auto", "onnxruntime", "onnxruntime-cpu") if not torch.cuda.is_available() else ("onnxruntime-cpu",)
    ):
        network = opened(networks.classifier, RuntimeOptions(threads=1, runtime=runtime))
        assert network.info.runtime == f"onnxruntime {onnxruntime.__version__} CPU"
        for given, expected in zip(network(batch), wanted, strict=True):
            assert given.numpy().tobytes() == expected.tobytes()


def test_no_runtime_installed(networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"install f2f\[cpu\]"):
        opened(networks.classifier)


# ---- contracts


@pytest.mark.parametrize("name", ["missing.onnx", "missing.pt2"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        opened(tmp_path / name)


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2"])
def test_broken_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(NetworkError, match=name):
        opened(tmp_path / name, RuntimeOptions(threads=1, trust_code=True))


def test_other_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.pth").touch()
    with pytest.raises(UsageError, match=r"is not a network; accepted: \.onnx, \.pt2, \.engine files"):
        opened(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"f2f.kind": "flow"}, "is a flow network; --classifier accepts a classifier network"),
        ({"f2f.classes": "[]"}, "0 classes"),
        ({"f2f.classes": '["a", "b", "a"]'}, "names a class twice"),
        ({"f2f.classes": "red"}, "metadata that cannot be read"),
        ({"f2f.size_multiple": "0"}, "size_multiple is 0"),
        ({"f2f.size_multiple": "many"}, "metadata that cannot be read"),
        ({"f2f.defaults": "[0.9]"}, "metadata that cannot be read"),
        ({"f2f.defaults": '{"tau": "high"}'}, "metadata that cannot be read"),
    ],
)
def test_metadata(tmp_path: Path, change: dict[str, str], words: str) -> None:
    path = classifier_file(tmp_path / "x.onnx", {**METADATA, **change})
    with pytest.raises(NetworkError, match=words):
        opened(path)


def test_metadata_of_a_program(program: Path, tmp_path: Path) -> None:
    for content in ("", "{", "[]"):
        exported = torch.export.load(program)
        path = tmp_path / "other.pt2"
        torch.export.save(exported, path, extra_files={"f2f.json": content})
        with pytest.raises(NetworkError, match=r"other\.pt2"):
            opened(path, RuntimeOptions(threads=1, trust_code=True))


@pytest.mark.parametrize("kind", ["classifier", "flow", "saliency"])
def test_tensors(tmp_path: Path, kind: str) -> None:
    """A file that says it is of a kind but has the tensors of another one."""
    metadata = {"f2f.kind": kind, "f2f.classes": '["a"]'}
    make = flow_file if kind != "flow" else saliency_file
    path = make(tmp_path / "x.onnx", metadata)
    with pytest.raises(NetworkError, match=CONTRACTS[kind].input):
        open_network(str(path), kind, RUNTIME)  # type: ignore[arg-type]


def test_input_that_the_network_refuses(networks: TinyNetworks, program: Path) -> None:
    sign(program)
    for network in (opened(networks.classifier), opened(program)):
        with pytest.raises(VideoError, match="the classifier network refused a 1x5x16x16 input") as failed:
            network(torch.zeros(1, 5, 16, 16))
        assert failed.value.reason == "network_failed"
