"""Released networks in the manner of U²-Net by our contract: what they want done to images and maps joins their graph.

They take an image [1,3,h,w] of one size, normalised, and give maps [1,1,h,w]. Opset and layers stay as they are.
Letters: B images, H, W image size, h, w size at which the network sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from onnx import compose
from torch import Tensor, nn

from f2f.engine.errors import UsageError
from f2f.training.export import quiet_exporter
from f2f.training.saliency.network import stretched
from f2f.training.saliency.options import Style
from f2f.training.saliency.sizes import resampled, resampling
from f2f.training.segmentation.backbones import IMAGENET_MEAN, IMAGENET_STD, Normalise

USUAL_SIDE_PX = 320
OPSETS = range(11, 21)
"""those that PyTorch writes the joined parts in"""
_PREFIX = "released/"


@dataclass(frozen=True)
class Wanted:
    """What a network wants."""

    over_maximum: bool
    """the image is divided by its largest value first"""
    mean: Sequence[float]
    deviation: Sequence[float]
    sigmoid: bool
    """its maps are logits"""


STYLES: dict[Style, Wanted] = {
    "u2net": Wanted(True, IMAGENET_MEAN, IMAGENET_STD, sigmoid=False),
    "isnet": Wanted(True, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), sigmoid=False),
    "birefnet": Wanted(False, IMAGENET_MEAN, IMAGENET_STD, sigmoid=True),
}


class Before(nn.Module):
    """Image [B,3,H,W] RGB 0..1 -> what the network takes, [B,3,h,w], and how its maps come to the image's size.

    That is rows [H,h] and columns [W,w] to multiply a map with.
    """

    def __init__(self, style: Style, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.wanted, self.size_hw = STYLES[style], size_hw
        self.normalise = Normalise(self.wanted.mean, self.wanted.deviation)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        (height, width), (h, w) = image.shape[-2:], self.size_hw
        small = resampled(image, resampling(height, h), resampling(width, w))
        if self.wanted.over_maximum:
            small = small / small.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        return self.normalise(small), resampling(h, height), resampling(w, width)


class After(nn.Module):
    """A map [B,1,h,w], rows [H,h] and columns [W,w] -> saliency [B,1,H,W] in 0..1."""

    def __init__(self, style: Style, stretch: bool) -> None:
        super().__init__()
        self.sigmoid, self.stretch = STYLES[style].sigmoid, stretch

    def forward(self, found: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """See the class."""
        maps = found.sigmoid() if self.sigmoid else found
        maps = stretched(maps) if self.stretch else maps
        return resampled(maps, rows, columns).clamp(0, 1)


@dataclass(frozen=True)
class Released:
    """A released network, read and checked."""

    path: Path
    model: onnx.ModelProto
    input: str
    output: str
    size_hw: tuple[int, int]
    one_image: bool
    """it takes no batches"""

    @property
    def opset(self) -> int:
        """Of its standard operators."""
        return _opset(self.model)

    def facts(self) -> dict[str, Any]:
        """What the file made of it says of it."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {"source": self.path.name, "sha256": digest, "output": self.output, "size_hw": list(self.size_hw)}


def read_released(path: Path, output: str | None = None, side_px: int | None = None) -> Released:
    """Read the file of a released network.

    Args:
        path: the file.
        output: name of the output that is the map; None: the first.
        side_px: size of its images where the file leaves it open.

    Raises:
        UsageError: it is no ONNX file, or takes or gives something else.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise UsageError(f"--onnx {path} does not exist; give the file of a released network") from error
    except Exception as error:  # protobuf's and the checker's errors share no base class
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"--onnx {path} cannot be read as ONNX ({first[:200]}); give another file") from error
    if _opset(model) not in OPSETS:
        raise UsageError(
            f"--onnx {path} is of opset {_opset(model)}; accepted: {OPSETS[0]} to {OPSETS[-1]}; convert it with "
            "onnx.version_converter"
        )
    name, shape = _only_input(path, model)
    return Released(path, model, name, _output(path, model, output), _size_hw(path, shape, side_px), shape[0] == 1)


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 1)


def _only_input(path: Path, model: onnx.ModelProto) -> tuple[str, list[int | None]]:
    """Its name and shape; an axis without a size is None."""
    weights = {entry.name for entry in model.graph.initializer}
    inputs = {entry.name: _shape(entry) for entry in model.graph.input if entry.name not in weights}
    ((name, shape), *more) = [*inputs.items()] or [("", [])]
    if more or len(shape) != 4 or shape[1] not in {3, None}:
        raise UsageError(f"--onnx {path} has the inputs {inputs}; accepted: one image [1,3,h,w]; give another network")
    return name, shape


def _shape(entry: onnx.ValueInfoProto) -> list[int | None]:
    return [axis.dim_value if axis.dim_value > 0 else None for axis in entry.type.tensor_type.shape.dim]


def _output(path: Path, model: onnx.ModelProto, wanted: str | None) -> str:
    names = [entry.name for entry in model.graph.output]
    if wanted is None or wanted in names:
        return names[0] if wanted is None else wanted
    raise UsageError(f"output is {wanted}; {path} has {', '.join(names)}; give one of them")


def _size_hw(path: Path, shape: Sequence[int | None], side_px: int | None) -> tuple[int, int]:
    height, width = (size or side_px or USUAL_SIDE_PX for size in shape[2:])
    if side_px is not None and (height, width) != (side_px, side_px):
        raise UsageError(f"side-px is {side_px}; {path} takes images of {height}x{width} px alone; leave it out")
    return height, width


def joined(released: Released, style: Style, stretch: bool) -> onnx.ModelProto:
    """One graph from `image` to `saliency`, without metadata."""
    h, w = released.size_hw
    sizes = {"image": {2: "height", 3: "width"}, "rows": {0: "height"}, "columns": {0: "width"}}
    batch = {} if released.one_image else {0: "batch"}
    names = {"image": ("image",), "prepared": ("prepared", "rows", "columns")}
    before = _written(
        Before(style, released.size_hw),
        (torch.rand(1, 3, 2 * h, 2 * w),),
        (names["image"], names["prepared"]),
        {**sizes, "image": batch | sizes["image"], "prepared": batch},
        released.opset,
    )
    after = _written(
        After(style, stretch),
        (torch.rand(1, 1, h, w), torch.rand(2 * h, h), torch.rand(2 * w, w)),
        (("map", "its_rows", "its_columns"), ("saliency",)),
        {"map": batch, "its_rows": {0: "height"}, "its_columns": {0: "width"}, "saliency": batch | sizes["image"]},
        released.opset,
    )
    return _merged(before, released, after)


def _written(
    part: nn.Module,
    example: tuple[Tensor, ...],
    names: tuple[Sequence[str], Sequence[str]],
    axes: dict[str, dict[int, str]],
    opset: int,
) -> onnx.ModelProto:
    """A part as ONNX; `names` of inputs and outputs."""
    with TemporaryDirectory() as folder, quiet_exporter(), torch.no_grad():
        path = Path(folder) / "part.onnx"
        torch.onnx.export(
            part,
            example,
            path,
            dynamo=False,
            opset_version=opset,
            input_names=list(names[0]),
            output_names=list(names[1]),
            dynamic_axes=axes,
        )
        return onnx.load(path)


def _merged(before: onnx.ModelProto, released: Released, after: onnx.ModelProto) -> onnx.ModelProto:
    middle = compose.add_prefix(released.model, _PREFIX)
    for part in (before, middle, after):
        part.ir_version = max(before.ir_version, middle.ir_version)
        del part.metadata_props[:]
    front = compose.merge_models(
        compose.add_prefix(before, "before/", rename_inputs=False, rename_outputs=False),
        middle,
        [("prepared", _PREFIX + released.input)],
        outputs=["rows", "columns", _PREFIX + released.output],
    )
    whole = compose.merge_models(
        front,
        compose.add_prefix(after, "after/", rename_inputs=False, rename_outputs=False),
        [(_PREFIX + released.output, "map"), ("rows", "its_rows"), ("columns", "its_columns")],
    )
    whole.graph.name = "saliency"
    return whole
