"""Scores of a hand-made run against hand-made truth."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from f2f.engine import evaluate_masks
from f2f.engine.cli import main
from f2f.engine.errors import UsageError
from f2f.engine.evaluate import overlap
from f2f.engine.records import MaskRecord, ShardRecord, VideoRecord, to_json
from f2f.engine.write import encode_mask

CLASSES = ("cat", "dog")
BoolArray = npt.NDArray[np.bool_]


class HandMade:
    """A run whose masks are written one by one, and its truth."""

    def __init__(self, folder: Path) -> None:
        self.out, self.truth = folder / "out", folder / "truth"
        self._videos: dict[str, VideoRecord] = {}
        self._masks: list[MaskRecord] = []
        (self.out / "voc" / "SegmentationClass").mkdir(parents=True)
        self.truth.mkdir()

    def mask(self, query: str, name: str, pts_seconds: float, labels: npt.NDArray[np.uint8]) -> None:
        """A mask of the video `<query>/<name>.mp4`, which starts at 0.5 s and has 10 frames/s."""
        video = f"{query}/{name}.mp4"
        self._videos[video] = VideoRecord(video, video, query, "ok", start_seconds=0.5, fps=10.0)
        entry = f"{len(self._masks):016x}-0000"
        (self.out / "voc" / "SegmentationClass" / f"{entry}.png").write_bytes(encode_mask(labels))
        height, width = labels.shape
        self._masks.append(
            MaskRecord(
                entry, video, video, query, query, 0, 0, (query,), (0.0, pts_seconds), None, (1,), 0, 0, width, height
            )
        )

    def commit(self) -> Path:
        (self.out / "shards").mkdir(exist_ok=True)
        shard = ShardRecord(0, tuple(self._videos.values()), tuple(self._masks))
        (self.out / "shards" / "000000.json").write_text(to_json(shard))
        pinned = {"classes": CLASSES, "inputs": [], "shards": [], "options": {}, "networks": {}}
        (self.out / "run.json").write_text(json.dumps(pinned))
        return self.out

    def true(self, relative: str, values: npt.NDArray[np.uint8], mode: str = "P") -> None:
        path = self.truth / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "P":
            path.write_bytes(encode_mask(values))
        else:
            Image.fromarray(np.where(values > 0, np.uint8(255), np.uint8(0))).convert(mode).save(path)


@pytest.fixture
def made(tmp_path: Path) -> HandMade:
    return HandMade(tmp_path)


def columns(first: int, last: int, label: int, rest: int = 0, width: int = 10) -> npt.NDArray[np.uint8]:
    """A mask [4, width] with `label` from column `first` to before `last`."""
    labels = np.full((4, width), rest, np.uint8)
    labels[:, first:last] = label
    return labels


def test_overlap() -> None:
    a, b = columns(0, 4, 1).astype(bool), columns(2, 8, 1).astype(bool)
    assert asdict(overlap(a, b)) == {"iou": 2 / 8, "precision": 2 / 4, "recall": 2 / 6}
    nothing = np.zeros_like(a)
    assert asdict(overlap(nothing, nothing)) == {"iou": 1.0, "precision": 1.0, "recall": 1.0}
    empty = overlap(nothing, b)
    assert (empty.iou, empty.recall) == (0.0, 0.0)
    assert math.isnan(empty.precision)


def test_means_over_masks_then_videos_then_queries(made: HandMade) -> None:
    for time, last in ((0.5, 10), (0.6, 5)):  # IoU 1 and .5: the video has .75
        made.mask("cat", "a", time, columns(0, last, 1))
    made.mask("cat", "b", 0.5, columns(0, 5, 1))  # .5, so the query has .625
    made.mask("dog", "c", 0.5, columns(0, 10, 2))  # 1
    for name in ("cat/a/00000", "cat/a/00001", "cat/b/00000"):
        made.true(f"{name}.png", columns(0, 10, 1))
    made.true("dog/c/00000.png", columns(0, 10, 2))
    scores = evaluate_masks(made.commit(), made.truth)
    assert scores.mean.iou == pytest.approx((0.625 + 1) / 2)
    assert scores.mean.precision == 1.0
    assert {name: query.iou for name, query in scores.per_query.items()} == {"cat": 0.625, "dog": 1.0}
    assert scores.per_video["cat/a.mp4"].recall == pytest.approx(0.75)
    assert (scores.masks, scores.videos, scores.without_truth) == (4, 3, 0)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_one_bit_truth_in_a_folder_without_query(made: HandMade, mode: str) -> None:
    made.mask("dog", "c", 0.5, columns(0, 5, 2))
    made.true("c/00000.png", columns(0, 10, 1), mode)
    assert evaluate_masks(made.commit(), made.truth).mean.iou == 0.5


def test_other_classes_and_ignore_are_not_the_query(made: HandMade) -> None:
    predicted = columns(0, 4, 2, rest=255)
    predicted[:, 8:] = 1
    true = columns(0, 4, 2)
    true[:, 4:6] = 1
    true[:, 6:8] = 255
    made.mask("dog", "c", 0.5, predicted)
    made.true("dog/c/00000.png", true)
    assert evaluate_masks(made.commit(), made.truth).mean.iou == 1.0


def test_palette_of_the_truth_may_have_its_own_classes(made: HandMade) -> None:
    (made.truth / "classes.json").write_text('["dog", "bird"]')
    made.mask("dog", "c", 0.5, columns(0, 4, 2))
    made.true("dog/c/00000.png", columns(0, 4, 1))
    assert evaluate_masks(made.commit(), made.truth).mean.iou == 1.0


def test_prediction_is_brought_to_the_size_of_the_truth(made: HandMade) -> None:
    made.mask("dog", "c", 0.5, columns(0, 5, 2))
    made.true("dog/c/00000.png", np.kron(columns(0, 5, 2), np.ones((3, 3), np.uint8)))
    assert evaluate_masks(made.commit(), made.truth).mean.iou == 1.0


@pytest.mark.parametrize(("pts_seconds", "frame"), [(0.5, 0), (1.2, 7), (1.2333, 7), (1.26, 8)])
def test_frame_by_time_stamp(made: HandMade, pts_seconds: float, frame: int) -> None:
    made.mask("dog", "c", pts_seconds, columns(0, 5, 2))
    made.true(f"dog/c/{frame:05d}.png", columns(0, 5, 2))
    assert evaluate_masks(made.commit(), made.truth).masks == 1


def test_missing_truth_is_counted(made: HandMade) -> None:
    made.mask("dog", "c", 0.5, columns(0, 5, 2))
    made.mask("dog", "c", 0.6, columns(0, 5, 2))
    made.true("dog/c/00000.png", columns(0, 5, 2))
    scores = evaluate_masks(made.commit(), made.truth)
    assert (scores.masks, scores.without_truth) == (1, 1)


def test_empty_predictions_have_no_precision(made: HandMade) -> None:
    made.mask("dog", "c", 0.5, columns(0, 0, 2))
    made.mask("dog", "c", 0.6, columns(0, 5, 2))
    for number in range(2):
        made.true(f"dog/c/{number:05d}.png", columns(0, 5, 2))
    scores = evaluate_masks(made.commit(), made.truth)
    assert (scores.mean.iou, scores.mean.precision, scores.mean.recall) == (0.5, 1.0, 0.5)


def test_command(made: HandMade, capsys: pytest.CaptureFixture[str]) -> None:
    made.mask("dog", "c", 0.5, columns(0, 5, 2))
    made.true("dog/c/00000.png", columns(0, 10, 2))
    arguments = ["eval", "masks", "--pred", str(made.commit()), "--truth", str(made.truth)]
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["mean"] == {"iou": 0.5, "precision": 1.0, "recall": 0.5}
    assert (answer["masks"], answer["videos"]) == (1, 1)
    assert answer["per_query"] == {"dog": answer["mean"]}
    assert main(arguments) == 0
    assert "0.500" in capsys.readouterr().out


def test_odd_queries_are_printed(made: HandMade, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from f2f.engine.evaluate import MaskEvaluation, MaskScores

    one = MaskScores(1.0, 1.0, 1.0)
    queries = {"[/bold]": one, b"\xff".decode(errors="surrogateescape"): one}
    MaskEvaluation(one, 1, 1, 0, queries, {}).print_table(Console())
    said = capsys.readouterr().out
    assert "[/bold]" in said
    assert "\\xff" in said


# ---- errors


def test_no_run(made: HandMade) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        evaluate_masks(made.out, made.truth)


def test_no_truth_folder(made: HandMade) -> None:
    made.mask("dog", "c", 0.5, columns(0, 5, 2))
    with pytest.raises(UsageError, match=r"--truth .* is not a folder"):
        evaluate_masks(made.commit(), made.truth / "nowhere")


def test_no_truth_at_all(made: HandMade) -> None:
    made.mask("dog", "c", 0.5, columns(0, 5, 2))
    with pytest.raises(UsageError, match="none of the 1 masks"):
        evaluate_masks(made.commit(), made.truth)


def test_broken_files_are_named(made: HandMade) -> None:
    made.mask("dog", "c", 0.5, columns(0, 5, 2))
    (made.truth / "c").mkdir()
    (made.truth / "c" / "00000.png").write_text("no picture")
    with pytest.raises(UsageError, match=r"00000\.png cannot be read as an image"):
        evaluate_masks(made.commit(), made.truth)
    (made.truth / "classes.json").write_text("{")
    with pytest.raises(UsageError, match=r"classes\.json is not a JSON list"):
        evaluate_masks(made.out, made.truth)
