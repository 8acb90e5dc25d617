"""What the videos of a synthetic web show, and what they are called: drawn from the seed before rendering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from f2f.training.synth.classes import CLASSES
from f2f.training.synth.options import SynthOptions

# How search results behave: most show what was asked for, some only for a while, some beside another class, some not.
_KINDS = {"whole": 0.58, "part": 0.20, "two": 0.12, "wrong": 0.10}
_TITLES = (
    "{Query} crossing the road 4K (funny)",
    "my {query} at home",
    "{QUERY} compilation part {number}",
    "{Query} - slow motion.final.v2",
    "How to film a {query} - tips & tricks",
    "{query}_{number:04d}",
    "Wild {Query}! (close up)",
    "Beautiful {query} in the evening ☀",
    "Best of {Query}s, {year}",
    "el {query} más grande del mundo",
)
_WORDS = ("outdoor", "nature", "funny", "hd", "documentary", "street", "farm", "travel", "kids", "shorts")


@dataclass(frozen=True)
class ShotPlan:
    """A shot: who plays in it, and its frames."""

    seed: tuple[int, ...]
    classes: tuple[str, ...]
    first_frame: int
    frames: int


@dataclass(frozen=True)
class VideoPlan:
    """A video of the crawl."""

    number: int
    query: str
    kind: str
    """whole, part, two or wrong"""
    title: str
    """file name without suffix"""
    tags: str
    crf: int
    """quality of the H.264 encoding, 20 (good) to 30"""
    shots: tuple[ShotPlan, ...]

    @property
    def frames(self) -> int:
        """Frames of the whole video."""
        return sum(shot.frames for shot in self.shots)


def plan_videos(options: SynthOptions) -> list[VideoPlan]:
    """The videos of a crawl; queries take turns."""
    return [_plan(options, number) for number in range(options.videos)]


def _plan(options: SynthOptions, number: int) -> VideoPlan:
    rng = np.random.default_rng([options.seed, 1, number])
    query = CLASSES[number % len(CLASSES)]
    kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
    frames = max(2, round(options.fps * options.seconds * rng.uniform(0.6, 1.4)))
    count = int(np.clip(round(frames / options.fps / rng.uniform(1.6, 3.4)), 2 if kind == "part" else 1, 4))
    cast = _cast(rng, query, kind, count)
    return VideoPlan(
        number,
        query,
        kind,
        _title(rng, query, number),
        " ".join([query, *map(str, rng.choice(_WORDS, 2, replace=False))]),
        int(rng.integers(20, 31)),
        _shots((options.seed, 2, number), cast, _lengths(rng, frames, count)),
    )


def _cast(rng: np.random.Generator, query: str, kind: str, shots: int) -> list[tuple[str, ...]]:
    """The classes of each shot."""
    others = [name for name in CLASSES if name != query]
    other = str(rng.choice(others))
    if kind == "two":
        return [(query, other)] * shots
    if kind == "wrong":
        return [(other,) if rng.random() < 0.7 else ()] * shots
    shown = [True] * shots
    if kind == "part":
        shown[int(rng.integers(shots))] = False
    return [(query,) if here else ((other,) if rng.random() < 0.5 else ()) for here in shown]


def _lengths(rng: np.random.Generator, frames: int, shots: int) -> list[int]:
    shares = rng.uniform(0.7, 1.3, shots)
    cuts = np.round(np.cumsum(shares) / shares.sum() * frames).astype(int)
    return [int(length) for length in np.diff(cuts, prepend=0) if length > 0]


def _shots(seed: tuple[int, ...], cast: list[tuple[str, ...]], lengths: list[int]) -> tuple[ShotPlan, ...]:
    starts = np.cumsum([0, *lengths])
    rows = enumerate(zip(cast, lengths, starts, strict=False))
    return tuple(ShotPlan((*seed, place), classes, int(start), length) for place, (classes, length, start) in rows)


def _title(rng: np.random.Generator, query: str, number: int) -> str:
    """A name as uploaders give them, made unique as a downloader does, by an id in brackets."""
    title = str(rng.choice(_TITLES)).format(
        query=query, Query=query.capitalize(), QUERY=query.upper(), number=number, year=int(rng.integers(2009, 2020))
    )
    letters = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789-_"
    mark = "".join(letters[place] for place in rng.integers(len(letters), size=8))
    return f"{title} [{mark}{number}]"
