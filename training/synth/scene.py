"""A shot: layers, actors and props under one camera and one light; any moment of it as picture, labels and flow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from f2f.training.synth.affine import Affine, scaling, translation
from f2f.training.synth.motion import Camera, Curve, Path
from f2f.training.synth.puppet import Puppet
from f2f.training.synth.raster import Light, Placed, flow_between, labels_of_pixels, paint_frame
from f2f.training.synth.scenery import Layer
from f2f.training.synth.sprites import Sprite

BLUR_PX = 2.0
MAX_SUBFRAMES = 4


@dataclass(frozen=True)
class Rendered:
    """A moment of a scene."""

    image: NDArray[np.uint8]
    """[H,W,3] RGB."""
    labels: NDArray[np.uint8]
    """[H,W]: 0 or class + 1 of the front-most surface at the pixel's centre."""

    def __post_init__(self) -> None:
        assert self.image.shape == (*self.labels.shape, 3), (self.image.shape, self.labels.shape)
        assert self.image.dtype == self.labels.dtype == np.uint8


@dataclass(frozen=True)
class Actor:
    """A puppet on a path."""

    puppet: Puppet
    path: Path
    label: int = 0
    """Its label: 0 (no class) or class + 1."""
    parallax: float = 1.0
    shadow: Sprite | None = None

    def placed(self, camera: Camera, seconds: float, size_hw: tuple[int, int]) -> list[Placed]:
        """Its sprites at a moment, back to front."""
        base = camera.view(seconds, size_hw, self.parallax) @ self.path.place(seconds)
        pose = self.puppet.pose(self.path.gait(seconds), seconds)
        parts = [
            Placed(sprite, base @ move @ sprite.to_body, self.label)
            for sprite, move in zip(self.puppet.sprites, pose, strict=True)
        ]
        if self.shadow is None:
            return parts
        return [Placed(self.shadow, base @ self._shadow_shape() @ self.shadow.to_body, shadow=True), *parts]

    def _shadow_shape(self) -> Affine:
        return translation(-0.06, 0.0) @ scaling(1.1 * self.puppet.body.half_width, 0.13)


@dataclass(frozen=True)
class Lens:
    """What the camera does to the light: exposure, colours, grain, vignette."""

    exposure: Curve
    """Factor on the light over time."""
    colours: NDArray[np.float32]
    """[3,3] colour matrix on display values."""
    contrast: float
    noise: float
    """Standard deviation of the grain in display values (0..1)."""
    vignette: float
    shutter_seconds: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """One shot. Times are seconds from its start."""

    size_hw: tuple[int, int]
    layers: tuple[Layer, ...]
    actors: tuple[Actor, ...]
    """From back to front."""
    camera: Camera
    light: Light
    lens: Lens
    classes: tuple[str, ...]
    """Classes of the actors in it."""
    duration_seconds: float

    def placed(self, seconds: float) -> list[Placed]:
        """Every sprite at a moment, back to front; the order is the same at all times."""
        moment = [
            Placed(
                layer.sprite,
                self.camera.view(seconds, self.size_hw, layer.parallax) @ _drift(layer, seconds) @ layer.sprite.to_body,
            )
            for layer in self.layers
        ]
        for actor in self.actors:
            moment += actor.placed(self.camera, seconds, self.size_hw)
        return moment

    def render(self, t_seconds: float) -> Rendered:
        """Picture and labels at a moment; fast motion is blurred over the shutter, labels are of the moment itself."""
        now = self.placed(t_seconds)
        light = self._exposed(t_seconds, now)
        return Rendered(_develop(light, self.lens, t_seconds), labels_of_pixels(now, self.size_hw).numpy())

    def labels(self, t_seconds: float) -> NDArray[np.uint8]:
        """The labels alone, [H,W] uint8."""
        return labels_of_pixels(self.placed(t_seconds), self.size_hw).numpy()

    def _exposed(self, t_seconds: float, now: list[Placed]) -> torch.Tensor:
        open_to = self.placed(t_seconds + self.lens.shutter_seconds)
        count = min(MAX_SUBFRAMES, 1 + int(_reach_px(now, open_to, self.size_hw) / BLUR_PX))
        if count == 1:
            return paint_frame(now, self.size_hw, self.light)
        offsets = (np.arange(count) + 0.5) / count - 0.5
        moments = [self.placed(t_seconds + float(offset) * self.lens.shutter_seconds) for offset in offsets]
        total = torch.zeros(3, *self.size_hw)
        for moment in moments:
            total += paint_frame(moment, self.size_hw, self.light)
        return total / count


def exact_flow(scene: Scene, t_from: float, t_to: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Flow [H,W,2] px on the pixels of `t_from` to `t_to`, and where that surface point is seen at `t_to`, [H,W].

    Exact for the surface in front at the pixel's centre; seen = in frame and in front there.
    """
    return flow_between(scene.placed(t_from), scene.placed(t_to), scene.size_hw)


def _drift(layer: Layer, seconds: float) -> Affine:
    if layer.swell:
        return translation(2 * layer.drift * np.sin(1.3 * seconds), layer.drift * np.sin(2.1 * seconds))
    return translation(layer.drift * seconds, 0.0)


def _reach_px(before: list[Placed], after: list[Placed], size_hw: tuple[int, int]) -> float:
    """The longest way a sprite's middle or corner goes within the frame, in px."""
    h, w = size_hw
    reach = 0.0
    for first, second in zip(before, after, strict=True):
        if first.shadow:
            continue
        tw, th = first.sprite.size_wh
        points = np.array(
            [[0.5 * tw, 0.5 * th, 1], [0.5 * tw, 0, 1], [0.5 * tw, th, 1], [0, 0.5 * th, 1], [tw, 0.5 * th, 1]]
        ).T
        if first.sprite.endless:
            points = np.linalg.inv(first.to_frame) @ np.array([[0, 0, 1], [w, h, 1.0]]).T
        start, end = (first.to_frame @ points)[:2], (second.to_frame @ points)[:2]
        inside = (start > -8).all(0) & (start[0] < w + 8) & (start[1] < h + 8)
        if inside.any():
            reach = max(reach, float(np.hypot(*(end - start)[:, inside]).max()))
    return reach


def _develop(light: torch.Tensor, lens: Lens, t_seconds: float) -> NDArray[np.uint8]:
    """Linear light [3,H,W] to a picture [H,W,3]: exposure, display curve, grading, vignette, grain."""
    _, h, w = light.shape
    exposed = light * lens.exposure(t_seconds)
    display = exposed.div_((exposed * 0.12).add_(1)).clamp_min_(0).sqrt_()
    graded = torch.from_numpy(lens.colours) @ display.reshape(3, -1)
    graded = graded.sub_(0.5).mul_(lens.contrast).add_(0.5).reshape(3, h, w)
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    graded *= 1 - lens.vignette * (x * x + y * y)
    if lens.noise:
        rng = np.random.default_rng([lens.seed, round(t_seconds * 1e6) & 0xFFFFFFFF])
        graded += torch.from_numpy(rng.standard_normal((3, h, w), np.float32)).mul_(lens.noise)
    picture = graded.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
