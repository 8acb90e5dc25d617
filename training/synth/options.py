"""What a synthetic web is made of; imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from f2f.engine.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SynthOptions:
    """Render a synthetic web: videos that search terms would find, tagged images, exact masks and flow."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """folder that receives videos/, manifest.csv, images/ and truth/"""
    videos: int = 48
    """number of videos"""
    images: int = 200
    """number of still images"""
    seed: int = 0
    """the same seed gives the same bytes"""
    height_px: int = 240
    """height of the pictures in px, even"""
    width_px: int = 426
    """width of the pictures in px, even"""
    fps: float = 12.0
    """frames per second of the videos"""
    seconds: float = 5.0
    """mean length of a video in seconds; lengths vary from 0.6 to 1.4 times this"""
    flow_truth: bool = False
    """also write the exact flow of every frame to its predecessor and back"""
    workers: int = 0
    """processes that render (0: one per core); does not change results"""

    def __post_init__(self) -> None:
        for name, value in (("height-px", self.height_px), ("width-px", self.width_px)):
            _require(value >= 64 and value % 2 == 0, name, value, "an even number of 64 or more px")
        _require(self.videos >= 0, "videos", self.videos, "0 or more")
        _require(self.images >= 0, "images", self.images, "0 or more")
        _require(self.videos + self.images > 0, "videos", self.videos, "1 or more, or some --images")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        _require(1 <= self.fps <= 120, "fps", self.fps, "1 to 120 frames per second")
        _require(0 < self.seconds <= 3600, "seconds", self.seconds, "above 0 s, up to 3600 s")
        _require(self.workers >= 0, "workers", self.workers, "0 (one per core) or more processes")

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the pictures in px."""
        return self.height_px, self.width_px

    @property
    def worker_count(self) -> int:
        """Number of processes once 0 is resolved."""
        return self.workers or os.cpu_count() or 1


@dataclass(frozen=True)
class SynthSummary:
    """What was rendered."""

    videos: int
    frames: int
    images: int


def _require(ok: bool, name: str, value: object, accepted: str) -> None:
    if not ok:
        raise UsageError(f"--{name} {value} is not accepted; accepted: {accepted}; correct --{name} and run again")
