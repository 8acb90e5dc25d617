"""Public data sets of frames with exact flow, read by torchvision, as sources of training pairs.

Letters: H, W frame size.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from f2f.engine.errors import UsageError
from f2f.training.flow_files import FlowPair
from f2f.training.pairs import Pair

HELD_OUT_SHARE = 0.05
"""of the pairs, where a data set has no split for it"""
LIMIT_PX = 1000.0
"""longer flow counts as unknown: marks of unknown flow, and things that fly through FlyingThings3D's camera"""
_SORTS = {
    *("data", "clean", "final", "flow", "image_2", "flow_occ"),
    *("frames_cleanpass", "frames_finalpass", "optical_flow", "into_future", "into_past"),
}
"""folders that tell frames from flow; the others on a path tell scenes apart"""


@dataclass(frozen=True)
class _Format:
    """A data set as one of torchvision's readers wants it."""

    reader: str
    """its name in torchvision.datasets"""
    folder: str
    """below --root"""
    accepted: str
    """what the folder holds, for messages"""
    step: int
    """by how much the numbers in the names of a pair's frames differ"""
    held_out_split: str | None = None
    """its split for evaluation, where there is one with flow"""
    passes: dict[str, str] = field(default_factory=dict)
    """the reader's names of renderings of the same scenes -> their folders"""


_FORMATS = {
    "chairs": _Format(
        "FlyingChairs",
        "FlyingChairs",
        "data/00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo, … and FlyingChairs_train_val.txt, a line (1: train, "
        "2: val) for every flow",
        step=0,
        held_out_split="val",
    ),
    "things": _Format(
        "FlyingThings3D",
        "FlyingThings3D",
        "frames_cleanpass/ or frames_finalpass/ or both, and optical_flow/, each with TRAIN/A/0000/… and TEST/A/0000/…",
        step=1,
        held_out_split="test",
        passes={"clean": "frames_cleanpass", "final": "frames_finalpass"},
    ),
    "sintel": _Format(
        "Sintel",
        "Sintel",
        "training/clean/<scene>/frame_0001.png or training/final/… or both, and training/flow/<scene>/frame_0001.flo",
        step=1,
        passes={"clean": "training/clean", "final": "training/final"},
    ),
    "kitti": _Format(
        "KittiFlow",
        "KittiFlow",
        "training/image_2/000000_10.png, 000000_11.png and training/flow_occ/000000_10.png",
        step=0,
    ),
}


@dataclass(frozen=True, order=True)
class _Files:
    """Where a pair is stored."""

    flow: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first}, {self.second} and {self.flow}"


class FlowFolder:
    """Pairs of one data set by their number, in an order that does not depend on the file system."""

    def __init__(self, reader: Any, files: dict[_Files, int]) -> None:
        """`files`: of the pairs, and their numbers in torchvision's `reader`."""
        self._reader = reader
        self._pairs = sorted(files.items())

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> FlowPair:
        """One pair; flow is 0 where it is not known.

        Raises:
            UsageError: its files are missing, damaged, or do not belong together.
        """
        files, place = self._pairs[number]
        try:
            with warnings.catch_warnings():  # torchvision's KITTI reader warns of its own PNG decoder
                warnings.filterwarnings("ignore", category=DeprecationWarning, module="torchvision")
                first, second, stored, *masks = self._reader[place]  # images, [2,H,W], perhaps [H,W]
            flow = np.array(np.moveaxis(stored, 0, 2), np.float32)  # [H,W,2]
            known = np.asarray((np.abs(flow) < LIMIT_PX).all(2))  # nan is not below either
            for mask in masks:
                known = known & mask
        except Exception as error:  # whatever torchvision, Pillow and NumPy say of a damaged file
            raise UsageError(f"{files} cannot be read as two frames with flow ({error}); restore them") from error
        flow[~known] = 0
        return FlowPair(files.flow, np.array(first), np.array(second), flow, known)

    def draw(self, rng: np.random.Generator) -> Pair:
        """Any pair, as training takes it."""
        pair = self[int(rng.integers(len(self)))]
        return Pair(pair.first, pair.second, pair.flow_xy_px, visible=pair.known, known=pair.known)

    def spread(self, most: int) -> Iterator[FlowPair]:
        """At most `most` pairs, evenly spread."""
        return (self[number] for number in range(0, len(self), -(-len(self) // most)))


def open_flow_dataset(name: str, root: Path) -> tuple[FlowFolder, FlowFolder]:
    """A data set's pairs to train on, and those held out for evaluation: its own split, or the last 5 %.

    Frames that were rendered in several passes are taken in all that are there; no truth is on both sides.

    Raises:
        UsageError: its folder is missing, or not laid out as torchvision's reader wants it.
    """
    form = _FORMATS[name]
    if not (root / form.folder).is_dir():
        raise UsageError(
            f"--root {root} has no folder {form.folder}; accepted for --dataset {name}: {form.folder}/ with "
            f"{form.accepted}; give the folder above {form.folder}"
        )
    reader, files = _opened(name, root, "train")
    if form.held_out_split is not None:
        return FlowFolder(reader, files), FlowFolder(*_opened(name, root, form.held_out_split))
    held_out = _last_truths(list(files))
    if len(held_out) == len({pair.flow for pair in files}):
        raise _unfit(name, root, f"it holds {len(held_out)} pair; one is held out, and none is left to train on")
    training, others = (
        {pair: place for pair, place in files.items() if (pair.flow in held_out) == out} for out in (0, 1)
    )
    return FlowFolder(reader, training), FlowFolder(reader, others)


def _opened(name: str, root: Path, split: str) -> tuple[Any, dict[_Files, int]]:
    """torchvision's reader of a split, and the files of its pairs with their numbers."""
    import torchvision.datasets

    form = _FORMATS[name]
    try:
        reader = getattr(torchvision.datasets, form.reader)(root, split=split, **_pass_of(form, root / form.folder))
    except (OSError, ValueError, IndexError) as error:
        raise _unfit(name, root, str(error)) from error
    images, flows = reader._image_list, reader._flow_list  # its public face reads whole pairs, to say no more
    if not flows or len(images) != len(flows):
        raise _unfit(name, root, f"split {split} has {len(images)} pairs of frames and {len(flows)} flows")
    files = {
        _Files(str(flow), *map(str, pair)): place for place, (pair, flow) in enumerate(zip(images, flows, strict=True))
    }
    stray = next((pair for pair in files if not _belong_together(pair, form.step)), None)
    if stray is not None:
        raise _unfit(name, root, f"it takes {stray} for frames with their flow: files are missing")
    return reader, files


def _unfit(name: str, root: Path, reason: str) -> UsageError:
    form = _FORMATS[name]
    return UsageError(
        f"{root / form.folder} is not laid out as --dataset {name} ({reason}); accepted: {form.accepted}; "
        "restore what is missing"
    )


def _pass_of(form: _Format, folder: Path) -> dict[str, str]:
    """The reader's argument for the passes that are there."""
    there = [name for name, place in form.passes.items() if (folder / place).is_dir()]
    return {"pass_name": there[0] if len(there) == 1 else "both"} if form.passes else {}


def _belong_together(pair: _Files, step: int) -> bool:
    """Whether the names say one scene, one number for the flow and its frame, and one `step` away for the other."""
    (scene, number), (first_scene, first), (second_scene, second) = map(_moment, (pair.flow, pair.first, pair.second))
    return scene == first_scene == second_scene and first == number and abs(second - number) == step


def _moment(path: str) -> tuple[list[str], int]:
    """The scene, and the first number of the name."""
    *folders, name = Path(path).parts
    number = re.search(r"\d+", name)
    return [folder for folder in folders if folder not in _SORTS], int(number[0]) if number else -1


def _last_truths(files: Sequence[_Files]) -> set[str]:
    """The last 5 % of the flows, at least one; every pass of their frames is held out with them."""
    flows = sorted({pair.flow for pair in files})
    return set(flows[-max(1, round(HELD_OUT_SHARE * len(flows))) :])
