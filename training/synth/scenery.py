"""The layers an actor moves in front of: sky, distance, horizon, ground. World unit: the frame's height; y down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from f2f.training.synth.affine import Points, scaling, translation
from f2f.training.synth.coats import RGB, vary
from f2f.training.synth.noise import Field, mix, octaves, smoothstep
from f2f.training.synth.outlines import polygon
from f2f.training.synth.sprites import Sprite, rasterise, sprite_from_rgba
from f2f.training.synth.themes import Theme


@dataclass(frozen=True)
class Layer:
    """A sheet of scenery."""

    sprite: Sprite
    """Its body units are world units."""
    parallax: float
    """1: moves with the ground the actors stand on; 0: infinitely far."""
    drift: float = 0.0
    """World units per second it moves on its own (clouds) or the reach of its swell (water)."""
    swell: bool = False


@dataclass(frozen=True)
class Canvas:
    """The texture a layer is painted on: texels [h,w] and the world point of every texel."""

    left: float
    top: float
    texels_per_unit: float
    size_hw: tuple[int, int]

    @classmethod
    def spanning(cls, left: float, top: float, right: float, low: float, texels_per_unit: float) -> Canvas:
        """A canvas over a world rectangle; sides are multiples of 8 texels."""
        h, w = (max(16, round(side * texels_per_unit / 8) * 8) for side in (low - top, right - left))
        return cls(left, top, texels_per_unit, (h, w))

    @property
    def x(self) -> Field:
        """World x of the columns [1,w]."""
        return (
            (np.arange(self.size_hw[1], dtype=np.float32) + 0.5) / np.float32(self.texels_per_unit)
            + np.float32(self.left)
        )[None]

    @property
    def y(self) -> Field:
        """World y of the rows [h,1]."""
        return (
            (np.arange(self.size_hw[0], dtype=np.float32) + 0.5) / np.float32(self.texels_per_unit)
            + np.float32(self.top)
        )[:, None]

    def noise(self, rng: np.random.Generator, wide: float, high: float, count: int = 4) -> Field:
        """Octave noise [h,w] whose largest blobs measure wide × high world units."""
        return octaves(rng, self.size_hw, (high * self.texels_per_unit, wide * self.texels_per_unit), count)

    def cover(self, *outlines: Points) -> Field:
        """Coverage [h,w] of outlines in world units."""
        return rasterise(outlines, (self.left, self.top), self.texels_per_unit, self.size_hw)

    def sprite(self, rgb: Field, alpha: Field | None = None) -> Sprite:
        """The painted layer."""
        full = np.ones(self.size_hw, np.float32) if alpha is None else np.broadcast_to(alpha, self.size_hw)
        to_body = translation(self.left, self.top) @ scaling(1 / self.texels_per_unit)
        return sprite_from_rgba(np.clip(np.broadcast_to(rgb, (*self.size_hw, 3)), 0, 1), full, to_body, endless=True)


def draw_layers(
    rng: np.random.Generator, theme: Theme, horizon: float, half_width: float, texels_per_unit: float
) -> tuple[Layer, ...]:
    """Sky, distance, horizon and ground, back to front; the ground begins at world y = `horizon`."""
    span = 1.45 * half_width
    sky = Canvas.spanning(-span, -0.75, span, 0.45, 0.6 * texels_per_unit)
    strip = Canvas.spanning(-span, horizon - 0.45, span, horizon + 0.45, texels_per_unit)
    near = Canvas.spanning(-span, horizon - 0.06, span, 1.1, texels_per_unit)
    layers = [Layer(_sky(rng, theme, sky), 0.08, float(rng.uniform(-0.012, 0.012)))]
    layers.append(_distance(rng, theme, strip, horizon))
    layers.append(Layer(_horizon(rng, theme, strip, horizon), 0.62))
    layers.append(Layer(_ground(rng, theme, near, horizon), 1.0))
    return tuple(layers)


def _array(colour: RGB) -> Field:
    return np.asarray(colour, np.float32)


def _sky(rng: np.random.Generator, theme: Theme, canvas: Canvas) -> Sprite:
    rgb = mix(
        _array(theme.sky_top), _array(theme.sky_low), np.broadcast_to(smoothstep(-0.6, 0.2, canvas.y), canvas.size_hw)
    )
    billow = canvas.noise(rng, 0.7, 0.22, 5)
    cover = smoothstep(float(rng.uniform(0.1, 0.8)), 1.9, billow)
    lit = np.clip(billow - np.roll(billow, -3, 0), -1, 1)
    cloud = _array(theme.cloud) * (0.93 + 0.12 * lit[..., None])
    return canvas.sprite(rgb + (cloud - rgb) * 0.9 * cover[..., None])


def _ridge(rng: np.random.Generator, canvas: Canvas, wide: float, sharp: bool) -> Field:
    """A skyline [1,w] of zero mean and unit variance."""
    count = 6 if sharp else 3
    line = octaves(rng, (8, canvas.size_hw[1]), (8, wide * canvas.texels_per_unit), count, 0.5)[4:5]
    return np.asarray((line - line.mean()) / (line.std() + 1e-6), np.float32)


def _below(canvas: Canvas, line_y: Field) -> Field:
    """Anti-aliased coverage [h,w] of what lies below a line [1,w]."""
    return np.asarray(np.clip((canvas.y - line_y) * np.float32(canvas.texels_per_unit) + 0.5, 0, 1), np.float32)


def _distance(rng: np.random.Generator, theme: Theme, canvas: Canvas, horizon: float) -> Layer:
    haze = mix(
        _array(theme.far), _array(theme.sky_low), smoothstep(-0.25, 0.05, canvas.y - horizon + 0 * canvas.x) * 0.55
    )
    if theme.skyline == "sea":
        return Layer(_sea(rng, theme, canvas, horizon), 0.3, 0.006, swell=True)
    if theme.skyline == "houses":
        return Layer(_blocks(rng, theme, canvas, horizon, haze), 0.3)
    sharp = theme.skyline == "peaks"
    line = (
        horizon
        - float(rng.uniform(0.10, 0.2))
        - _ridge(rng, canvas, 0.45 if sharp else 0.8, sharp) * (0.05 if sharp else 0.035)
    )
    folds = canvas.noise(rng, 0.2, 0.1, 5)
    rgb = haze * (1 + 0.07 * folds[..., None])
    if sharp:
        snow = smoothstep(-0.03, 0.05, line + 0.06 + 0.02 * folds - canvas.y)
        rgb = mix(rgb, np.full(3, 0.93, np.float32), snow * 0.8)
    return Layer(canvas.sprite(rgb, _below(canvas, line)), 0.3)


def _sea(rng: np.random.Generator, theme: Theme, canvas: Canvas, horizon: float) -> Sprite:
    depth = np.broadcast_to(smoothstep(-0.16, 0.02, canvas.y - horizon), canvas.size_hw)
    ripples = canvas.noise(rng, 0.25, 0.012, 3)
    rgb = mix(_array(theme.far), _array(theme.middle), depth) * (1 + 0.06 * ripples[..., None])
    foam = smoothstep(1.4, 1.9, ripples) * 0.6
    rgb = mix(rgb, np.full(3, 0.95, np.float32), foam)
    return canvas.sprite(rgb, _below(canvas, np.full((1, canvas.size_hw[1]), horizon - 0.15, np.float32)))


def _blocks(rng: np.random.Generator, theme: Theme, canvas: Canvas, horizon: float, haze: Field) -> Sprite:
    """A far skyline of towers with rows of windows."""
    rgb, alpha = np.array(haze), np.zeros(canvas.size_hw, np.float32)
    x, end = canvas.left, canvas.left + canvas.size_hw[1] / canvas.texels_per_unit
    while x < end:
        wide, high = float(rng.uniform(0.08, 0.2)), float(rng.uniform(0.12, 0.38))
        box = canvas.cover(polygon((x, horizon - high), (x + wide, horizon - high), (x + wide, 2), (x, 2)))
        lights = (np.sin(canvas.x * 190) > 0.2) & (np.sin(canvas.y * 150) > 0.1)
        tone = haze * rng.uniform(0.86, 1.06) * (1 - 0.1 * lights[..., None])
        rgb, alpha = mix(rgb, np.asarray(tone, np.float32), box), np.maximum(alpha, box)
        x += wide * float(rng.uniform(0.8, 1.3))
    return canvas.sprite(rgb, alpha)


def _horizon(rng: np.random.Generator, theme: Theme, canvas: Canvas, horizon: float) -> Sprite:
    if theme.skyline == "houses":
        return _houses(rng, theme, canvas, horizon)
    if theme.skyline == "trees":
        return _wood(rng, theme, canvas, horizon)
    low = 0.0 if theme.skyline == "sea" else 0.03
    line = horizon - low - 0.018 * _ridge(rng, canvas, 0.5, sharp=False)
    texture = canvas.noise(rng, 0.10, 0.03, 5)
    shade = 1 - 0.35 * smoothstep(0.0, 0.12, canvas.y - line)
    colour = theme.ground if theme.skyline == "sea" else theme.middle
    return canvas.sprite(_array(colour) * (shade * (1 + 0.10 * texture))[..., None], _below(canvas, line))


def _wood(rng: np.random.Generator, theme: Theme, canvas: Canvas, horizon: float) -> Sprite:
    """A row of trees seen from afar: leafy noise with trunks."""
    texture = canvas.noise(rng, 0.09, 0.07, 5)
    line = horizon - 0.2 - 0.05 * _ridge(rng, canvas, 0.16, sharp=True)
    alpha = _below(canvas, line) * smoothstep(-1.9, -1.5, texture + 8 * smoothstep(0.02, 0.1, canvas.y - line))
    light = 0.75 + 0.3 * texture - 0.5 * smoothstep(0.05, 0.25, canvas.y - line)
    trunks = (np.sin(canvas.x * 47 + 3 * np.sin(canvas.x * 7)) > 0.93) & (canvas.y > line + 0.12)
    rgb = mix(
        _array(theme.middle) * np.clip(light, 0.25, 1.5)[..., None],
        _array((0.2, 0.14, 0.1)),
        np.asarray(trunks, np.float32) * 0.7,
    )
    return canvas.sprite(rgb, alpha)


def _houses(rng: np.random.Generator, theme: Theme, canvas: Canvas, horizon: float) -> Sprite:
    """A street of houses: walls, roofs, windows, doors."""
    rgb = np.zeros((*canvas.size_hw, 3), np.float32)
    alpha, plaster = np.zeros(canvas.size_hw, np.float32), canvas.noise(rng, 0.06, 0.06, 4)
    x, end = canvas.left, canvas.left + canvas.size_hw[1] / canvas.texels_per_unit
    while x < end:
        wide, high = float(rng.uniform(0.22, 0.42)), float(rng.uniform(0.2, 0.36))
        top, wall = horizon - high, vary(rng, theme.middle, hue=0.08, rest=0.12)
        pieces = [(polygon((x, top), (x + wide, top), (x + wide, 2), (x, 2)), wall)]
        if rng.random() < 0.6:
            roof = vary(rng, (0.48, 0.26, 0.20), hue=0.05)
            pieces.append((polygon((x - 0.02, top), (x + 0.5 * wide, top - 0.11), (x + wide + 0.02, top)), roof))
        pieces += _panes(rng, x, top, wide, high)
        for outline, colour in pieces:
            cover = canvas.cover(outline)
            rgb, alpha = mix(rgb, _array(colour) * (1 + 0.05 * plaster[..., None]), cover), np.maximum(alpha, cover)
        x += wide + float(rng.uniform(-0.01, 0.06))
    return canvas.sprite(rgb, np.maximum(alpha, _below(canvas, np.full((1, 1), horizon, np.float32))))


def _panes(rng: np.random.Generator, x: float, top: float, wide: float, high: float) -> list[tuple[Points, RGB]]:
    columns, rows = max(2, round(wide / 0.1)), max(1, round(high / 0.13))
    panes = []
    for i in range(columns):
        for j in range(rows):
            u, v = x + (i + 0.5) * wide / columns, top + (j + 0.5) * high / rows
            glow = (0.86, 0.76, 0.52) if rng.random() < 0.15 else (0.24, 0.30, 0.38)
            frame = polygon(
                (u - 0.026, v - 0.038), (u + 0.026, v - 0.038), (u + 0.026, v + 0.038), (u - 0.026, v + 0.038)
            )
            centre = np.asarray((u, v))
            panes += [(frame, (0.90, 0.88, 0.84)), (centre + (frame - centre) * 0.8, glow)]
    return panes


def _ground(rng: np.random.Generator, theme: Theme, canvas: Canvas, horizon: float) -> Sprite:
    """Texture that grows coarser towards the viewer: noise stretched by perspective, blended over three depths."""
    below = canvas.y - horizon + 0 * canvas.x
    coarse, fine = canvas.noise(rng, 0.5, 0.12, 6), canvas.noise(rng, 0.12, 0.016, 4)
    nearness = smoothstep(0.0, 0.55, below)
    texture = fine * (1 - 0.6 * nearness) + canvas.noise(rng, 0.05, 0.035, 3) * nearness
    rgb = mix(_array(theme.ground), _array(theme.ground_dark), np.clip(0.35 + 0.22 * coarse, 0, 1))
    rgb = rgb * (1 + 0.10 * texture)[..., None]
    if theme.road:
        rgb = _road(rng, canvas, below, rgb, texture)
    rgb = mix(rgb, _array(theme.sky_low), 0.35 * (1 - smoothstep(-0.02, 0.16, below)))
    edge = horizon + 0.004 * _ridge(rng, canvas, 0.06, sharp=True)
    return canvas.sprite(rgb, _below(canvas, edge))


def _road(rng: np.random.Generator, canvas: Canvas, below: Field, rgb: Field, texture: Field) -> Field:
    """A pavement, a kerb and lane marks."""
    pavement = _array((0.62, 0.60, 0.57)) * (1 + 0.08 * texture - 0.18 * (np.sin(canvas.x * 42) > 0.97))[..., None]
    kerb = float(rng.uniform(0.05, 0.09))
    rgb = mix(np.asarray(pavement, np.float32), rgb, smoothstep(kerb, kerb + 0.006, below))
    edge = np.exp(-(((below - kerb) / 0.008) ** 2))
    rgb = mix(rgb, _array((0.78, 0.77, 0.74)), np.asarray(edge, np.float32))
    lane = kerb + float(rng.uniform(0.16, 0.3))
    dashes = smoothstep(-0.1, 0.1, np.sin(canvas.x * 9)) * np.exp(-(((below - lane) / 0.012) ** 4))
    return mix(rgb, np.full(3, 0.88, np.float32), np.asarray(0.85 * dashes, np.float32))
