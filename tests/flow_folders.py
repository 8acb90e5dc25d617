"""Tiny public data sets of flow on disk, laid out as torchvision's readers want them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from f2f.training.flow_files import write_flo
from f2f.training.synth import write_kitti_flow

HW = (72, 104)
Flow = NDArray[np.float32]


def made_up_flow(number: int, hw: tuple[int, int] = HW) -> Flow:
    """[H,W,2] px in steps of 1/64, which every format keeps."""
    values: NDArray[np.int64] = np.random.default_rng(number).integers(-640, 640, (*hw, 2))
    return (values / 64).astype(np.float32)


def made_up_frame(number: int, hw: tuple[int, int] = HW) -> NDArray[np.uint8]:
    """[H,W,3] noise, told apart by its number."""
    return np.random.default_rng(1000 + number).integers(0, 256, (*hw, 3), np.uint8)


def save_frame(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(made_up_frame(number)).save(path)


def save_flo(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_flo(path, made_up_flow(number))


def save_pfm(path: Path, flow_xy_px: Flow) -> None:
    """Three channels, rows from the bottom up, as FlyingThings3D stores flow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = flow_xy_px.shape[:2]
    values = np.concatenate([flow_xy_px, np.zeros((height, width, 1), np.float32)], 2)[::-1].astype("<f4")
    path.write_bytes(f"PF\n{width} {height}\n-1.0\n".encode() + values.tobytes())


def write_chairs(root: Path, count: int = 4) -> Path:
    """Pair n has the frames 2n and 2n + 1 and flow n; the last one is for validation."""
    data = root / "FlyingChairs" / "data"
    for number in range(count):
        name = f"{number + 1:05d}"
        save_frame(data / f"{name}_img1.ppm", 2 * number)
        save_frame(data / f"{name}_img2.ppm", 2 * number + 1)
        save_flo(data / f"{name}_flow.flo", number)
    lines = ["1"] * (count - 1) + ["2"]
    (root / "FlyingChairs" / "FlyingChairs_train_val.txt").write_text("\n".join(lines) + "\n")
    return root


def write_things(root: Path, passes: tuple[str, ...] = ("frames_cleanpass", "frames_finalpass")) -> Path:
    """Three frames of a scene a split; flow 10 + n leads from frame n into the future, 20 + n into the past."""
    folder = root / "FlyingThings3D"
    for split in ("TRAIN", "TEST"):
        scene = Path(split) / "A" / "0000"
        for number in range(3):
            for kind in passes:
                save_frame(folder / kind / scene / "left" / f"{number + 6:04d}.png", number)
            for way, first, name in (("into_future", 10, "IntoFuture"), ("into_past", 20, "IntoPast")):
                path = folder / "optical_flow" / scene / way / "left" / f"OpticalFlow{name}_{number + 6:04d}_L.pfm"
                save_pfm(path, made_up_flow(first + number))
    return root


def write_sintel(root: Path, passes: tuple[str, ...] = ("clean", "final"), scenes: int = 2) -> Path:
    """Three frames a scene, the same in every pass; flow n leads from frame n of scene 0, 10 + n of scene 1, …"""
    training = root / "Sintel" / "training"
    for scene in range(scenes):
        for number in range(3):
            for kind in passes:
                save_frame(training / kind / f"scene_{scene}" / f"frame_{number + 1:04d}.png", 10 * scene + number)
        for number in range(2):
            save_flo(training / "flow" / f"scene_{scene}" / f"frame_{number + 1:04d}.flo", 10 * scene + number)
    return root


def kitti_known(number: int) -> NDArray[np.bool_]:
    """[H,W]: about one pixel in five, none in the upper third, as a laser scanner leaves them."""
    known: NDArray[np.bool_] = np.random.default_rng(2000 + number).random(HW) < 0.25
    known[: HW[0] // 3] = False
    return known


def write_kitti(root: Path, count: int = 3) -> Path:
    """Pair n has the frames 2n and 2n + 1 and flow n."""
    training = root / "KittiFlow" / "training"
    (training / "flow_occ").mkdir(parents=True)
    for number in range(count):
        save_frame(training / "image_2" / f"{number:06d}_10.png", 2 * number)
        save_frame(training / "image_2" / f"{number:06d}_11.png", 2 * number + 1)
        write_kitti_flow(training / "flow_occ" / f"{number:06d}_10.png", made_up_flow(number), kitti_known(number))
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "chairs": write_chairs,
    "things": write_things,
    "sintel": write_sintel,
    "kitti": write_kitti,
}
