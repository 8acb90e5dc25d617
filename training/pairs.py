"""Pairs of frames with exact flow: rendered once into a cache, then cropped, turned and recoloured on the fly.

Letters: H, W frame size, h, w crop size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

FLOW_STEPS_PER_PX = 64
FRAME_HW = (240, 427)
GAPS_SECONDS = (1 / 12, 1 / 6, 1 / 6, 1 / 4)
"""between the two frames of a pair; crawls are sampled at 6 frames/s"""
SCENE_SECONDS = 3.0


@dataclass(frozen=True)
class Pair:
    """Two frames and where the first one's pixels go."""

    first: NDArray[np.uint8]
    """[H,W,3] RGB"""
    second: NDArray[np.uint8]
    """[H,W,3] RGB"""
    flow_xy_px: NDArray[np.float32]
    """[H,W,2], on the pixels of `first`, pointing to `second`"""
    visible: NDArray[np.bool_]
    """[H,W], where the point is also seen in `second`"""
    known: NDArray[np.bool_] | None = None
    """[H,W], where flow is given; None: everywhere"""


def save_pair(path: Path, pair: Pair) -> None:
    """Write one pair whose flow is known everywhere; flow to 1/64 px."""
    assert pair.known is None
    flow = (pair.flow_xy_px * FLOW_STEPS_PER_PX).round().clip(-32768, 32767).astype(np.int16)
    partial_path = path.with_name(f".{path.name}.{os.getpid()}")
    with partial_path.open("wb") as file:
        np.savez(file, first=pair.first, second=pair.second, flow=flow, visible=np.packbits(pair.visible))
    partial_path.replace(path)


def load_pair(path: Path) -> Pair:
    """Read what `save_pair` wrote."""
    with np.load(path) as stored:
        first, flow = stored["first"], stored["flow"].astype(np.float32) / FLOW_STEPS_PER_PX
        visible = np.unpackbits(stored["visible"], count=first.shape[0] * first.shape[1]).astype(bool)
        return Pair(first, stored["second"], flow, visible.reshape(first.shape[:2]))


def scene_pairs(seed: tuple[int, ...], count: int) -> Iterator[Pair]:
    """`count` pairs of one rendered scene, at different moments and gaps, half of them backwards in time."""
    from f2f.training.synth import exact_flow, random_scene

    rng = np.random.default_rng(seed)
    scene = random_scene(list(seed), FRAME_HW, duration_seconds=SCENE_SECONDS)
    for _ in range(count):
        gap = float(rng.choice(GAPS_SECONDS))
        begin = float(rng.uniform(0, SCENE_SECONDS - gap))
        start, end = (begin, begin + gap) if rng.random() < 0.5 else (begin + gap, begin)
        flow, visible = exact_flow(scene, start, end)
        yield Pair(scene.render(start).image, scene.render(end).image, flow, visible)


PairSource = Callable[[tuple[int, ...], int], Iterator[Pair]]


def fill_cache(folder: Path, source: PairSource, seed: int, groups: int, per_group: int, workers: int) -> list[Path]:
    """Render `groups` × `per_group` pairs into `folder`, those that are missing; returns all their files in order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [[folder / f"{group:05d}-{place}.npz" for place in range(per_group)] for group in range(groups)]
    missing = [(group, paths) for group, paths in enumerate(files) if not all(path.exists() for path in paths)]
    render = partial(_render_group, source, seed)
    if workers == 0:
        for job in missing:
            render(job)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(render, missing))
    return [path for paths in files for path in paths]


def _render_group(source: PairSource, seed: int, job: tuple[int, list[Path]]) -> None:
    torch.set_num_threads(1)
    group, paths = job
    for path, pair in zip(paths, source((seed, group), len(paths)), strict=True):
        save_pair(path, pair)


@dataclass(frozen=True)
class FlowSample:
    """A training sample; tensors so that a loader can stack them."""

    frames: Tensor
    """[2,3,h,w] RGB 0..1: first, second"""
    flow: Tensor
    """[3,h,w]: x, y in px on the first frame, and 1 where they are known"""


Draw = Callable[[np.random.Generator], Pair]


@dataclass(frozen=True)
class CachedPairs:
    """What `fill_cache` has rendered."""

    rendered: Sequence[Path]
    layered: Sequence[Path]
    layered_share: float
    """share of the pairs that come from `layered`, 0..1"""

    def draw(self, rng: np.random.Generator) -> Pair:
        """Any pair."""
        files = self.layered if rng.random() < self.layered_share else self.rendered
        return load_pair(files[int(rng.integers(len(files)))])


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops, drawn by (seed, index) alone: the same index gives the same sample on every run."""

    def __init__(self, sources: Sequence[Draw], crop_hw: tuple[int, int], seed: int, hidden: bool = True) -> None:
        """`sources` are drawn from equally often; without `hidden`, flow counts as known where its end is seen."""
        self.sources, self.crop_hw, self.seed, self.hidden = sources, crop_hw, seed, hidden

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Frames [2,3,h,w] and flow [3,h,w] as in FlowSample."""
        rng = np.random.default_rng((self.seed, index))
        place = int(rng.integers(len(self.sources))) if len(self.sources) > 1 else 0
        pair = self.sources[place](rng)
        sample = augment(pair if self.hidden else _seen(pair), self.crop_hw, rng)
        return sample.frames, sample.flow


def _seen(pair: Pair) -> Pair:
    """The same, its flow known only where the point is seen in both frames."""
    return replace(pair, known=pair.visible if pair.known is None else pair.visible & pair.known)


def augment(pair: Pair, crop_hw: tuple[int, int], rng: np.random.Generator) -> FlowSample:
    """Cut a crop: zoomed, turned, mirrored, the second frame moved a little more, colours changed."""
    view = _random_view(rng, pair.first.shape[:2], crop_hw)
    other = view @ _nudge(rng, crop_hw) if rng.random() < 0.5 else view
    grid = _grid(crop_hw)
    here = _apply(view, grid)  # [h,w,2] place in `first`, px
    flow, known = _sample_flow(pair, here)
    target = _apply(np.linalg.inv(other), here + flow) - grid
    images = [_sample(pair.first, here), _sample(pair.second, _apply(other, grid))]
    frames = _recolour(torch.stack(images), rng)
    return FlowSample(frames, torch.cat([target.permute(2, 0, 1), known[None]]))


def _random_view(rng: np.random.Generator, from_hw: tuple[int, ...], crop_hw: tuple[int, int]) -> NDArray[np.float64]:
    """3×3: crop px -> source px; a source smaller than the crop is zoomed to cover it."""
    cover = max(1.0, *(crop / size for crop, size in zip(crop_hw, from_hw, strict=True)))
    zoom = cover * float(np.exp(rng.uniform(-0.25, 0.6)))
    aspect = float(np.exp(rng.normal(0, 0.08)))
    turn = float(rng.normal(0, 0.12))
    zoom_x, zoom_y = zoom * aspect * rng.choice((-1, 1)), zoom / aspect * rng.choice((-1, 1), p=(0.2, 0.8))
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / np.array([zoom_x, zoom_y])
    half = np.array([crop_hw[1] - 1, crop_hw[0] - 1]) / 2
    reach = np.abs(linear) @ half
    size = np.array([from_hw[1] - 1, from_hw[0] - 1])
    spare = np.maximum(size - 2 * reach, 0) / 2
    middle = size / 2 + rng.uniform(-1, 1, 2) * spare
    view = np.eye(3)
    view[:2, :2], view[:2, 2] = linear, middle - linear @ half
    return view


def _nudge(rng: np.random.Generator, crop_hw: tuple[int, int]) -> NDArray[np.float64]:
    """3×3: a small turn, zoom and shift about the crop's middle."""
    turn, zoom = float(rng.normal(0, 0.02)), float(np.exp(rng.normal(0, 0.025)))
    nudge, back = np.eye(3), np.eye(3)
    nudge[:2, :2] = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    half = np.array([crop_hw[1] - 1, crop_hw[0] - 1]) / 2
    nudge[:2, 2], back[:2, 2] = half + rng.laplace(0, 3, 2), -half
    moved: NDArray[np.float64] = nudge @ back
    return moved


def _grid(size_hw: tuple[int, int]) -> Tensor:
    """[h,w,2]: x and y of every pixel, px."""
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in size_hw), indexing="ij")
    return torch.stack([x, y], -1)


def _apply(matrix: NDArray[Any], points: Tensor) -> Tensor:
    linear = torch.from_numpy(matrix).float()
    return points @ linear[:2, :2].T + linear[:2, 2]


def _sample(image: NDArray[np.uint8], place: Tensor) -> Tensor:
    """Bilinear samples [3,h,w], 0..1, of [H,W,3] at [h,w,2] px; outside, the border's colour."""
    source = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    unit = _unit(place, image.shape)
    return F.grid_sample(source, unit[None], padding_mode="border", align_corners=True)[0]


def _unit(place: Tensor, shape: tuple[int, ...]) -> Tensor:
    return 2 * place / torch.tensor([shape[1] - 1, shape[0] - 1]) - 1


def _sample_flow(pair: Pair, place: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest flow [h,w,2] px of the source at [h,w,2], and [h,w] 1 where it is known and inside the source frame."""
    height, width = pair.first.shape[:2]
    x, y = place.round().long().unbind(-1)
    known = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    if pair.known is not None:
        known &= torch.from_numpy(pair.known)[y, x]
    return torch.from_numpy(pair.flow_xy_px)[y, x], known.float()


def _recolour(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """[2,3,h,w] -> the same as two shots of one camera: light, colours, blur, noise and compression of their own."""
    contrast = np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.03, 2))
    brightness = rng.normal(0, 0.08) + rng.normal(0, 0.02, 2)
    gamma = float(np.exp(rng.normal(0, 0.2)))
    mix = torch.from_numpy(np.eye(3) + rng.normal(0, 0.1, (3, 3))).float()
    gain = torch.from_numpy(contrast).float().view(2, 1, 1, 1)
    lift = torch.from_numpy(brightness).float().view(2, 1, 1, 1)
    frames = torch.einsum("ij,njhw->nihw", mix, frames)
    frames = ((frames - 0.5) * gain + 0.5 + lift).clamp(0, 1) ** gamma
    if rng.random() < 0.3:
        frames = frames * _uneven_light(rng, frames.shape[-2:])
    if rng.random() < 0.3:
        frames = F.avg_pool2d(frames, 3, 1, 1, count_include_pad=False)
    noise = torch.from_numpy(rng.standard_normal(frames.shape, dtype=np.float32))
    frames = (frames + noise * abs(float(rng.normal(0, 0.025)))).clamp(0, 1)
    return _compressed(frames, int(rng.integers(25, 95))) if rng.random() < 0.4 else frames


def _uneven_light(rng: np.random.Generator, size_hw: tuple[int, ...]) -> Tensor:
    """[2,1,h,w] factors about 1: a slope of light that both frames share, and a small one of their own."""
    slopes = rng.normal(0, 0.15, (1, 2)) + rng.normal(0, 0.04, (2, 2))
    down, right = (torch.linspace(-1, 1, size) for size in size_hw)
    own = [float(y) * down[:, None] + float(x) * right for y, x in slopes]
    return (1 + torch.stack(own)[:, None]).clamp(0.4, 1.6)


def _compressed(frames: Tensor, quality: int) -> Tensor:
    """[n,3,h,w] as JPEG of this quality leaves it."""
    images = (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # [n,h,w,3]
    decoded = np.stack([_through_jpeg(image, quality) for image in images])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).float() / 255


def _through_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))
