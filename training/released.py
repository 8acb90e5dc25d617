"""The released PWC-Net weights, of NVlabs and of sniklaus (whose names vt-vl-lab took over), read without running code.

The files are their authors' and are not part of f2f; their licence (CC BY-NC-SA 4.0) excludes commercial use.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from f2f.engine.errors import UsageError
from f2f.training.card import NetworkCard
from f2f.training.pwcnet import DECODER_LEVELS, LEVELS, FlowNetwork, PWCNet

UNUSED_LAYER = "deconv2"
"""only in NVlabs' own files; no output depends on it, so it may be missing"""
NUMBERS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")
DOUBLERS = {"deconv": "Upflow", "upfeat": "Upfeat"}
ACCEPTED = (
    "PWC-Net as released by NVlabs (pwc_net.pth.tar, names like conv1a.0.weight) or sniklaus (network-default.pytorch, "
    "names like moduleExtractor.moduleOne.0.weight), as torch wrote it or as .safetensors"
)
CONVERSION = """fetch it again, or, where you trust it and it can do no harm, convert it:
  content = torch.load("{name}", map_location="cpu", weights_only=False, encoding="latin1")
  torch.save(dict(content.get("state_dict", content)), "weights.pth")"""


def flow_from_released(path: Path) -> tuple[FlowNetwork, NetworkCard]:
    """PWC-Net with released weights, fed as released."""
    tensors = _named_tensors(path, _read(path))
    network = PWCNet()
    expected = network.state_dict()
    family, names = max(_released_names(expected).items(), key=lambda entry: len(entry[1].keys() & tensors.keys()))
    _check_fit(path, family, tensors, {theirs: expected[ours] for theirs, ours in names.items()})
    unused = {name: torch.zeros_like(value) for name, value in expected.items() if _layer(name) == UNUSED_LAYER}
    network.load_state_dict(unused | {names[theirs]: value.float() for theirs, value in tensors.items()})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    training = {"source": "released PWC-Net", "family": family, "weights_sha256": digest}
    return FlowNetwork(network, standardised=False, padded=False), NetworkCard("flow", training=training)


def _released_names(own: dict[str, Tensor]) -> dict[str, dict[str, str]]:
    """Per family: name in its files -> name in PWCNet."""
    layers = _sniklaus_layers()
    pairs = {name: f"{layers[_layer(name)]}.{name.rsplit('.')[-1]}" for name in own if _layer(name) in layers}
    return {"NVlabs": {name: name for name in own}, "sniklaus": {theirs: ours for ours, theirs in pairs.items()}}


def _layer(name: str) -> str:
    return name.split(".")[0]


def _sniklaus_layers() -> dict[str, str]:
    """Layer of PWCNet -> convolution in sniklaus' files."""
    layers = {f"dc_conv{place}": f"moduleRefiner.moduleMain.{2 * place - 2}" for place in range(1, 8)}
    for level, number in zip(LEVELS, NUMBERS, strict=True):
        order = ("aa", "a", "b") if level == 6 else ("a", "aa", "b")
        for place, letters in enumerate(order):
            layers[f"conv{level}{letters}"] = f"moduleExtractor.module{number}.{2 * place}"
    for level in DECODER_LEVELS:
        layers |= _sniklaus_decoder(level, f"module{NUMBERS[level - 1]}")
    return layers


def _sniklaus_decoder(level: int, decoder: str) -> dict[str, str]:
    layers = {f"conv{level}_{place}": f"{decoder}.module{NUMBERS[place]}.0" for place in range(5)}
    layers[f"predict_flow{level}"] = f"{decoder}.moduleSix.0"
    if level < 6:  # what doubles the level above stands in the level that uses it
        layers |= {f"{ours}{level + 1}": f"{decoder}.module{theirs}" for ours, theirs in DOUBLERS.items()}
    return layers


def _check_fit(path: Path, family: str, given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    findings = {
        "missing": [name for name in expected if name not in given and _layer(name) != UNUSED_LAYER],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} {tuple(value.shape)} instead of {tuple(expected[name].shape)}"
            for name, value in given.items()
            if name in expected and value.shape != expected[name].shape
        ],
    }
    told = [f"{len(names)} {what} ({_first(names)})" for what, names in findings.items() if names]
    if told:
        raise UsageError(
            f"--weights {path} does not fit PWC-Net by the names of {family} ({len(expected)} tensors): "
            f"{'; '.join(told)}; accepted: {ACCEPTED}; give a whole file (one trained by f2f: as --checkpoint)"
        )


def _first(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")


def _named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The weights in what a file holds, by canonical names."""
    if isinstance(content, dict) and "kind" in content:
        raise UsageError(f"--weights {path} was trained by f2f; accepted: {ACCEPTED}; give it as --checkpoint")
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise UsageError(f"--weights {path} holds no named tensors; accepted: {ACCEPTED}; give such a file")
    strange = [str(name) for name, value in state.items() if not _is_weight(value)]
    if strange:
        raise UsageError(
            f"--weights {path} holds {len(strange)} entries that are no dense float tensors ({_first(strange)}); "
            f"accepted: {ACCEPTED}; save its state dict alone"
        )
    return {_canonical(name): value.detach() for name, value in state.items()}


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and value.is_floating_point()


def _canonical(name: str | bytes) -> str:
    """Undo what savers do to names: bytes, DataParallel's prefix, sniklaus' later spelling (netOne for moduleOne)."""
    text = name.decode("latin1") if isinstance(name, bytes) else str(name)
    return re.sub(r"\bnet(?=[A-Z])", "module", text.removeprefix("module."))


class _Discarded:
    """Stands for an object that training left beside the weights: takes anything, does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


DISCARDED = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "argparse.Namespace")
"""what a checkpoint may name beside torch's own: an error as a NumPy number, the options of the run"""


def _read(path: Path) -> Any:
    """What a file holds; objects that are no data are refused, not made."""
    inert: list[Any] = [(_Discarded, name) for name in DISCARDED]
    if not path.is_file():
        raise UsageError(f"--weights {path} does not exist or is no file; accepted: {ACCEPTED}; give such a file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(inert), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch doubts `encoding` here, but Python 2's byte strings need it
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except Exception as error:
        conversion = CONVERSION.format(name=path.name)
        raise UsageError(f"--weights {path} {_reason(path, error)}; accepted: {ACCEPTED}; {conversion}") from error


def _reason(path: Path, error: Exception) -> str:
    """Why a file was not read, in our words."""
    message = str(error)
    if tarfile.is_tarfile(path):
        return "is a tar archive, as torch wrote before 0.1.10; torch reads such only by running what they hold"
    if named := re.search(r"GLOBAL (\S+) w", message):
        return f"asks for {named[1]}, which weights do not need: nothing was run"
    told = message.split("WeightsUnpickler error:")[-1].strip().split(". ")[0].split("\n")[0]
    return f"cannot be read ({told or type(error).__name__})"
