"""Exact flow is exact, its PNGs say what was written, and a class is told by a small part of its body only."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from material import ImageArray
from numpy.typing import NDArray

from f2f.engine.errors import UsageError
from f2f.training.synth import CLASSES, Scene, exact_flow, random_scene, read_kitti_flow, write_kitti_flow
from f2f.training.synth.affine import scaling, translation
from f2f.training.synth.casting import DRAW
from f2f.training.synth.classes import FAMILIES
from f2f.training.synth.kitti import LIMIT_PX
from f2f.training.synth.puppet import draw_puppet
from f2f.training.synth.raster import Placed, front_of_pixels

SEEDS = (0, 3, 4, 6, 7, 14)
SIZE_HW = (96, 160)
LARGE_HW = (240, 426)
FROM_SECONDS, TO_SECONDS = 0.8, 0.9


# ---- flow as a map of pixels


@dataclass(frozen=True)
class Pair:
    """Two moments of a scene filmed through a clean lens, and the flow from the first to the second."""

    scene: Scene
    flow: NDArray[np.float32]
    """[H,W,2] px"""
    visible: NDArray[np.bool_]
    """[H,W]"""

    @property
    def target(self) -> NDArray[np.float64]:
        """Where each pixel centre goes, [H,W,2] as x, y."""
        return centres(self.scene.size_hw) + self.flow


@cache
def pair(seed: int, size_hw: tuple[int, int] = SIZE_HW) -> Pair:
    """A scene without grain, vignette, flicker and motion blur, so that a surface keeps its colours."""
    scene = random_scene((77, seed), size_hw)
    lens = replace(scene.lens, noise=0.0, vignette=0.0, exposure=lambda seconds: 1.0, shutter_seconds=0.0)
    scene = replace(scene, lens=lens)
    return Pair(scene, *exact_flow(scene, FROM_SECONDS, TO_SECONDS))


def centres(size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Pixel centres [H,W,2] as x, y."""
    y, x = np.indices(size_hw) + 0.5
    return np.stack([x, y], 2)


def corners(points_xy: NDArray[np.float64], size_hw: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the pixel above and left of each point, so that it and its next ones surround the point."""
    column, row = np.moveaxis(np.floor(points_xy - 0.5).astype(np.int64), 2, 0)
    return row.clip(0, size_hw[0] - 2), column.clip(0, size_hw[1] - 2)


def around(values: NDArray[np.generic], points_xy: NDArray[np.float64]) -> NDArray[np.generic]:
    """The values of the four pixels whose centres surround each point, [4,H,W,…]."""
    row, column = corners(points_xy, (values.shape[0], values.shape[1]))
    return np.stack([values[row + down, column + right] for down in (0, 1) for right in (0, 1)])


def sampled(values: NDArray[np.generic], points_xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values [H,W,C] at the points [H,W,2], bilinear; beyond the outermost centres the border's value."""
    row, column = corners(points_xy, (values.shape[0], values.shape[1]))
    x, y = (np.moveaxis(points_xy, 2, 0) - 0.5 - np.stack([column, row])).clip(0, 1)[..., None]
    weights = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x])
    return np.asarray((weights * around(values, points_xy)).sum(0), np.float64)


@pytest.mark.parametrize("seed", SEEDS)
def test_flow_carries_the_second_picture_onto_the_first(seed: int) -> None:
    both = pair(seed)
    first, second = (both.scene.render(t).image.astype(np.float64) for t in (FROM_SECONDS, TO_SECONDS))
    still = np.abs(second - first)[both.visible].mean()
    warped = np.abs(sampled(second, both.target) - first)[both.visible].mean()
    assert warped < 3
    assert warped < 0.5 * still


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_flow_carries_labels_onto_labels(seed: int) -> None:
    both = pair(seed, LARGE_HW)
    first, second = both.scene.labels(FROM_SECONDS), both.scene.labels(TO_SECONDS)
    nearest = np.floor(both.target).astype(int)
    there = second[nearest[..., 1].clip(0, LARGE_HW[0] - 1), nearest[..., 0].clip(0, LARGE_HW[1] - 1)]
    for label in set(np.unique(first[both.visible])) - {0}:
        here, carried = (first == label) & both.visible, (there == label) & both.visible
        assert (here & carried).sum() > 0.97 * (here | carried).sum(), label
    # A pixel is larger than a point: away from borders, where its four neighbours agree, labels do too.
    four = around(second, both.target)
    inner = (four == four[0]).all(0) & both.visible
    assert np.mean(four[0][inner] == first[inner]) > 0.9995


@pytest.mark.parametrize("seed", SEEDS)
def test_forth_and_back_leads_home(seed: int) -> None:
    both = pair(seed)
    back, visible = exact_flow(both.scene, TO_SECONDS, FROM_SECONDS)
    front = [front_of_pixels(both.scene.placed(t), SIZE_HW).numpy() for t in (FROM_SECONDS, TO_SECONDS)]
    one_surface = (around(front[1], both.target) == front[0]).all(0)  # else the way back is a mixture of two motions
    mutual = both.visible & around(visible, both.target).all(0) & one_surface
    gap = np.linalg.norm(both.flow + sampled(back, both.target), axis=2)
    assert mutual.mean() > 0.6
    assert gap[mutual].max() < 0.05
    assert np.linalg.norm(both.flow, axis=2)[mutual].mean() > 0.1  # something did move


@pytest.mark.parametrize("seed", SEEDS)
def test_no_time_means_no_flow_and_nothing_hidden(seed: int) -> None:
    flow, visible = exact_flow(pair(seed).scene, FROM_SECONDS, FROM_SECONDS)
    assert flow.shape == (*SIZE_HW, 2)
    assert flow.dtype == np.float32
    assert not flow.any()
    assert visible.all()


@pytest.mark.parametrize("speed", [0.5, -2.0])
def test_what_leaves_the_frame_is_not_visible(speed: float) -> None:
    scene = pair(3).scene
    camera = scene.camera
    panned = replace(scene, camera=replace(camera, x=lambda t: camera.x(t) + speed * t))
    flow, visible = exact_flow(panned, FROM_SECONDS, TO_SECONDS)
    target = centres(SIZE_HW) + flow
    outside = ((target < 0) | (target >= SIZE_HW[::-1])).any(2)
    assert 0.01 < outside.mean() < 0.5
    assert not visible[outside].any()
    assert visible[~outside].mean() > 0.7


def test_what_comes_from_behind_something_is_not_visible() -> None:
    both = pair(4)
    back, seen_before = exact_flow(both.scene, TO_SECONDS, FROM_SECONDS)
    front = [front_of_pixels(both.scene.placed(t), SIZE_HW) for t in (TO_SECONDS, FROM_SECONDS)]
    scenery = (front[0] < len(both.scene.layers)).numpy()
    actors_before = (front[1] >= len(both.scene.layers)).numpy()
    uncovered = scenery & around(actors_before, centres(SIZE_HW) + back).all(0)
    assert uncovered.sum() > 20
    assert seen_before[uncovered].mean() < 0.05  # a gap between leaves may be smaller than a pixel


# ---- a class is told by a small part


def distinctive_share(name: str, seed: int) -> float:
    """The part of a body's mask that its distinctive parts add, in a pose of its gait."""
    family = next(family for family, names in FAMILIES.items() if name in names)
    body = DRAW[family](np.random.default_rng([3, seed]), name)
    puppet, stand = draw_puppet(body, 110.0), translation(160, 200) @ scaling(110.0)
    moves = zip(puppet.sprites, puppet.pose(0.7 * seed, 0.3 * seed), strict=True)
    whole = [Placed(sprite, stand @ move @ sprite.to_body) for sprite, move in moves]
    rest = [one for one, part in zip(whole, body.parts, strict=True) if not part.distinctive]
    whole_px, rest_px = (int((front_of_pixels(parts, (240, 320)) >= 0).sum()) for parts in (whole, rest))
    return 1 - rest_px / whole_px


@pytest.mark.parametrize("name", CLASSES)
def test_the_distinctive_part_is_small(name: str) -> None:
    shares = [distinctive_share(name, seed) for seed in range(8)]
    # The fan of the peacock is the largest by far.
    low, high = (0.02, 0.26) if name == "peacock" else (0.02, 0.16)
    assert low < min(shares)
    assert max(shares) < high


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_class_a_body_has_no_distinctive_part(family: str) -> None:
    for seed in range(5):
        assert not any(part.distinctive for part in DRAW[family](np.random.default_rng(seed), "").parts)
        for name in FAMILIES[family]:
            assert any(part.distinctive for part in DRAW[family](np.random.default_rng(seed), name).parts)


def test_an_unknown_class_is_not_drawn() -> None:
    with pytest.raises(UsageError, match=rf"class 'unicorn' is not drawn; accepted: {CLASSES[0]}, "):
        random_scene(1, SIZE_HW, classes=("unicorn",))


# ---- KITTI's PNG

SIZES_HW = st.tuples(st.integers(1, 7), st.integers(1, 7))
PIXELS = st.floats(-600, 600, width=32)


@st.composite
def flows(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Flow and validity of a small frame, some of the flow beyond what a PNG takes."""
    h, w = draw(SIZES_HW)
    flow = draw(hnp.arrays(np.float32, (h, w, 2), elements=PIXELS))
    return flow, draw(hnp.arrays(np.bool_, (h, w)))


@settings(deadline=None)
@given(given_flow=flows())
@example(given_flow=(np.array([[[1.7890762, 0]]], np.float32), np.ones((1, 1), np.bool_)))  # float32 rounds it twice
def test_flow_comes_back_to_within_half_a_step(
    tmp_path_factory: pytest.TempPathFactory, given_flow: tuple[NDArray[np.float32], NDArray[np.bool_]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "flow.png"
    flow, valid = given_flow
    write_kitti_flow(path, flow, valid)
    read, read_valid = read_kitti_flow(path)
    assert read.dtype == np.float32
    assert (read_valid == (valid & (np.abs(flow) <= LIMIT_PX).all(2))).all()
    assert (np.abs(read - flow)[read_valid] <= 1 / 128).all()


@pytest.mark.parametrize("value", [511.99, -512.0, 1e6, np.inf, -np.inf, np.nan])
def test_flow_that_no_png_takes_is_stored_as_invalid(tmp_path: Path, value: float) -> None:
    flow = np.full((2, 3, 2), 5.25, np.float32)
    flow[1, 2, 0] = value
    write_kitti_flow(tmp_path / "flow.png", flow, np.ones((2, 3), np.bool_))
    read, valid = read_kitti_flow(tmp_path / "flow.png")
    assert np.argwhere(~valid).tolist() == [[1, 2]]
    assert (read[valid] == 5.25).all()


def stored_pixels(seed: int, size_hw: tuple[int, int] = (37, 53)) -> NDArray[np.uint16]:
    """Smooth flow with some noise as KITTI's three channels [H,W,3], so that encoders choose all row filters."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.indices(size_hw).sum(0) / 9)[..., None] * [900, 400]
    noise = rng.integers(0, 300, (*size_hw, 2)) * (np.arange(size_hw[0]) % 3 == 0)[:, None, None]
    valid = rng.random((*size_hw, 1)) < 0.8
    return np.concatenate([(wave + noise + 2**15) * valid, valid], 2).astype(np.uint16)


def row_filters(path: Path) -> set[int]:
    """The row filters a PNG uses."""
    content = path.read_bytes()
    place, data, row_bytes = 8, b"", 0
    while place < len(content):
        (length,), kind = struct.unpack_from(">I", content, place), content[place + 4 : place + 8]
        chunk = content[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            row_bytes = 1 + 6 * int.from_bytes(chunk[:4], "big")
        data += chunk if kind == b"IDAT" else b""
        place += 12 + length
    return set(zlib.decompress(data)[::row_bytes])


def assert_reads(path: Path, stored: NDArray[np.uint16]) -> None:
    """`path` holds the stored pixels."""
    flow, valid = read_kitti_flow(path)
    assert (valid == (stored[..., 2] > 0)).all()
    assert (flow == (stored[..., :2].astype(np.float32) - 2**15) / 64).all()


@pytest.mark.parametrize("name", ["NONE", "SUB", "UP", "AVG", "PAETH"])
def test_another_encoders_row_filters_are_read(tmp_path: Path, name: str) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV writes the PNGs of this test; install f2f[dis]")
    number = ["NONE", "SUB", "UP", "AVG", "PAETH"].index(name)
    path, stored = tmp_path / "flow.png", stored_pixels(number)
    assert cv2.imwrite(
        str(path), stored[..., ::-1], [cv2.IMWRITE_PNG_FILTER, getattr(cv2, f"IMWRITE_PNG_FILTER_{name}")]
    )
    assert number in row_filters(path)
    assert_reads(path, stored)


def test_mixed_row_filters_are_read(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV writes the PNGs of this test; install f2f[dis]")
    path, stored = tmp_path / "flow.png", stored_pixels(11)
    settings = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS]
    assert cv2.imwrite(str(path), stored[..., ::-1], settings)
    assert len(row_filters(path)) > 1
    assert_reads(path, stored)


def test_opencv_reads_what_we_write(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV reads the PNG of this test; install f2f[dis]")
    stored = stored_pixels(5)
    flow = ((stored[..., :2].astype(np.float32) - 2**15) / 64).astype(np.float32)
    write_kitti_flow(tmp_path / "flow.png", flow, stored[..., 2].astype(np.bool_))
    assert (cv2.imread(str(tmp_path / "flow.png"), cv2.IMREAD_UNCHANGED)[..., ::-1] == stored).all()


def png(size_wh: tuple[int, int], rows: bytes, bits: int = 16, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG of these bytes, checksums left out."""
    header = struct.pack(">IIBBBBB", *size_wh, bits, colour, 0, 0, interlace)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(d)) + k + d + b"\0\0\0\0" for k, d in chunks)


GOOD = png((2, 1), bytes(13))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no PNG signature"),
        (b"not a picture at all", "no PNG signature"),
        (GOOD[:8], "IHDR"),
        (GOOD[:20], ""),
        (GOOD[:-20], ""),
        (png((2, 1), bytes(13), bits=8), "8 bits, colour type 2"),
        (png((2, 1), bytes(13), colour=0), "colour type 0"),
        (png((2, 1), bytes(13), interlace=1), "interlace 1"),
        (png((3, 1), bytes(13)), "reshape"),
        (png((0, 0), b""), "0 x 0 px"),
        (png((2, 1), b"\x05" + bytes(12)), "row filter 5"),
    ],
    ids=[
        "empty",
        "text",
        "cut-8",
        "cut-20",
        "cut-end",
        "8-bit",
        "grey",
        "interlaced",
        "short",
        "no-pixels",
        "filter-5",
    ],
)
def test_what_is_no_flow_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "flow.png"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"flow\.png is not a 16-bit RGB PNG .*{why}.*; give another file"):
        read_kitti_flow(path)


@settings(deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_a_broken_byte_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, place: int, value: int) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.png"
    path.write_bytes(GOOD[:place] + bytes([value]) + GOOD[place + 1 :])
    try:
        flow, valid = read_kitti_flow(path)
    except UsageError:
        return
    assert flow.shape == (*valid.shape, 2)


def test_a_frame_of_a_video_is_no_flow(tmp_path: Path) -> None:
    from PIL import Image

    frame: ImageArray = np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(frame).save(tmp_path / "frame.png")
    with pytest.raises(UsageError, match="8 bits"):
        read_kitti_flow(tmp_path / "frame.png")
