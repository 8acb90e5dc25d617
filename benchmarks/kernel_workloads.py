"""What the kernel benchmark runs on: the grid of cases, their inputs, and the bytes each operator must move.

Inputs look like the engine's: activation maps are smooth, below 0 in most places and a sixteenth of the scaled image;
masks are blobs of them; images are areas of colour with texture and noise, and the energies that go with them are
blobs that do not quite fit; `smooth` flow is that of a slowly moving camera before which three ellipses move, turn and
grow, so that it is piecewise affine with sub-pixel gradients and jumps. `random` flow, independent in every pixel, is
the hard case. All of it is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.kernels import reference

FRAMES = 5
SCALES = (0.5, 0.75, 1.0, 1.25)
CAM_STRIDE_PX = 16
THETA_F, THETA_B = 0.2, 0.12
PWC_LEVELS = ((64, 196), (32, 128), (16, 96), (8, 64), (4, 32))  # (stride in px, channels), coarse to fine
COSTS = 81
_DISTINCT_CLIPS = 4  # a batch repeats these
FORWARD, BOTH = "forward", "forward+backward"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operator on one size of input."""

    op: str
    size_hw: tuple[int, int]
    clips: int = 1
    planes: int = 20
    """P, classes, or L, labels; nothing to the cost volumes"""
    flow: str = ""
    """"smooth", "random" or none"""
    mode: str = FORWARD
    dtype: torch.dtype = torch.float32
    """of the flow, CAMs, saliency or features"""

    @property
    def shape(self) -> str:
        """The sizes as one word each, such as "B1 K5 P20 321x321"."""
        middle = {
            "warp_union": f"K{FRAMES} P{self.planes}",
            "activate_cams": f"S{2 * len(SCALES)} P{self.planes}",
            "compose_labels": f"P{self.planes}",
            "crf_refine": f"L{self.planes}",
            "soft_union": f"K{FRAMES} P{self.planes}",
        }.get(self.op, f"L{len(PWC_LEVELS)}")
        return f"B{self.clips} {middle} {self.size_hw[0]}x{self.size_hw[1]}"

    @property
    def words(self) -> int:
        """N, int32 words that carry the planes."""
        return -(-self.planes // 32)


@dataclass(frozen=True)
class WarpUnionInputs:
    """Of `warp_union`."""

    bits: Tensor  # int32 [B, K, N, H, W]
    flow_xy_px: Tensor  # [B, K-1, 2, H, W]


@dataclass(frozen=True)
class CamInputs:
    """Of `activate_cams`; all classes are listed, which spares everybody the choosing."""

    cams: list[Tensor]  # each float32 [B, P, h, w]
    flips: list[bool]
    classes: Tensor  # int64 [B, P]
    size_hw: tuple[int, int]


@dataclass(frozen=True)
class Level:
    """One pyramid level of the cost volumes."""

    features: tuple[Tensor, ...]  # f1, f2 [B, C, h, w]; warp_cost_volume: and flow_xy_px [B, 2, h, w]
    gradient: Tensor  # of the loss by the volume, [B, 81, h, w]


@dataclass(frozen=True)
class LabelInputs:
    """Of `compose_labels`."""

    bits: Tensor  # int32 [B, N, H, W]
    classes: Tensor  # int64 [B, P]
    saliency: Tensor  # float32 [B, 1, H, W]


@dataclass(frozen=True)
class CrfInputs:
    """Of `crf_refine`; the image's values are whole 1/255, as those of a frame are."""

    unary: Tensor  # float32 [B, L, H, W]
    image: Tensor  # float32 [B, 3, H, W]


@dataclass(frozen=True)
class SoftUnionInputs:
    """Of `soft_union`."""

    maps: Tensor  # float32 [B, K, P, H, W] of 0..1
    flow_xy_px: Tensor  # float32 [B, K-1, 2, H, W]
    return_xy_px: Tensor  # the same, the other way


def grid(quick: bool, device: str) -> Iterator[Case]:
    """All cases; the headline ones first, so that a run that is cut short has them."""
    seen: set[Case] = set()
    for case in [*_headlines(device), *([] if quick else _full(device))]:
        if case not in seen:
            seen.add(case)
            yield case


def _headlines(device: str) -> Iterator[Case]:
    """On a GPU with more numbers of clips: where one launch per clip overtakes one per step."""
    small = (321, 321)
    for clips in (1, 132, 8) if device == "cuda" else (1, 8):
        yield Case(op="warp_union", size_hw=small, clips=clips, flow="smooth")
        yield Case(op="activate_cams", size_hw=small, clips=clips)
        yield Case(op="compose_labels", size_hw=small, clips=clips)
    yield Case(op="warp_union", size_hw=small, flow="random")
    yield Case(op="cost_volume", size_hw=(384, 640))
    yield Case(op="warp_cost_volume", size_hw=(384, 640), flow="smooth")
    yield Case(op="cost_volume", size_hw=(384, 640), mode=BOTH)
    for labels in (2, 4, 21):
        yield Case(op="crf_refine", size_hw=(240, 427), planes=labels)
        yield Case(op="crf_refine", size_hw=(40, 71), planes=labels)  # where there is time for the definition
    for size_hw in ((240, 427), (480, 854)):
        yield Case(op="soft_union", size_hw=size_hw, planes=2, flow="smooth")
    for clips in (32, 64, 264) if device == "cuda" else ():
        yield Case(op="warp_union", size_hw=small, clips=clips, flow="smooth")


def _full(device: str) -> Iterator[Case]:
    """Few clips of every size first, so that a run that is cut short has seen all sizes."""
    gpu = device == "cuda"
    sizes = ((321, 321), (384, 640), (720, 1280))
    for clips, size_hw in product((1, 8, 32, 128), sizes):
        for planes in (20, 80):
            yield Case(op="warp_union", size_hw=size_hw, clips=clips, planes=planes, flow="smooth")
            yield Case(op="activate_cams", size_hw=size_hw, clips=clips, planes=planes)
            yield Case(op="compose_labels", size_hw=size_hw, clips=clips, planes=planes)
        yield Case(op="warp_union", size_hw=size_hw, clips=clips, flow="random")
        yield Case(op="warp_union", size_hw=size_hw, clips=clips, flow="smooth", dtype=torch.float16)
        if clips > (32 if gpu else 8):
            continue
        for mode in (FORWARD, BOTH):
            for dtype in (torch.float32, torch.float16) if gpu else (torch.float32,):
                yield Case(op="cost_volume", size_hw=size_hw, clips=clips, mode=mode, dtype=dtype)
            yield Case(op="warp_cost_volume", size_hw=size_hw, clips=clips, mode=mode, flow="smooth")


def must_move_bytes(case: Case) -> int:
    """Bytes that any version has to move: every input read once, every result written once."""
    return _MUST_MOVE[case.op](case)


def _warp_union_bytes(case: Case) -> int:
    words, flow = FRAMES * case.words * 4, (FRAMES - 1) * 2 * case.dtype.itemsize  # read, per px
    return case.clips * _pixels(case) * (words + flow + case.words * 4)


def _activate_cams_bytes(case: Case) -> int:
    read = 2 * sum(math.prod(_cam_size(case.size_hw, scale)) for scale in SCALES) * case.planes * 4
    return case.clips * (read + _pixels(case) * case.words * 4 + case.planes * 4)


def _compose_labels_bytes(case: Case) -> int:
    return case.clips * (_pixels(case) * (case.words * 4 + 4 + 1) + case.planes * 8)


def _crf_refine_bytes(case: Case) -> int:
    return case.clips * _pixels(case) * (2 * case.planes + 3) * 4


def _soft_union_bytes(case: Case) -> int:
    return case.clips * _pixels(case) * ((FRAMES + 1) * case.planes + 2 * (FRAMES - 1) * 2) * 4


def _cost_volume_bytes(case: Case) -> int:
    """Forward f1, f2 -> volume; backward the same the other way, and f1, f2 read again."""
    with_flow = case.op == "warp_cost_volume"
    total = 0
    for (height, width), channels in _levels(case.size_hw):
        features = 2 * channels + 2 * with_flow  # numbers per pixel
        passes = features + COSTS + (features + COSTS + features) * (case.mode == BOTH)
        total += height * width * passes
    return case.clips * total * case.dtype.itemsize


_MUST_MOVE: dict[str, Callable[[Case], int]] = {
    "warp_union": _warp_union_bytes,
    "activate_cams": _activate_cams_bytes,
    "compose_labels": _compose_labels_bytes,
    "cost_volume": _cost_volume_bytes,
    "warp_cost_volume": _cost_volume_bytes,
    "crf_refine": _crf_refine_bytes,
    "soft_union": _soft_union_bytes,
}
OPERATORS = tuple(_MUST_MOVE)


def baseline_bytes(case: Case) -> int:
    """About the most memory that anyone needs here: the torch forms, with a full-size number per class and pixel."""
    if case.op in ("cost_volume", "warp_cost_volume"):
        volume = sum(height * width * COSTS for (height, width), _ in _levels(case.size_hw))
        saved = sum(height * width * COSTS * channels for (height, width), channels in _levels(case.size_hw))
        return case.clips * 4 * (3 * volume + saved * (case.mode == BOTH))  # autograd may keep every product
    if case.op == "crf_refine":
        return 4 * must_move_bytes(case) + (1 << 30)  # some rows of the exact kernel at a time
    warping = 4 * (FRAMES + 4)
    per_pixel = {"warp_union": warping, "soft_union": 4 * warping, "activate_cams": 4 * 5, "compose_labels": 8 * 4}[
        case.op
    ]
    return case.clips * case.planes * _pixels(case) * per_pixel


Inputs = WarpUnionInputs | CamInputs | LabelInputs | CrfInputs | SoftUnionInputs | list[Level]


def make_inputs(case: Case, device: str) -> Inputs:
    """The inputs of a case, the same every time."""
    random = torch.Generator().manual_seed(2019)
    if case.op == "warp_union":
        return _warp_union_inputs(case, device, random)
    if case.op == "activate_cams":
        return _cam_inputs(case, device, random)
    if case.op == "compose_labels":
        return _label_inputs(case, device, random)
    if case.op == "crf_refine":
        return _crf_inputs(case, device, random)
    if case.op == "soft_union":
        return _soft_union_inputs(case, device, random)
    return [_level(case, size_hw, channels, device, random) for size_hw, channels in _levels(case.size_hw)]


def _warp_union_inputs(case: Case, device: str, random: torch.Generator) -> WarpUnionInputs:
    clips = range(min(case.clips, _DISTINCT_CLIPS))
    make = smooth_flow if case.flow == "smooth" else random_flow
    bits = torch.stack([_masks(case.planes, FRAMES, case.size_hw, random) for _ in clips])
    flow = torch.stack([make(FRAMES - 1, case.size_hw, random) for _ in clips]).to(case.dtype)
    return WarpUnionInputs(_batch(bits, case.clips, device), _batch(flow, case.clips, device))


def _cam_inputs(case: Case, device: str, random: torch.Generator) -> CamInputs:
    images = min(case.clips, _DISTINCT_CLIPS)
    cams, flips = [], []
    evidence = torch.randn(images, case.planes, 7, 7, generator=random) - 1
    for scale in SCALES:
        cam = _resize(evidence, _cam_size(case.size_hw, scale))
        for flip in (False, True):
            seen = cam + 0.1 * torch.randn(cam.shape, generator=random)  # no two scales agree
            cams.append(_batch(seen.flip(-1) if flip else seen, case.clips, device))
            flips.append(flip)
    return CamInputs(cams, flips, _all_classes(case, device), case.size_hw)


def _label_inputs(case: Case, device: str, random: torch.Generator) -> LabelInputs:
    images = min(case.clips, _DISTINCT_CLIPS)
    bits = _masks(case.planes, images, case.size_hw, random)
    saliency = _resize(torch.rand(images, 1, 9, 9, generator=random), case.size_hw).clamp(0, 1)
    return LabelInputs(
        _batch(bits, case.clips, device), _all_classes(case, device), _batch(saliency, case.clips, device)
    )


def _crf_inputs(case: Case, device: str, random: torch.Generator) -> CrfInputs:
    shape = (case.clips, case.planes, 9, 16)
    evidence = torch.randn(shape, generator=random)
    seen = _resize(evidence + 0.5 * torch.randn(shape, generator=random), case.size_hw)
    owner = _resize(evidence, case.size_hw).argmax(1)  # [B, H, W]
    colours = torch.rand(case.clips, case.planes, 3, generator=random)  # of each label's area
    image = colours[torch.arange(case.clips)[:, None, None], owner].movedim(-1, 1)  # [B, 3, H, W]
    for cells, strength in ((12, 0.15), (60, 0.03)):  # light, then texture
        image = image + strength * _resize(torch.randn(case.clips, 1, cells, 2 * cells, generator=random), case.size_hw)
    image = image + 0.005 * torch.randn(image.shape, generator=random)  # a sensor's noise
    return CrfInputs(seen.softmax(1).log().neg().to(device), ((image.clamp(0, 1) * 255).round() / 255).to(device))


def _soft_union_inputs(case: Case, device: str, random: torch.Generator) -> SoftUnionInputs:
    """Flow there and back agree but at the edges of what moves."""
    clips = range(min(case.clips, _DISTINCT_CLIPS))
    maps = _resize(torch.randn(len(clips) * FRAMES, case.planes, 15, 27, generator=random), case.size_hw).clamp(0, 1)
    flow = torch.stack([smooth_flow(FRAMES - 1, case.size_hw, random) for _ in clips])  # [B, K-1, 2, H, W]
    back = torch.stack([_inverse(steps) for steps in flow])
    maps = maps.view(len(clips), FRAMES, case.planes, *case.size_hw)
    return SoftUnionInputs(*(_batch(part, case.clips, device) for part in (maps, flow, back)))


def _inverse(flow: Tensor) -> Tensor:
    """The way back, [N, 2, H, W], of flow of that shape: back(p) = -flow(p + back(p)), found by repetition."""
    height, width = flow.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    last = torch.tensor([width - 1, height - 1])
    back = -flow
    for _ in range(5):
        place = torch.stack([x, y], dim=-1) + back.movedim(1, -1)  # [N, H, W, 2]
        back = -F.grid_sample(flow, 2 * place / last - 1, padding_mode="border", align_corners=True)
    return back


def _level(case: Case, size_hw: tuple[int, int], channels: int, device: str, random: torch.Generator) -> Level:
    numbers = [torch.randn(case.clips, count, *size_hw, generator=random) for count in (channels, channels, COSTS)]
    f1, f2, gradient = (part.to(device, case.dtype) for part in numbers)
    if case.op == "cost_volume":
        return Level((f1, f2), gradient)
    # Places stay off whole pixels: there the gradient jumps, and a last bit would decide it.
    flow = ((smooth_flow(1, size_hw, random) * 64).floor() / 64 + 1 / 128).to(case.dtype)
    return Level((f1, f2, _batch(flow, case.clips, device)), gradient)


def smooth_flow(steps: int, size_hw: tuple[int, int], random: torch.Generator) -> Tensor:
    """Flow of a camera that pans and zooms before which three ellipses move: float32 [steps, 2, H, W], (x, y) px."""
    height, width = size_hw
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    flow = []
    for _ in range(steps):
        field = _affine_motion(x, y, 0.01 * width, 0.01, random)
        for _ in range(3):
            centre, radii = _uniform(random, 2, 0.6), 0.2 + 0.2 * torch.rand(2, generator=random)
            inside = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < 1  # [H, W]
            field = torch.where(inside, _affine_motion(x, y, 0.03 * width, 0.04, random), field)
        flow.append(field)
    return torch.stack(flow)


def random_flow(steps: int, size_hw: tuple[int, int], random: torch.Generator) -> Tensor:
    """Flow drawn anew in every pixel, up to 16 px: float32 [steps, 2, H, W]; neighbours read in unrelated places."""
    return (2 * torch.rand(steps, 2, *size_hw, generator=random) - 1) * 16


def _affine_motion(x: Tensor, y: Tensor, most_px: float, most_turn: float, random: torch.Generator) -> Tensor:
    """Shift up to `most_px` and shear, turn and zoom up to `most_turn` px per px: [2, H, W]."""
    shift_px, turn = _uniform(random, 2, most_px), _uniform(random, 4, most_turn)
    height, width = x.shape
    x_px, y_px = x * width / 2, y * height / 2
    return torch.stack([shift_px[i] + turn[2 * i] * x_px + turn[2 * i + 1] * y_px for i in range(2)])


def _uniform(random: torch.Generator, count: int, most: float) -> list[float]:
    return [float(number) for number in (2 * torch.rand(count, generator=random) - 1) * most]


def _masks(planes: int, frames: int, size_hw: tuple[int, int], random: torch.Generator) -> Tensor:
    """Blobs that change from frame to frame, as bit planes: int32 [frames, N, H, W]."""
    evidence = torch.randn(1, planes, 7, 7, generator=random) - 1
    classes = torch.arange(planes)[None]
    bits = []
    for _ in range(frames):  # one at a time: the reference holds full-size float maps
        seen = _resize(evidence + 0.3 * torch.randn(evidence.shape, generator=random), _cam_size(size_hw, 1))
        bits.append(reference.activate_cams([seen], [False], classes, size_hw, THETA_F)[0][0])
    return torch.stack(bits)


def _all_classes(case: Case, device: str) -> Tensor:
    return torch.arange(case.planes, device=device).repeat(case.clips, 1)


def _batch(distinct: Tensor, clips: int, device: str) -> Tensor:
    """Repeat `distinct` along its first axis to `clips`, in memory."""
    return distinct[torch.arange(clips) % distinct.shape[0]].to(device)


def _resize(maps: Tensor, size_hw: Sequence[int]) -> Tensor:
    return F.interpolate(maps, list(size_hw), mode="bicubic", align_corners=False)


def _cam_size(size_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (math.ceil(scale * size / CAM_STRIDE_PX) for size in size_hw)
    return height, width


def _levels(size_hw: tuple[int, int]) -> list[tuple[tuple[int, int], int]]:
    """((height, width), channels) of PWC-Net's five levels; the image is padded to multiples of 64 px."""
    height, width = (math.ceil(size / 64) * 64 for size in size_hw)
    return [((height // stride, width // stride), channels) for stride, channels in PWC_LEVELS]


def _pixels(case: Case) -> int:
    return math.prod(case.size_hw)
