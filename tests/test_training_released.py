"""Released PWC-Net weights: every container and naming is read, by the letter; nothing in them is run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import tarfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from f2f.engine.errors import UsageError
from f2f.training import released
from f2f.training.commands import export_flow
from f2f.training.options import FlowExport
from f2f.training.pwcnet import FlowNetwork, PWCNet
from f2f.training.released import flow_from_released

State = dict[str, Tensor]
PARAMETERS = 9_374_340
NUMBERS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")
CHANNELS = (3, 16, 32, 64, 96, 128, 196)


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    state = dict(PWCNet().state_dict())
    assert sum(value.numel() for value in state.values()) == PARAMETERS
    return state


def _loaded(path: Path) -> State:
    module, _ = flow_from_released(path)
    assert isinstance(module, FlowNetwork)
    assert not module.standardised
    return dict(module.network.state_dict())


def _same(given: State, expected: State) -> bool:
    assert given.keys() == expected.keys()
    return all(torch.equal(given[name], expected[name]) for name in expected)


def _legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


# --- a file as Python 2 and torch 0.2 wrote it: LONG1 numbers, byte strings, _rebuild_tensor, storages on a GPU ---


def _long(value: int) -> bytes:
    digits = pickle.encode_long(value)
    return b"\x8a" + bytes([len(digits)]) + digits


def _text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return b"U" + bytes([len(content)]) + content


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _python2_tensor(key: str, value: Tensor) -> bytes:
    storage = _tuple(
        _text("storage"), b"ctorch\nFloatStorage\n", _text(key), _text("cuda:0"), _long(value.numel()), b"N"
    )
    sizes, strides = _tuple(*map(_long, value.shape)), _tuple(*map(_long, value.stride()))
    return b"ctorch._utils\n_rebuild_tensor\n" + _tuple(storage + b"Q", b"K\0", sizes, strides) + b"R"


def _python2_score(value: float) -> bytes:
    dtype = b"cnumpy\ndtype\n" + _tuple(_text("f8"), b"K\0", b"K\1") + b"R"
    dtype += _tuple(b"K\3", _text("<"), b"NNN", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\xff", b"K\0") + b"b"
    return b"cnumpy.core.multiarray\nscalar\n" + _tuple(dtype, _text(struct.pack("<d", value))) + b"R"


def _python2_file(state: State, path: Path) -> None:
    keys = {name: str(94_000_000 + place) for place, name in enumerate(state)}
    items = b"".join(b"](" + _text(name) + _python2_tensor(keys[name], state[name]) + b"e" for name in state)
    weights = b"ccollections\nOrderedDict\n](" + items + b"e\x85R"
    content = b"}(" + _text("epoch") + b"K\7" + _text("best_EPE") + _python2_score(1.83)
    content += _text("state_dict") + weights + b"u"
    system = b"}(" + _text("protocol_version") + b"M\xe9\x03" + _text("little_endian") + b"\x88u"
    order = b"](" + b"".join(map(_text, sorted(keys.values()))) + b"e"
    parts = (_long(0x1950A86A20F9469CFC6C), b"M\xe9\x03", system, content, order)
    stored = (state[name] for name in sorted(keys, key=lambda name: keys[name]))
    data = [struct.pack("<q", value.numel()) + value.numpy().tobytes() for value in stored]
    path.write_bytes(b"".join(b"\x80\2" + part + b"." for part in parts) + b"".join(data))


WRITERS: dict[str, Callable[[State, Path], None]] = {
    "bare legacy": lambda state, path: _legacy(OrderedDict(state), path),
    "legacy with epoch": lambda state, path: _legacy({"epoch": 3, "state_dict": OrderedDict(state)}, path),
    "python 2 on a GPU": _python2_file,
    "zip": lambda state, path: torch.save({"state_dict": state, "args": Namespace(), "EPE": np.float64(1)}, path),
    "protocol 3": lambda state, path: torch.save(state, path, pickle_protocol=3),
    "parameters": lambda state, path: _legacy({name: nn.Parameter(value) for name, value in state.items()}, path),
    "DataParallel": lambda state, path: _legacy({f"module.{name}": value for name, value in state.items()}, path),
    "safetensors": safetensors.torch.save_file,
    "bytes as names": lambda state, path: _legacy({name.encode(): value for name, value in state.items()}, path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_nvlabs_files_are_read_from_every_container(state: State, tmp_path: Path, writer: str) -> None:
    path = tmp_path / ("pwc.safetensors" if writer == "safetensors" else "pwc_net.pth.tar")
    WRITERS[writer](state, path)
    assert _same(_loaded(path), state)


def test_half_precision_becomes_single(state: State, tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "pwc.pth")
    assert _same(_loaded(tmp_path / "pwc.pth"), {name: value.half().float() for name, value in state.items()})


def test_the_layer_that_is_never_used_may_be_missing(state: State, tmp_path: Path) -> None:
    used = {name: value for name, value in state.items() if not name.startswith("deconv2.")}
    torch.save({"state_dict": used, "pytorch-lightning_version": "1.9"}, tmp_path / "pwcnet-things.ckpt")
    unused = {name: torch.zeros_like(value) for name, value in state.items() if name not in used}
    assert len(unused) == 2
    assert _same(_loaded(tmp_path / "pwcnet-things.ckpt"), state | unused)


# --- sniklaus' network, from its description, run on its own weights by their names ---


def _sniklaus_layers() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each convolution, and the shape of its weight."""
    for number, (before, after) in zip(NUMBERS, pairwise(CHANNELS), strict=True):
        for place, channels in ((0, before), (2, after), (4, after)):
            yield f"moduleExtractor.module{number}.{place}", (after, channels, 3, 3)
    above = 0
    for level in (6, 5, 4, 3, 2):
        decoder, count = f"module{NUMBERS[level - 1]}", 81
        if level < 6:
            yield f"{decoder}.moduleUpflow", (2, 2, 4, 4)
            yield f"{decoder}.moduleUpfeat", (above, 2, 4, 4)
            count += CHANNELS[level] + 4
        for number, growth in zip(NUMBERS, (128, 128, 96, 64, 32, 2), strict=True):
            yield f"{decoder}.module{number}.0", (growth, count, 3, 3)
            count += growth
        above = count - 2
    for place, (before, after) in enumerate(pairwise((above, 128, 128, 128, 96, 64, 32, 2))):
        yield f"moduleRefiner.moduleMain.{2 * place}", (after, before, 3, 3)


def _sniklaus_state() -> State:
    """Random weights that keep the size of what passes through, and flows of some px, so that warps matter."""
    torch.manual_seed(1)
    state = {}
    for name, shape in _sniklaus_layers():
        inputs = 4 * shape[0] if shape[-1] == 4 else 9 * shape[1]
        state[f"{name}.weight"] = torch.randn(shape) * (2 / inputs) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[1] if shape[-1] == 4 else shape[0])
    return state


class _Sniklaus:
    def __init__(self, state: State) -> None:
        self.state = state

    def __call__(self, image: Tensor, other: Tensor) -> Tensor:
        features, others = list(self._features(image)), list(self._features(other))
        flow, dense = self._decoded(6, _costs(features[5], others[5]))
        for level in (5, 4, 3, 2):
            decoder, here = f"module{NUMBERS[level - 1]}", features[level - 1]
            flow, more = self._doubled(f"{decoder}.moduleUpflow", flow), self._doubled(f"{decoder}.moduleUpfeat", dense)
            costs = _costs(here, _warped(others[level - 1], flow * 20 / 2**level))
            flow, dense = self._decoded(level, torch.cat([costs, here, flow, more], 1))
        for place, dilation in enumerate((1, 2, 4, 8, 16, 1)):
            dense = self._convolved(f"moduleRefiner.moduleMain.{2 * place}", dense, dilation=dilation)
        return flow + self._convolved("moduleRefiner.moduleMain.12", dense, slope=1)

    def _features(self, image: Tensor) -> Iterator[Tensor]:
        for number in NUMBERS:
            for place, stride in ((0, 2), (2, 1), (4, 1)):
                image = self._convolved(f"moduleExtractor.module{number}.{place}", image, stride)
            yield image

    def _decoded(self, level: int, dense: Tensor) -> tuple[Tensor, Tensor]:
        decoder = f"module{NUMBERS[level - 1]}"
        for number in NUMBERS[:5]:
            dense = torch.cat([self._convolved(f"{decoder}.module{number}.0", dense), dense], 1)
        return self._convolved(f"{decoder}.moduleSix.0", dense, slope=1), dense

    def _convolved(self, name: str, value: Tensor, stride: int = 1, dilation: int = 1, slope: float = 0.1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.leaky_relu(F.conv2d(value, weight, bias, stride, dilation, dilation), slope)

    def _doubled(self, name: str, value: Tensor) -> Tensor:
        return F.conv_transpose2d(value, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 2, 1)


def _costs(here: Tensor, there: Tensor) -> Tensor:
    height, width = here.shape[2:]
    padded = F.pad(there, (4, 4, 4, 4))
    shifted = [padded[:, :, y : y + height, x : x + width] for y in range(9) for x in range(9)]
    return F.leaky_relu(torch.stack([(here * other).mean(1) for other in shifted], 1), 0.1)


def _warped(features: Tensor, flow: Tensor) -> Tensor:
    height, width = features.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([(x + flow[:, 0]) * 2 / (width - 1) - 1, (y + flow[:, 1]) * 2 / (height - 1) - 1], -1)
    filled = torch.cat([features, torch.ones_like(features[:, :1])], 1)
    sampled = F.grid_sample(filled, at, align_corners=True)
    return sampled[:, :-1] * (sampled[:, -1:] > 0.999)


@pytest.mark.parametrize("spelling", ["module", "net"])
def test_sniklaus_files_give_the_flow_of_their_own_network(tmp_path: Path, spelling: str) -> None:
    """At 100x150: resized to 128x192, BGR, a quarter-size flow x 20, resized back, u and v rescaled."""
    state = _sniklaus_state()
    theirs = _Sniklaus(state)
    assert sum(value.numel() for value in state.values()) == PARAMETERS - 66  # no deconv2
    _legacy({name.replace("module", spelling): value for name, value in state.items()}, tmp_path / "default.pytorch")
    ours, card = flow_from_released(tmp_path / "default.pytorch")
    assert card.training["family"] == "sniklaus"
    frames = F.interpolate(torch.rand(2, 3, 25, 38), size=(100, 150), mode="bicubic").clamp(0, 1)
    with torch.inference_mode():
        bgr = F.interpolate(frames[:, [2, 1, 0]], size=(128, 192), mode="bilinear", align_corners=False)
        wanted = 20 * F.interpolate(theirs(bgr[1:], bgr[:1]), size=(100, 150), mode="bilinear", align_corners=False)
        wanted *= torch.tensor([150 / 192, 100 / 128]).view(1, 2, 1, 1)
        flow = ours.eval()(frames[None])[0]
    assert wanted.std() > 0.1
    torch.testing.assert_close(flow, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


class _Attack:
    """Runs a command when unpickled."""

    def __init__(self, command: Callable[..., object], argument: str) -> None:
        self.call = (command, (argument,))

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return self.call


def _pickled(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def _tarred(content: object, path: Path) -> None:
    """As torch wrote before 0.1.10."""
    part = path.with_name("pickle")
    _pickled(content, part)
    with tarfile.open(path, "w") as archive:
        archive.add(part, part.name)


@pytest.mark.parametrize("write", [_legacy, torch.save, _pickled, _tarred])
@pytest.mark.parametrize("command", [os.system, os.mkdir, eval])
def test_code_in_a_file_is_not_run(
    tmp_path: Path, write: Callable[[object, Path], None], command: Callable[..., object]
) -> None:
    path, trace = tmp_path / "pwc_net.pth.tar", tmp_path / "ran"
    text = {os.system: f"touch {trace}", os.mkdir: str(trace)}.get(command, f"open({str(trace)!r}, 'w')")
    write({"epoch": _Attack(command, text), "state_dict": {"conv1a.0.bias": torch.zeros(16)}}, path)
    reason = "is a tar archive" if write is _tarred else r"asks for (posix\.)?(system|mkdir|eval), .* nothing was run"
    with pytest.raises(UsageError, match=reason):
        flow_from_released(path)
    assert not trace.exists()


def test_the_conversion_offered_works(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _legacy({"state_dict": state, "taken": Path("here")}, Path("pwc_net.pth.tar"))
    with pytest.raises(UsageError, match=r"asks for pathlib\.\w+, which weights do not need") as refusal:
        flow_from_released(Path("pwc_net.pth.tar"))
    lines = str(refusal.value).split("convert it:\n")[1]
    exec("\n".join(line.strip() for line in lines.splitlines()), {"torch": torch})  # noqa: S102
    assert _same(_loaded(Path("weights.pth")), state)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist or is no file; accepted: PWC-Net as released"),
        (b"", r"cannot be read \(EOFError\); .*fetch it again"),
        (b"<!DOCTYPE html><html>too many downloads</html>", r"cannot be read \(.*fetch it again"),
        (b"\x80\2\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\2M\xe9", r"cannot be read \(.*fetch it again"),
        ({"kind": "flow", "state_dict": {}}, "was trained by f2f; .* give it as --checkpoint"),
        ({}, "holds no named tensors"),
        ([torch.zeros(1)], "holds no named tensors"),
        ({"conv1a.0.weight": 3, "epoch": 1}, r"holds 2 entries .*\(conv1a\.0\.weight, epoch\).*its state dict alone"),
        ({"a": torch.zeros(1, dtype=torch.int8)}, "no dense float tensors"),
        ({"a": torch.zeros(1)}, r"126 missing \(conv1a\.0\.weight, .*, …\); 1 unexpected \(a\); accepted: .*sniklaus"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object, reason: str) -> None:
    path = tmp_path / "pwc_net.pth.tar"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        _legacy(content, path)
    with pytest.raises(UsageError, match=reason):
        flow_from_released(path)


def test_broken_files_and_folders_are_refused(state: State, tmp_path: Path) -> None:
    short, none = tmp_path / "pwc_net.pth.tar", tmp_path / "a.safetensors"
    _legacy(state, short)
    short.write_bytes(short.read_bytes()[:-100_000])
    none.write_bytes(b"none")
    for path, reason in ((tmp_path, "is no file"), (short, r"cannot be read \(\w"), (none, r"cannot be read \(\w")):
        with pytest.raises(UsageError, match=reason):
            flow_from_released(path)


def test_a_partial_file_is_refused_by_its_own_names(tmp_path: Path) -> None:
    state = _sniklaus_state()
    del state["moduleFiv.moduleUpflow.weight"]
    state["moduleSix.moduleUpflow.weight"] = torch.zeros(2, 2, 4, 4)
    state["moduleExtractor.moduleSix.0.weight"] = torch.zeros(196, 196, 3, 3)
    torch.save(state, tmp_path / "network-default.pytorch")
    with pytest.raises(UsageError) as refusal:
        flow_from_released(tmp_path / "network-default.pytorch")
    for told in (
        "by the names of sniklaus",
        "1 missing (moduleFiv.moduleUpflow.weight)",
        "1 unexpected (moduleSix.moduleUpflow.weight)",
        "1 of another shape (moduleExtractor.moduleSix.0.weight (196, 196, 3, 3) instead of (196, 128, 3, 3))",
    ):
        assert told in str(refusal.value)


@pytest.mark.parametrize("given", [{}, {"checkpoint": Path("a.pt"), "weights": Path("b.pth")}])
def test_exactly_one_source_is_asked_for(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="accepted: exactly one of --checkpoint, --weights, --network"):
        FlowExport(out=Path("flow.onnx"), **given)


def test_the_exported_network_says_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "PWCNet", partial(PWCNet, 0.05))  # the standard width takes a minute to export
    weights, out = tmp_path / "pwc_net.pth.tar", tmp_path / "flow.onnx"
    _legacy({"state_dict": PWCNet(0.05).state_dict()}, weights)
    assert export_flow(FlowExport(weights=weights, out=out)) == 0
    props = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    wanted = {"source": "released PWC-Net", "family": "NVlabs", "weights_sha256": digest}
    assert json.loads(props["f2f.training"]) == wanted


class _Still(PWCNet):
    """Keeps the images it is given and answers with one flow everywhere."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__(0.05)
        self.flow = torch.tensor([x, y]).view(1, 2, 1, 1)
        self.images = torch.empty(0)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        self.images = image
        return [image]

    def decode(self, features: list[Tensor], others: list[Tensor]) -> list[Tensor]:
        count, _, height, width = features[0].shape
        return [self.flow.expand(count, 2, height // 4, width // 4)]


def test_released_networks_see_bgr_as_it_is() -> None:
    """A ramp of R, constant G and B: in the order BGR, unstandardised, resized with half-pixel centres."""
    width, grid = 100, 128
    frames = torch.zeros(1, 2, 3, 70, width)
    frames[:, :, 0] = torch.arange(width) / 255
    frames[:, :, 1], frames[:, :, 2] = 0.25, 0.75
    network = _Still(0.0, 0.0)
    FlowNetwork(network, standardised=False, padded=False)(frames)
    assert network.images.shape == (2, 3, 128, grid)
    ramp = ((torch.arange(grid) + 0.5) * width / grid - 0.5).clamp(0, width - 1) / 255
    torch.testing.assert_close(network.images[:, 2], ramp.expand(2, 128, grid))
    assert network.images[:, 1].eq(0.25).all()
    assert network.images[:, 0].eq(0.75).all()


@pytest.mark.parametrize(
    ("height", "width", "grid_hw"), [(100, 150, (128, 192)), (64, 65, (64, 128)), (436, 1024, (448, 1024))]
)
def test_flow_is_multiplied_by_20_and_rescaled_per_axis(height: int, width: int, grid_hw: tuple[int, int]) -> None:
    flow = FlowNetwork(_Still(0.5, -0.25), standardised=False, padded=False)(torch.rand(1, 2, 3, height, width))
    torch.testing.assert_close(flow[0, 0, 0], torch.full((height, width), 0.5 * 20 * width / grid_hw[1]))
    torch.testing.assert_close(flow[0, 0, 1], torch.full((height, width), -0.25 * 20 * height / grid_hw[0]))
