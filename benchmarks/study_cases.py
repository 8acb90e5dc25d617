"""The trainings of the study: what each learns from, and which of them an experiment needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Method = Literal["sec", "dsrg", "ficklenet", "full"]
Data = Literal["I", "I+V", "I+V+DA", "I twice", "exact I", "exact I+V"]
Experiment = Literal["table", "frames", "samples", "filter"]

METHODS: tuple[Method, ...] = ("sec", "dsrg", "ficklenet")
FRAMES = (5, 1, 3, 10, 2, 7)
"""K, beside 0, which is I alone; those first that say most should the time end"""
RULES = ("f2f", "paper")
USUAL_FRAMES = 5
SAMPLES = (60, 120, 240)
"""masks of videos, beside all of them and none"""
FILTERS = ("none", "single", "agreed")
"""which windows of trusted queries are kept: all; those whose last frame shows the query to the classifier; those all
of whose frames have one label set that contains it (§3.2)"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training; two of them are the same where all fields are."""

    method: Method
    """sec, dsrg: with CAM cues of I; ficklenet: DSRG's losses with FickleNet's cues of I; full: exact masks"""
    data: Data
    """I twice: I, then as many steps of retraining on its own masks of I as domain adaptation has"""
    rule: str = ""
    """of the masks of V"""
    frames: int = 0
    """K of the masks of V"""
    samples: int = 0
    """masks of V, drawn by the seed (0: all)"""
    kept: str = ""
    """filter of V where it is not the engine's own"""
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = (
            self.method,
            self.data,
            self.rule,
            self.frames or "",
            self.samples or "",
            self.kept,
            f"seed{self.seed}",
        )
        return "-".join(str(part).replace(" ", "_") for part in parts if part)

    @property
    def before(self) -> Case | None:
        """The training whose network this one goes on from."""
        if self.data == "I+V+DA":
            return replace(self, data="I+V")
        return replace(self, data="I") if self.data == "I twice" else None


def cases(experiments: Iterable[Experiment], seeds: int) -> list[Case]:
    """Every training of the experiments, once, in order: the first seed of all, then the second, …"""
    wanted = [case for seed in range(seeds) for experiment in experiments for case in _CASES[experiment](seed)]
    return list(dict.fromkeys(wanted))


def with_videos(method: Method, seed: int, data: Data = "I+V") -> Case:
    """The usual training on I and V."""
    return Case(method=method, data=data, rule="f2f", frames=USUAL_FRAMES, seed=seed)


def _table(seed: int) -> Iterator[Case]:
    """Table 5 in shape."""
    for method in METHODS:
        yield Case(method=method, data="I", seed=seed)
        yield with_videos(method, seed)
        yield with_videos(method, seed, "I+V+DA")
        yield Case(method=method, data="I twice", seed=seed)
    yield Case(method="full", data="exact I", seed=seed)


def _frames(seed: int) -> Iterator[Case]:
    """Figure 5a: the number of frames K, by both rules."""
    yield Case(method="dsrg", data="I", seed=seed)
    for frames in FRAMES:
        for rule in RULES:
            yield Case(method="dsrg", data="I+V", rule=rule, frames=frames, seed=seed)


def _samples(seed: int) -> Iterator[Case]:
    """Figure 5b: the number of masks of videos."""
    yield Case(method="dsrg", data="I", seed=seed)
    for samples in SAMPLES:
        yield replace(with_videos("dsrg", seed), samples=samples)
    yield with_videos("dsrg", seed)


def _filter(seed: int) -> Iterator[Case]:
    """§3.2: agreement of K frames against a single one, and against none; masks of a frame are the same in all."""
    for kept in FILTERS:
        yield replace(with_videos("dsrg", seed), kept=kept)


_CASES = {"table": _table, "frames": _frames, "samples": _samples, "filter": _filter}
