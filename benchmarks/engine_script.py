"""The script that f2f's engine is measured against: the same job as a capable researcher would write it in PyTorch.

PyAV, networks run eagerly, one video after the other: scan its frames at one scale, stop when there are enough
windows, and only for those run CAMs at several scales, flow, `grid_sample` and PIL. No shortcut is left out that takes
a line or two: inference mode, channels-last convolutions, threaded decoding, batches, frames resized while they are
decoded. With `frugal`, it does not even score the rest of a shot that has its window.

It imports nothing of the engine but its cut detector, so that both cut videos into the same shots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from f2f.engine.shots import CutDetector

ImageArray = npt.NDArray[np.uint8]
FlowFunction = Callable[[list[ImageArray]], Tensor]
"""K uint8 [H, W, 3] frames -> float32 [K-1, 2, H, W] px, flow k on frame k+1, pointing to frame k"""


@dataclass(frozen=True)
class Settings:
    """What both sides are asked for."""

    tau: float | None
    """None: the query is trusted"""
    theta_f: float
    window_frames: int = 5
    sample_fps: float = 6.0
    max_side: int = 500
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25)
    batch: int = 8
    frugal: bool = False
    """leave out frames of shots that have their window"""


@dataclass(frozen=True)
class Shown:
    """A sampled frame."""

    pts_seconds: float
    shot: int
    image: ImageArray


def label_videos(
    videos: Sequence[tuple[Path, int]],
    classifier: nn.Module,
    flow: FlowFunction,
    settings: Settings,
    palette: list[int],
    out: Path,
) -> int:
    """Label (path, channel of the query) one by one; masks go to `out`, <video>-<window>.png; their number."""
    masks = 0
    for path, query in videos:
        for number, (frames, classes) in enumerate(windows_of(path, query, classifier, settings)):
            labels = mask_of(frames, classes, classifier, flow, settings)
            name = f"{path.stem}-{number:04d}"
            image = Image.fromarray(labels)
            image.putpalette(palette)
            image.save(out / f"{name}.png")
            Image.fromarray(frames[-1]).save(out / f"{name}.jpg", quality=95, subsampling=0)
            masks += 1
    return masks


def decoded(path: Path, settings: Settings) -> Iterator[Shown]:
    """Frames of a video on a grid of `sample_fps`, scaled to `max_side`, with the number of their shot."""
    cuts, shot, is_new, next_pts, last_pts = CutDetector(), 0, False, -math.inf, -math.inf
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        scale = min(1.0, settings.max_side / max(stream.width, stream.height))
        size = round(stream.width * scale), round(stream.height * scale)
        start = None
        for frame in container.decode(stream):
            assert frame.time is not None
            start = frame.time if start is None else start
            is_new |= cuts.is_cut(frame.reformat(64, 36, "gray", interpolation="AREA").to_ndarray().astype(np.uint8))
            if frame.time < next_pts - 1e-3:
                continue
            steps = math.floor((frame.time - start + 1e-3) * settings.sample_fps) + 1
            next_pts = start + steps / settings.sample_fps
            is_new |= frame.time - last_pts > 2.5 / settings.sample_fps
            shot += is_new and last_pts > -math.inf
            last_pts, is_new = frame.time, False
            pixels = frame.reformat(*size, "rgb24", interpolation="AREA").to_ndarray()
            yield Shown(frame.time, shot, pixels.astype(np.uint8, copy=False))


def windows_of(
    path: Path, query: int, classifier: nn.Module, settings: Settings
) -> Iterator[tuple[list[ImageArray], list[int]]]:
    """(K frames, label set) of the first run of every shot whose frames have one label set that contains the query."""
    run: list[Shown] = []
    key: tuple[int, tuple[int, ...]] | None = None
    done: set[int] = set()
    for shown, classes in scanned(path, query, classifier, settings, done if settings.frugal else set()):
        if shown.shot in done:
            continue
        if (shown.shot, classes) != key:
            run, key = [], (shown.shot, classes)
        if query in classes and np.ptp(shown.image) > 6:
            run.append(shown)
        if len(run) == settings.window_frames:
            yield [one.image for one in run], list(classes)
            done.add(shown.shot)


def scanned(
    path: Path, query: int, classifier: nn.Module, settings: Settings, done: set[int]
) -> Iterator[tuple[Shown, tuple[int, ...]]]:
    """Every frame, but those of shots that are done, with the classes that score above tau; a batch at a time."""
    if settings.tau is None:
        for shown in decoded(path, settings):
            yield shown, (query,)
        return
    batch: list[Shown] = []
    for shown in decoded(path, settings):
        if shown.shot not in done:
            batch.append(shown)
        if len(batch) == settings.batch:
            yield from scored(batch, classifier, settings.tau)
            batch = []
    yield from scored(batch, classifier, settings.tau)


def scored(batch: list[Shown], classifier: nn.Module, tau: float) -> Iterator[tuple[Shown, tuple[int, ...]]]:
    """Frames of one size with the classes that they show."""
    if batch:
        scores, _ = classifier(as_batch([shown.image for shown in batch]))
        for shown, row in zip(batch, scores, strict=True):
            yield shown, tuple(int(channel) for channel in torch.nonzero(row > tau)[:, 0])


def as_batch(images: Sequence[ImageArray]) -> Tensor:
    """uint8 [H, W, 3] images -> float32 [B, 3, H, W] in 0..1, channels last in memory."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255)


def mask_of(
    frames: list[ImageArray], classes: list[int], classifier: nn.Module, flow: FlowFunction, settings: Settings
) -> ImageArray:
    """CAMs at several scales, thresholded, warped frame to frame and united (paper §3.3); smaller classes win."""
    active = active_regions(as_batch(frames), classes, classifier, settings)  # [K, P, H, W]
    flows = flow(frames)  # [K-1, 2, H, W]
    united = active[0]
    for region, motion in zip(active[1:], flows, strict=True):
        united = torch.maximum(region, warped(united, motion))
    labels = torch.full(united.shape[-2:], 255, dtype=torch.uint8)
    areas = united.sum((1, 2))
    for place in sorted(range(len(classes)), key=lambda p: (float(areas[p]), classes[p]), reverse=True):
        labels[united[place] > 0] = classes[place] + 1
    return labels.numpy()


def active_regions(images: Tensor, classes: list[int], classifier: nn.Module, settings: Settings) -> Tensor:
    """Pixelwise maximum of the CAMs of all scales and mirror images, above theta_f of its peak: 0 or 1 [K, P, H, W]."""
    size = images.shape[-2:]
    strongest = torch.zeros(len(images), len(classes), *size)
    for scale in settings.scales:
        scaled_size = [max(1, round(side * scale)) for side in size]
        scaled = F.interpolate(images, scaled_size, mode="bilinear", antialias=True) if scale != 1 else images
        for flips in (False, True):
            _, cams = classifier(scaled.flip(-1) if flips else scaled)
            cams = F.interpolate(cams[:, classes].relu(), size, mode="bilinear", align_corners=False)
            strongest = torch.maximum(strongest, cams.flip(-1) if flips else cams)
    peaks = strongest.amax((-2, -1), keepdim=True)
    return (strongest > settings.theta_f * (peaks + 1e-5)).float()


def warped(mask: Tensor, flow_xy_px: Tensor) -> Tensor:
    """A mask [P, H, W] of 0 and 1, sampled where the flow [2, H, W] points; a pixel is in where more than half is."""
    height, width = flow_xy_px.shape[-2:]
    x = torch.arange(width) + flow_xy_px[0]
    y = torch.arange(height)[:, None] + flow_xy_px[1]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)  # [H, W, 2]
    return (F.grid_sample(mask[None], grid[None], align_corners=True)[0] > 0.5).float()
