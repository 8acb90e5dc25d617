"""Draw how good `quality` is as a ranking and as an estimate: docs/quality.png, for quality_score.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pictures import FAINT, GRID, INK, open_pyplot, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS = {
    "real": ("nine real videos", "#d1495b", 2.2),
    "synthetic": ("synthetic web, the demo's crawl", "#3d6a8a", 2.2),
    "calibration": ("the crawl it was fitted to", "#9a9a9a", 1.3),
}
Row = dict[str, str]


def draw(worlds: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """Two panels: mean IoU of the masks that are kept, and estimated beside true IoU."""
    plt = open_pyplot()
    figure, (kept, reliability) = plt.subplots(
        1, 2, figsize=(9, 3.9), dpi=130, width_ratios=(1.25, 1), layout="constrained"
    )
    for world, rows in worlds.items():
        _draw_kept(kept, world, [row for row in rows if row["part"] == "kept"])
        _draw_groups(reliability, world, [row for row in rows if row["part"] == "group"])
    _finish_kept(kept)
    _finish_reliability(reliability)
    save_picture(figure, folder / "quality.png")


def _draw_kept(axes: Axes, world: str, rows: Sequence[Row]) -> None:
    label, colour, width = _LOOKS[world]
    shares, ious = [int(row["share_pct"]) for row in rows], [float(row["iou"]) for row in rows]
    axes.plot(shares, ious, "o-", color=colour, linewidth=width, markersize=2 * width, label=label, zorder=width)
    if world != "calibration":
        ideal = [float(row["iou_of_the_truly_best"]) for row in rows]
        axes.plot(shares, ideal, color=colour, linewidth=1, linestyle=(0, (2, 2)))


def _draw_groups(axes: Axes, world: str, rows: Sequence[Row]) -> None:
    _, colour, width = _LOOKS[world]
    estimated, true = [float(row["mean_quality"]) for row in rows], [float(row["iou"]) for row in rows]
    errors = [float(row["iou_standard_error"]) for row in rows]
    axes.errorbar(
        estimated,
        true,
        errors,
        fmt="o-",
        color=colour,
        linewidth=width,
        markersize=2 * width,
        elinewidth=1,
        zorder=width,
    )


def _finish_kept(axes: Axes) -> None:
    axes.set(
        xlim=(105, 5), ylim=(0.35, 1), xlabel="masks kept, best quality first (%)", ylabel="mean IoU of those kept"
    )
    axes.set_xticks(range(100, 0, -20))
    axes.plot([], [], color=FAINT, linewidth=1, linestyle=(0, (2, 2)), label="if the truth ranked them")
    axes.legend(frameon=False, loc="upper left", fontsize=8.5)
    _plain(axes, "Keeping the best")


def _finish_reliability(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="quality: estimated IoU", ylabel="true IoU (mean ± standard error)")
    axes.set_aspect("equal")
    axes.text(0.97, 0.9, "estimate = truth", color=FAINT, rotation=45, ha="right", va="top", fontsize=8.5)
    _plain(axes, "Five groups of rising quality")


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, color=INK, fontsize=10.5, fontweight="bold", loc="left")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
