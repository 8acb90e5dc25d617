"""Which version runs, what is refused, and how the package is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import f2f.kernels
from f2f.kernels import (
    activate_cams,
    backend_in_use,
    compose_labels,
    dispatch,
    minimum_barrier,
    native,
    pack_planes,
    reference,
    unpack_planes,
    warp_union,
)

BITS, FLOW = torch.zeros(1, 3, 1, 4, 5, dtype=torch.int32), torch.zeros(1, 2, 2, 4, 5)
CAM, CLASSES = torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, dtype=torch.int64)


@pytest.fixture
def no_extension(monkeypatch: pytest.MonkeyPatch) -> ImportError:
    """As if the extension had not been built."""
    cause = ImportError("libnothing.so: cannot open shared object file")
    monkeypatch.setattr(native, "_load", lambda: cause)
    dispatch._choose.cache_clear()
    monkeypatch.setattr(dispatch, "_choose", dispatch._choose.__wrapped__)
    return cause


@pytest.fixture(autouse=True)
def unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.ENVIRONMENT, raising=False)


# Import


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, f2f.kernels as k; assert 'warp_union' in dir(k); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_resolve() -> None:
    assert dir(f2f.kernels) == sorted(f2f.kernels.__all__)
    for name in f2f.kernels.__all__:
        assert callable(getattr(f2f.kernels, name))
    with pytest.raises(AttributeError, match="no attribute 'warp_onion'; it has activate_cams"):
        _ = f2f.kernels.warp_onion


# Choice


def test_the_best_version_is_chosen() -> None:
    assert native.load_error() is None
    in_use = backend_in_use()
    assert set(in_use.values()) == {"cpp"}
    assert set(in_use) == set(f2f.kernels.__all__) - {"backend_in_use", "pack_planes", "unpack_planes"}
    assert backend_in_use("cuda") == dict.fromkeys(in_use, "triton") | {"minimum_barrier": "torch"}
    assert set(backend_in_use("mps").values()) == {"torch"}


@pytest.mark.parametrize("forced", ["torch", "cpp"])
def test_a_version_can_be_forced(monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv(dispatch.ENVIRONMENT, forced)
    assert backend_in_use()["warp_union"] == backend_in_use()["minimum_barrier"] == forced
    for value, module in enumerate([reference, native]):
        monkeypatch.setattr(module, "warp_union", lambda bits, *_, value=value, **__: bits[:, 0] + value)
    assert int(warp_union(BITS, FLOW).max()) == ["torch", "cpp"].index(forced)


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ("triton", r"F2F_KERNELS=triton cannot be met \(the Triton versions serve CUDA.*\); accepted here: cpp, torch"),
        ("cuda", r"F2F_KERNELS=cuda cannot be met \(there is no such version\); accepted here: cpp, torch; unset"),
    ],
)
def test_an_impossible_version_raises(monkeypatch: pytest.MonkeyPatch, forced: str, message: str) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(dispatch, "_choose", dispatch._choose.__wrapped__)
    monkeypatch.setenv(dispatch.ENVIRONMENT, forced)
    with pytest.raises(ValueError, match=message):
        warp_union(BITS, FLOW)
    with pytest.raises(ValueError, match=message):
        backend_in_use()


def test_triton_serves_the_cpu_when_forced_and_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(dispatch, "_choose", dispatch._choose.__wrapped__)
    assert set(backend_in_use().values()) == {"cpp"}
    monkeypatch.setenv(dispatch.ENVIRONMENT, "triton")
    assert backend_in_use()["warp_union"] == "triton"


def test_without_triton_the_definitions_run_on_cuda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    monkeypatch.setattr(dispatch, "_choose", dispatch._choose.__wrapped__)
    dispatch._tell_once.cache_clear()
    assert set(backend_in_use("cuda").values()) == {"torch"}
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "Triton is not installed; the torch definitions run instead, many times slower"
    ]
    monkeypatch.setenv(dispatch.ENVIRONMENT, "triton")
    with pytest.raises(ValueError, match="Triton is not installed"):
        backend_in_use("cuda")


@pytest.mark.parametrize("isa", native.usable_isas())
def test_an_instruction_set_can_be_forced(isa: str) -> None:
    code = "from f2f.kernels import native; print(native.isa_in_use())"
    environment = os.environ | {native.ISA_ENVIRONMENT: isa}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == isa


def test_an_impossible_instruction_set_raises() -> None:
    environment = os.environ | {native.ISA_ENVIRONMENT: "neon"}
    command = [sys.executable, "-c", "import sys; from f2f.engine.cli import main; sys.exit(main(['doctor']))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "F2F_CPU_ISA=neon cannot be met; accepted on this machine: " in done.stderr
    assert "scalar; unset F2F_CPU_ISA" in done.stderr
    with pytest.raises(ValueError, match="the instruction set is neon; accepted on this machine: "):
        native.use_isa("neon")


def test_cpp_is_not_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.ENVIRONMENT, "cpp")
    with pytest.raises(ValueError, match="the C\\+\\+ versions serve the CPU, not cuda"):
        dispatch.choose("warp_union", "cuda")


def test_without_the_extension_torch_runs(no_extension: ImportError, caplog: pytest.LogCaptureFixture) -> None:
    dispatch._tell_once.cache_clear()
    assert native.load_error() is no_extension
    assert set(backend_in_use().values()) == {"torch"}
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"the C++ extension does not load: {no_extension}; the torch definitions run instead, many times slower"
    ]
    assert not warp_union(BITS, FLOW).any()


def test_without_the_extension_cpp_raises_the_cause(no_extension: ImportError, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r"cannot be loaded \(libnothing.so.*build them with") as caught:
        native.warp_union(BITS, FLOW)
    assert caught.value.__cause__ is no_extension
    monkeypatch.setenv(dispatch.ENVIRONMENT, "cpp")
    with pytest.raises(ValueError, match=r"does not load: libnothing.so.*accepted here: (triton, )?torch;"):
        warp_union(BITS, FLOW)


# What is refused


@pytest.mark.parametrize(
    ("bits", "flow", "message"),
    [
        (BITS.long(), FLOW, r"bits is \[1, 3, 1, 4, 5\] int64; accepted: \[B,K,N,H,W\] int32; convert it with"),
        (BITS[0], FLOW, r"bits is \[3, 1, 4, 5\] int32; accepted: \[B,K,N,H,W\] int32; add or remove dimensions"),
        (BITS[:, :0], FLOW, r"K = 0 frames; accepted: K >= 1"),
        (BITS, FLOW.double(), r"flow_xy_px is \[1, 2, 2, 4, 5\] float64; accepted: \[B,K-1,2,H,W\] float32 or float16"),
        (BITS, FLOW[:, :1], r"flow_xy_px is \[1, 1, 2, 4, 5\]; accepted: \[1, 2, 2, 4, 5\]"),
        (BITS, FLOW.mT, r"flow_xy_px is \[1, 2, 2, 5, 4\]; accepted: \[1, 2, 2, 4, 5\]"),
        (BITS, FLOW.to("meta"), r"devices differ: .*accepted: one device for all"),
    ],
)
@pytest.mark.parametrize("run", [reference.warp_union, native.warp_union])
def test_warp_union_refuses(run: Callable[..., Tensor], bits: Tensor, flow: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(bits, flow)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cams": []}, "0 cams and 1 flips; accepted: equally many"),
        ({"flips": [False, True]}, "1 cams and 2 flips"),
        ({"cams": [CAM.double()]}, r"cams\[0\] is \[2, 3, 4, 5\] float64; accepted: \[B,C,h,w\] float32"),
        (
            {"cams": [CAM, CAM[:, :2]], "flips": [False, False]},
            r"cams\[1\] is \[2, 2, 4, 5\]; accepted: \[2, 3, 4, 5\]",
        ),
        ({"cams": [CAM[:1]]}, r"cams\[0\] is \[1, 3, 4, 5\]; accepted: \[2, 3, 4, 5\] \(B of classes"),
        ({"cams": [CAM[..., :0]]}, "accepted: h, w >= 1; the image was too small"),
        ({"classes": CLASSES.int()}, r"classes is \[2, 1\] int32; accepted: \[B,P\] int64"),
        ({"classes": CLASSES + 3}, r"classes holds 3..3; accepted: 0..2, or -1 for none \(the 3 channels of cams\)"),
        ({"classes": CLASSES - 2}, "classes holds -2..-2"),
        ({"size_hw": (0, 5)}, r"size_hw is \(0, 5\); accepted: positive"),
        ({"theta": 20.0}, "theta is 20.0; accepted: 0..1; give a fraction"),
        ({"theta": float("nan")}, "theta is nan"),
    ],
)
def test_activate_cams_refuses(change: dict[str, object], message: str) -> None:
    arguments = {"cams": [CAM], "flips": [False], "classes": CLASSES, "size_hw": (8, 9), "theta": 0.2} | change
    with pytest.raises(ValueError, match=message):
        activate_cams(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bits": torch.zeros(2, 2, 4, 5, dtype=torch.int32)},
            r"bits is \[2, 2, 4, 5\]; accepted: \[2, 1, 4, 5\] \(N =",
        ),
        ({"classes": CLASSES[:1]}, r"classes is \[1, 1\]; accepted: \[2, 1\] \(B of bits\)"),
        ({"classes": CLASSES + 254}, r"classes holds 254..254; accepted: 0..253.*a uint8 label keeps 0 for background"),
        ({"saliency": torch.zeros(2, 1, 5, 4)}, r"saliency is \[2, 1, 5, 4\]; accepted: \[2, 1, 4, 5\]"),
        ({"saliency": torch.zeros(2, 1, 4, 5).half()}, r"saliency is \[2, 1, 4, 5\] float16; accepted"),
        ({"theta_b": 12.0}, "theta_b is 12.0; accepted: 0..1"),
    ],
)
def test_compose_labels_refuses(change: dict[str, object], message: str) -> None:
    arguments = {
        "bits": torch.zeros(2, 1, 4, 5, dtype=torch.int32),
        "classes": CLASSES,
        "saliency": torch.zeros(2, 1, 4, 5),
        "theta_b": 0.12,
    } | change
    with pytest.raises(ValueError, match=message):
        compose_labels(**arguments)  # type: ignore[arg-type]


def test_the_rest_refuses() -> None:
    with pytest.raises(ValueError, match="passes is 0; accepted: 1 or more sweeps"):
        minimum_barrier(torch.zeros(1, 1, 3, 3), 0)
    with pytest.raises(ValueError, match=r"channels is \[1, 3, 3\] float32; accepted: \[B,C,H,W\]"):
        minimum_barrier(torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match="bits is on meta; accepted: cpu for the C\\+\\+ version"):
        native.warp_union(BITS.to("meta"), FLOW.to("meta"))
    with pytest.raises(ValueError, match="threads is -1; accepted"):
        native.warp_union(BITS, FLOW, threads=-1)
    with pytest.raises(ValueError, match=r"masks is \[2, 3\] torch.bool; accepted: \[...,P,H,W\] bool"):
        pack_planes(torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"for 33 planes; accepted: \[...,N,H,W\] int32 with N \* 32 >= planes"):
        unpack_planes(torch.zeros(1, 2, 2, dtype=torch.int32), 33)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 8, 1, 1, 1, 2, 2, 1, 1), r"bits is \[1, 1, 1, 2, 2\] at a null pointer"),
        ((8, 0, 8, 1, 2, 1, 2, 2, 1, 1), r"flow_xy_px is \[1, 1, 2, 2, 2\] at a null pointer"),
        ((8, 8, 0, 1, 1, 1, 2, 2, 1, 1), r"carried is \[1, 1, 1, 2, 2\] at a null pointer"),
        ((8, 8, 8, -1, 1, 1, 2, 2, 1, 1), r"bits is \[-1, 1, 1, 2, 2\]; accepted: sizes of 0 or more"),
        ((8, 8, 8, 1, 0, 1, 2, 2, 1, 1), "frames is 0; accepted: 1 or more"),
        ((8, 8, 8, 1, 1, 1, 2, 2, 1, 0), "threads is 0; accepted: 1 or more"),
        ((8, 8, 8, 1, 3, 1, 2, 2, 2, 1), "carried keeps 2 frames; accepted: 1 or all 3"),
        ((8, 8, 8, 1, 1, 1, 2**16, 2**16, 1, 1), r"bits has frames of \[65536, 65536\] \(height, width\)"),
        ((8, 8, 8, 2**40, 1, 1, 2**16, 2**16, 1, 1), r"fewer than 2\^62 elements"),
    ],
)
def test_the_extension_checks_again(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native._extension().warp_union(*arguments)


def test_the_extension_checks_the_barrier_again() -> None:
    with pytest.raises(ValueError, match=r"distance is \[1, 2, 2\] at a null pointer"):
        native._extension().minimum_barrier(8, 0, 1, 1, 2, 2, 3, 1)
