"""Draws a whole shot from a seed: place, light, camera, actors, props, lens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from f2f.engine.errors import UsageError
from f2f.training.synth.affine import scaling, translation
from f2f.training.synth.birds import draw_bird
from f2f.training.synth.classes import CLASSES, FAMILIES, NO_CLASS
from f2f.training.synth.motion import Camera, Path, draw_camera, ease, wobble
from f2f.training.synth.noise import smoothstep
from f2f.training.synth.props import FOREGROUND, MOVING, STANDING, DrawProp
from f2f.training.synth.puppet import Body, draw_puppet
from f2f.training.synth.quadrupeds import draw_quadruped
from f2f.training.synth.raster import Light
from f2f.training.synth.scene import Actor, Lens, Scene
from f2f.training.synth.scenery import draw_layers
from f2f.training.synth.sprites import Sprite, sprite_from_rgba
from f2f.training.synth.themes import THEMES, Theme
from f2f.training.synth.vehicles import draw_vehicle

DRAW: dict[str, Callable[[np.random.Generator, str], Body]] = {
    "quadruped": draw_quadruped,
    "bird": draw_bird,
    "vehicle": draw_vehicle,
}
HEIGHT_RANGE = {"quadruped": (0.46, 0.78), "bird": (0.50, 0.82), "vehicle": (0.42, 0.70)}
"""Scale of a lone actor: world units (frame heights) per body unit."""


def random_scene(
    seed: int | Sequence[int],
    size_hw: tuple[int, int],
    *,
    classes: Sequence[str] | None = None,
    duration_seconds: float = 3.0,
) -> Scene:
    """One shot. `classes`: who plays in it (may be empty); None: one or two classes drawn by the seed."""
    rng = np.random.default_rng(seed)
    names = tuple(_draw_classes(rng) if classes is None else classes)
    for name in names:
        if name not in CLASSES:
            raise UsageError(f"class {name!r} is not drawn; accepted: {', '.join(CLASSES)}")
    theme = THEMES[int(rng.integers(len(THEMES)))]
    h, w = size_hw
    horizon = float(rng.uniform(-0.06, 0.10))
    camera = draw_camera(rng, duration_seconds)
    layers = draw_layers(rng, theme, horizon, 0.5 * w / h, float(h))
    stage = _Stage(rng, size_hw, theme, camera, horizon, duration_seconds)
    actors = [*stage.standing(), *stage.cast(names), *stage.moving()]
    actors.sort(key=lambda actor: actor.path.y(0.0))
    lens = _draw_lens(rng)
    return Scene(
        size_hw, layers, (*actors, *stage.foreground()), camera, _draw_light(rng, theme), lens, names, duration_seconds
    )


def _draw_classes(rng: np.random.Generator) -> tuple[str, ...]:
    count = 2 if rng.random() < 0.25 else 1
    return tuple(str(name) for name in rng.choice(CLASSES, count, replace=False))


class _Stage:
    """Puts bodies into one scene; keeps what all of them need."""

    def __init__(
        self,
        rng: np.random.Generator,
        size_hw: tuple[int, int],
        theme: Theme,
        camera: Camera,
        horizon: float,
        duration_seconds: float,
    ) -> None:
        self.rng, self.size_hw, self.theme, self.camera = rng, size_hw, theme, camera
        self.horizon, self.duration_seconds = horizon, duration_seconds
        self.half_width = 0.5 * size_hw[1] / size_hw[0]

    def cast(self, names: Sequence[str]) -> list[Actor]:
        """One actor per class; at times one more body of no class."""
        roles = [(name, next(family for family, members in FAMILIES.items() if name in members)) for name in names]
        if self.rng.random() < (0.12 if names else 0.6):
            roles.append((NO_CLASS, str(self.rng.choice(list(FAMILIES)))))
        places = self.rng.permutation(len(roles)) - 0.5 * (len(roles) - 1)
        return [
            self._star(name, family, float(place), len(roles))
            for (name, family), place in zip(roles, places, strict=True)
        ]

    def _star(self, name: str, family: str, place: float, count: int) -> Actor:
        rng = self.rng
        body = DRAW[family](rng, name)
        low, high = HEIGHT_RANGE[family]
        size = float(np.exp(rng.uniform(np.log(low), np.log(high)))) * (1.0 if count == 1 else 0.74)
        label = CLASSES.index(name) + 1 if name else 0
        return self._actor(body, self._walk(body, size, place * 0.9 * self.half_width, count), label)

    def _walk(self, body: Body, size: float, centre: float, count: int) -> Path:
        """Across the picture, on the spot, or towards the viewer; following the camera, so it stays in view."""
        rng, half, seconds = self.rng, self.half_width, self.duration_seconds
        reach = (
            float(rng.uniform(0.15, 0.75)) * half * (1.0 if count == 1 else 0.5) * (0.0 if rng.random() < 0.2 else 1.0)
        )
        side = float(rng.choice([-1.0, 1.0]))
        across = ease(centre - 0.5 * side * reach, centre + 0.5 * side * reach, seconds)
        camera = self.camera
        growth = float(rng.choice([1.0, 1.0, 0.75, 1.3]))
        foot = min(0.46, self.horizon + 0.10 + 0.42 * size * float(rng.uniform(0.75, 1.1)))
        scale = ease(size / growth**0.5, size * growth**0.5, seconds)
        speed = (camera.x(seconds) - camera.x(0.0) + side * reach) / seconds
        resting = abs(speed) < 0.04
        return Path(
            x=lambda t: camera.x(t) + across(t),
            y=ease(foot - 0.05 * np.log(growth), foot + 0.05 * np.log(growth), seconds),
            scale=scale,
            facing=float(np.sign(speed)) or side,
            turns_per_unit=0.0 if resting else 1 / (body.stride * size),
            idle_hertz=float(rng.uniform(0.4, 0.8)) if resting else 0.0,
        )

    def _actor(self, body: Body, path: Path, label: int = 0, *, parallax: float = 1.0, shadow: bool = True) -> Actor:
        seconds, zoom = self.duration_seconds, self.camera.zoom
        largest = max(path.scale(t) * zoom(t) for t in (0.0, 0.5 * seconds, seconds))
        puppet = draw_puppet(body, 1.05 * largest * self.size_hw[0])
        return Actor(puppet, path, label, parallax, shadow_sprite() if shadow else None)

    def _rest(
        self, body: Body, x: float, y: float, size: float, *, parallax: float = 1.0, shadow: bool = True
    ) -> Actor:
        path = Path(lambda t: x, lambda t: y, lambda t: size, float(self.rng.choice([-1.0, 1.0])), 0.0)
        return self._actor(body, path, parallax=parallax, shadow=shadow)

    def standing(self) -> list[Actor]:
        """Plants, rocks and posts on the ground, most of them behind the actors."""
        props = []
        for _ in range(int(self.rng.integers(2, 6))):
            depth = float(self.rng.uniform(0.02, 0.22))
            draw = _choose(self.rng, STANDING)
            size = (
                (0.22 + 1.3 * depth)
                * float(self.rng.uniform(0.8, 1.3))
                * (1.0 if draw.__name__ in {"tree", "fir"} else 0.5)
            )
            x = float(self.rng.uniform(-1.25, 1.25)) * self.half_width
            props.append(self._rest(draw(self.rng, self.theme), x, self.horizon + depth, size))
        return props

    def moving(self) -> list[Actor]:
        """A ball rolls or a balloon hovers by."""
        if self.rng.random() > 0.35:
            return []
        body, half = _choose(self.rng, MOVING)(self.rng, self.theme), self.half_width
        size, y = float(self.rng.uniform(0.16, 0.28)), float(self.rng.uniform(0.15, 0.42))
        start, end = (float(x) for x in self.rng.uniform(-0.9 * half, 0.9 * half, 2))
        path = Path(
            ease(start, end, self.duration_seconds),
            lambda t: y,
            lambda t: size,
            float(np.sign(end - start)),
            1 / (body.stride * size),
        )
        return [self._actor(body, path)]

    def foreground(self) -> list[Actor]:
        """Out of reach in front: grass, a bush, a post, a fence."""
        if self.rng.random() > 0.55:
            return []
        draw = _choose(self.rng, FOREGROUND)
        count = {"grass": 4, "bush": 1, "post": 2, "fence": 2}[draw.__name__]
        size = {"grass": 0.24, "bush": 0.42, "post": 0.85, "fence": 0.42}[draw.__name__] * float(
            self.rng.uniform(0.85, 1.25)
        )
        spots = self.rng.uniform(-1.1, 1.1, count) * self.half_width
        return [
            self._rest(draw(self.rng, self.theme), float(x), 0.56, size, parallax=1.35, shadow=False) for x in spots
        ]


def _choose(rng: np.random.Generator, drawers: tuple[DrawProp, ...]) -> DrawProp:
    return drawers[int(rng.integers(len(drawers)))]


@lru_cache(maxsize=1)
def shadow_sprite() -> Sprite:
    """A soft dark disc of unit radius."""
    y, x = np.mgrid[:64, :64].astype(np.float32) / 32 - 1 + 1 / 64
    alpha = 0.55 * (1 - smoothstep(0.25, 1.0, np.hypot(x, y)))
    rgb = np.broadcast_to(np.asarray((0.16, 0.17, 0.22), np.float32), (64, 64, 3))
    return sprite_from_rgba(rgb, alpha, translation(-1, -1) @ scaling(1 / 32))


def _draw_light(rng: np.random.Generator, theme: Theme) -> Light:
    azimuth = float(rng.uniform(-1.1, 1.1))
    direction = np.array([np.sin(azimuth), -0.75, 0.55 + 0.3 * np.cos(azimuth)])
    x, y, z = (direction / np.linalg.norm(direction)).tolist()
    sun, shade = np.asarray(theme.sun) ** 2 * 0.95, np.asarray(theme.shade) ** 2 * 0.75
    return Light((x, y, z), tuple(sun.tolist()), tuple(shade.tolist()))


def _draw_lens(rng: np.random.Generator) -> Lens:
    gain, saturation = rng.uniform(0.95, 1.05, 3), float(rng.uniform(0.8, 1.15))
    grey = np.full((3, 3), 1 / 3)
    colours = (saturation * np.eye(3) + (1 - saturation) * grey) * gain[:, None]
    level, flicker = float(rng.uniform(0.85, 1.12)), wobble(rng, float(rng.choice([0.01, 0.03, 0.15])), 0.35)
    return Lens(
        exposure=lambda t: level * (1 + flicker(t)),
        colours=colours.astype(np.float32),
        contrast=float(rng.uniform(0.95, 1.12)),
        noise=float(rng.uniform(0.004, 0.022)),
        vignette=float(rng.uniform(0.0, 0.09)),
        shutter_seconds=float(rng.uniform(0.012, 0.035)),
        seed=int(rng.integers(2**31)),
    )
