"""The benchmark of the quality score: ranks, rows, the fit of the weights, the README's table, the picture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts that import their neighbours

import tables
from quality_picture import draw
from quality_score import Judged, fitted, rank_correlation, rows


def judged(quality: float, iou: float, video: str = "a") -> Judged:
    return Judged(video, torch.zeros(3), quality, iou, precision=iou / 2)


def written(masks: list[Judged]) -> list[dict[str, str]]:
    circumstances = {"machine": "a machine", "versions": "torch 2", "commit": "abc"}
    return [{**{name: str(entry) for name, entry in row.items()}, **circumstances} for row in rows(masks)]


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)  # 1 - 6 * 4 / (5 * 24)
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(0.75**0.5)  # ranks 1.5 1.5 3 and 1 2 3


def test_rows_keep_the_best_and_group_by_quality() -> None:
    masks = [judged(number / 10, (9 - number if number < 2 else number) / 10, str(number % 2)) for number in range(10)]
    found = written(masks)
    kept = {row["share_pct"]: row for row in found if row["part"] == "kept"}
    assert list(kept) == [str(share) for share in range(10, 101, 10)]
    assert (kept["20"]["iou"], kept["20"]["least_quality"], kept["20"]["precision"]) == ("0.850", "0.800", "0.425")
    assert (kept["20"]["videos"], kept["10"]["videos"], kept["100"]["masks"]) == ("2", "1", "10")
    assert kept["20"]["iou_of_the_truly_best"] == "0.900"
    groups = [row for row in found if row["part"] == "group"]
    assert [row["masks"] for row in groups] == ["2"] * 5
    assert [row["mean_quality"] for row in groups] == ["0.050", "0.250", "0.450", "0.650", "0.850"]
    assert [row["iou"] for row in groups] == ["0.850", "0.250", "0.450", "0.650", "0.850"]


def test_the_fit_finds_the_weights_that_made_the_data() -> None:
    signs = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    weights, offset = torch.tensor([2.0, -3.0, 0.0]), 0.5
    found, found_offset = fitted(signs, torch.sigmoid(signs @ weights + offset))
    assert found == pytest.approx(weights.tolist(), abs=0.35)  # a little smaller: the ridge
    assert abs(found[0]) < 2
    assert found_offset == pytest.approx(offset, abs=0.35)


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    found = written([judged(number / 20, number / 20) for number in range(20)])
    monkeypatch.setattr(tables, "read_rows", lambda _: found)
    table = tables.markdown("quality_score").splitlines()
    assert table[0].startswith(
        "| masks kept | real: quality from | real: iou | real: precision | real: videos | synthetic"
    )
    assert table[2] == "| 20 % |" + " 0.800 | 0.875 | 0.438 | 1 |" * 2


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `bench`")
    found = written([judged(number / 20, number / 20) for number in range(20)])
    draw(dict.fromkeys(("calibration", "synthetic", "real"), found), tmp_path)
    with Image.open(tmp_path / "quality.png") as picture:
        assert picture.width > 1000
