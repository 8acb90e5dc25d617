"""The study: which trainings it is made of, which windows its filters keep, what its tables say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts that import their neighbours

from study_cases import FRAMES, METHODS, RULES, SAMPLES, Case, Experiment, cases, with_videos
from study_filter import filter_row, kept_masks
from study_frames import FrameScores
from study_table import filter_table, frames_table, study_table

from f2f.engine.records import MaskRecord

ALL: tuple[Experiment, ...] = ("table", "frames", "samples", "filter")
WHERE = {"machine": "a machine", "versions": "torch 1", "commit": "abc"}


def test_every_training_is_there_once_and_the_first_seeds_come_first() -> None:
    found = cases(ALL, seeds=3)
    assert len(found) == len(set(found)) == len({case.name for case in found})
    assert [case.seed for case in found] == sorted(case.seed for case in found)
    of_a_seed = [case for case in found if case.seed == 1]
    curves = len(RULES) * len(FRAMES) - 1 + len(SAMPLES)  # the usual one is in the table
    assert len(of_a_seed) == 4 * len(METHODS) + 1 + curves + 3
    assert set(cases(["frames"], 1)) <= set(cases(ALL, 1))
    assert all(not set(case.name) & set(" /+") - {"+"} for case in found)


def test_what_goes_on_from_another_training_goes_on_from_the_same_seed_and_videos() -> None:
    adapted = with_videos("sec", 2, "I+V+DA")
    assert adapted.before == with_videos("sec", 2)
    assert Case(method="dsrg", data="I twice", seed=1).before == Case(method="dsrg", data="I", seed=1)
    assert with_videos("sec", 2).before is None
    done = set()
    for case in cases(ALL, 2):
        assert case.before is None or case.before in done
        done.add(case)


def mask(video: str, first: int) -> MaskRecord:
    """Of the query `cat`, three frames of a video from `first` on, a second apart."""
    return MaskRecord(
        id=f"{video}-{first}",
        input=video,
        video=f"{video}.mp4",
        query="cat",
        query_class="cat",
        window=first,
        shot=0,
        classes=("cat",),
        pts_seconds=tuple(float(first + place) for place in range(3)),
        scores=None,
        areas_px=(1,),
        background_px=0,
        ignore_px=0,
        width_px=1,
        height_px=1,
    )


def video(scores: list[tuple[float, float]], visible: list[bool]) -> FrameScores:
    """Scores of dog and cat per frame, and whether the cat is there."""
    count = len(scores)
    seen = np.array([(False, cat) for cat in visible])
    return FrameScores(np.arange(count, dtype=float), np.zeros(count, np.int64), np.array(scores), seen)


YES, NO, BOTH = (0.1, 0.9), (0.1, 0.1), (0.9, 0.9)
VIDEOS = {
    "steady": video([YES, YES, YES, YES], [True] * 4),
    "late": video([NO, NO, YES, YES], [False, False, False, True]),
    "joined": video([YES, YES, BOTH, BOTH], [True] * 4),
    "never": video([NO] * 4, [False] * 4),
}
MASKS = [mask(name, first) for name in VIDEOS for first in (0, 1)]


@pytest.mark.parametrize(
    ("kept", "wanted"),
    [
        ("none", [one.id for one in MASKS]),
        ("single", ["steady-0", "steady-1", "late-0", "late-1", "joined-0", "joined-1"]),
        ("agreed", ["steady-0", "steady-1"]),
    ],
)
def test_filters_look_at_the_last_frame_or_at_all(kept: str, wanted: list[str]) -> None:
    assert [one.id for one in kept_masks(kept, MASKS, VIDEOS, ["dog", "cat"], 0.5)] == wanted


def test_a_filter_is_right_where_the_last_frame_shows_the_query() -> None:
    """Right are both windows of steady and joined, and the second of late: five of eight."""
    rows = {kept: filter_row(kept, MASKS, VIDEOS, ["dog", "cat"], 0.5) for kept in ("none", "single", "agreed")}
    assert [row["windows"] for row in rows.values()] == [8, 6, 2]
    assert [row["precision"] for row in rows.values()] == ["0.625", "0.833", "1.000"]
    assert [row["recall"] for row in rows.values()] == ["1.000", "1.000", "0.400"]


def row(case: Case, miou: float) -> dict[str, str]:
    """Of study.csv."""
    return {**{name: str(value) for name, value in vars(case).items()}, "miou": str(miou), **WHERE}


def test_the_tables_tell_means_and_seeds() -> None:
    rows = [
        row(Case(method="dsrg", data="I", seed=0), 0.40),
        row(Case(method="dsrg", data="I", seed=1), 0.42),
        row(with_videos("dsrg", 0), 0.45),
        row(Case(method="dsrg", data="I+V", rule="paper", frames=5), 0.39),
        row(Case(method="dsrg", data="I+V", rule="f2f", frames=5, kept="agreed"), 0.44),
        row(Case(method="full", data="exact I"), 0.65),
    ]
    dsrg, full = study_table(rows)
    assert (dsrg["method"], dsrg["I"], dsrg["I + V"]) == ("DSRG", "41.0 ± 1.4 (2)", "45.0")
    assert dsrg["I + V + DA"] == "\N{EN DASH}"
    assert dsrg["paper, VOC val"] == "59.0 → 62.1 → 62.9"
    assert (full["I"], full["I + V"], full["commit"]) == ("65.0", "", "abc")

    label = {"masks": "9", "precision": "0.7", "recall": "0.5", "iou": "0.4"}
    labels = [{"rule": rule, "frames": "5", **label} for rule in ("paper", "f2f")]
    table = frames_table(rows, labels)
    assert [line["mean IoU of DSRG, %"] for line in table] == ["45.0", "39.0"]

    filters = [{"filter": "agreed", "windows": "2", "precision": "1.000", "recall": "0.400"}]
    (line,) = filter_table(rows, filters)
    assert line["mean IoU of DSRG, %"] == "44.0"
