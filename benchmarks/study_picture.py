"""Draw the study: docs/study.png, for study.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pictures import FAINT, GRID, INK, open_pyplot, save_picture
from study_cases import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DATA = {"I": "#b9c4cc", "I twice": "#8a9aa6", "I+V": "#3d6a8a", "I+V+DA": "#d1495b"}
_DATA_LABELS = {"I": "I", "I twice": "I, adapted to itself", "I+V": "I + V", "I+V+DA": "I + V + DA"}
_RULES = {"f2f": ("rule f2f", "#d1495b"), "paper": ("rule paper", "#3d6a8a")}
_METHOD_LABELS = {"sec": "SEC", "dsrg": "DSRG", "ficklenet": "FickleNet"}
PAPER = {"sec": "50.7 → 59.5 → 61.1", "dsrg": "59.0 → 62.1 → 62.9", "ficklenet": "61.2 → 63.2 → 63.9"}
"""Lee et al. 2019, table 5: mean IoU on Pascal VOC val, VGG-16, I → I + V → I + V + DA"""
Row = dict[str, str]


def draw_study(rows: Sequence[Row], labels: Sequence[Row], folder: Path) -> None:
    """Four panels: methods × data, K, the proxy masks at every K, and the number of masks; means ± std over seeds.

    `rows` are those of study.csv, `labels` those of study_labels.csv.
    """
    plt = open_pyplot()
    figure, ((table, frames), (masks, samples)) = plt.subplots(2, 2, figsize=(10, 7.4), dpi=120, layout="constrained")
    _draw_table(table, rows)
    _draw_frames(frames, rows)
    _draw_masks(masks, labels)
    _draw_samples(samples, rows)
    save_picture(figure, folder / "study.png")


def chosen(rows: Sequence[Row], **wanted: object) -> list[float]:
    """Mean IoU of the rows whose fields are as wanted, one per seed, in percent."""
    return [100 * float(row["miou"]) for row in rows if all(row[name] == str(value) for name, value in wanted.items())]


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation over seeds (0 of one)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _draw_table(axes: Axes, rows: Sequence[Row]) -> None:
    width = 0.8 / len(_DATA)
    for place, (data, colour) in enumerate(_DATA.items()):
        for group, method in enumerate(METHODS):
            if values := chosen(rows, method=method, data=data, **usual_videos(data)):
                mean, std = mean_std(values)
                left = group + (place - (len(_DATA) - 1) / 2) * width
                label = _DATA_LABELS[data] if group == 0 else None
                axes.bar(left, mean, width * 0.92, yerr=std, color=colour, label=label, ecolor=INK, capsize=2)
                axes.text(left, mean + std + 0.6, f"{mean:.1f}", ha="center", fontsize=7.5, color=INK)
    _line(axes, chosen(rows, method="full"), "full supervision", across=True)
    axes.set_xticks(range(len(METHODS)), [f"{_METHOD_LABELS[method]}\n{PAPER[method]}" for method in METHODS])
    axes.set_xlabel("below: the paper's I, I + V, I + V + DA on Pascal VOC val", fontsize=8, color=FAINT)
    axes.margins(y=0.22)  # room for the legend
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper left", columnspacing=1, handlelength=1.2)
    _plain(axes, "Table 5 in shape", "mean IoU (%)")


def usual_videos(data: str) -> dict[str, object]:
    """The fields of a row of study.csv that has the usual masks of V, or none."""
    videos = {"rule": "f2f", "frames": 5} if "V" in data else {"rule": "", "frames": 0}
    return {**videos, "samples": 0, "kept": ""}


def _draw_frames(axes: Axes, rows: Sequence[Row]) -> None:
    for rule, (label, colour) in _RULES.items():
        runs = [
            row for row in rows if (row["rule"], row["samples"], row["kept"], row["data"]) == (rule, "0", "", "I+V")
        ]
        runs = [row for row in runs if row["method"] == "dsrg"]
        _curve(axes, _by(runs, "frames"), label, colour)
    _line(axes, chosen(rows, method="dsrg", data="I"), "I alone (K = 0)")
    axes.set_xlabel("K, frames per mask")
    axes.margins(y=0.18)  # room for the legend
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper right")
    _plain(axes, "Figure 5a: frames that are aggregated (DSRG)", "mean IoU (%)")


def _draw_masks(axes: Axes, labels: Sequence[Row]) -> None:
    looks = {"precision": (0, (1, 1)), "recall": (0, (4, 2)), "iou": "solid"}
    for rule, (label, colour) in _RULES.items():
        own = sorted((row for row in labels if row["rule"] == rule), key=lambda row: int(row["frames"]))
        for score, style in looks.items():
            name = f"{label}: {'IoU' if score == 'iou' else score}"
            places, values = [int(row["frames"]) for row in own], [100 * float(row[score]) for row in own]
            axes.plot(places, values, color=colour, linestyle=style, marker=".", label=name, linewidth=1.6)
    axes.set_xlabel("K, frames per mask")
    axes.legend(frameon=False, fontsize=7.5, ncols=2)
    axes.set_ylim(0, 100)
    _plain(axes, "Why the curves bend: masks of V beside exact ones", "%")


def _draw_samples(axes: Axes, rows: Sequence[Row]) -> None:
    usual = [
        row for row in rows if (row["method"], row["rule"], row["frames"], row["kept"]) == ("dsrg", "f2f", "5", "")
    ]
    curve = _by([row for row in usual if row["data"] == "I+V"], "masks")
    if alone := chosen(rows, method="dsrg", data="I"):
        curve[0] = alone
    _curve(axes, curve, "DSRG, rule f2f, K = 5", _RULES["f2f"][1])
    axes.set_xlabel("masks of videos")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    _plain(axes, "Figure 5b: number of masks of V", "mean IoU (%)")


def _by(rows: Sequence[Row], column: str) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(int(row[column]), []).append(100 * float(row["miou"]))
    return found


def _curve(axes: Axes, values: Mapping[int, Sequence[float]], label: str, colour: str) -> None:
    if values:
        places = sorted(values)
        means, stds = zip(*(mean_std(values[place]) for place in places), strict=True)
        axes.errorbar(places, means, stds, fmt="o-", color=colour, label=label, markersize=4, linewidth=1.8, capsize=2)


def _line(axes: Axes, values: Sequence[float], label: str, across: bool = False) -> None:
    if values:
        mean, std = mean_std(values)
        axes.axhline(mean, color=INK if across else FAINT, linewidth=1, linestyle=(0, (4, 3)), label=label)
        axes.axhspan(mean - std, mean + std, color=FAINT, alpha=0.12, linewidth=0)


def _plain(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    axes.set_ylabel(unit)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=FAINT)
