"""Draw how close each kernel comes to the machine's copy bandwidth: docs/kernels.png, from results/kernels.csv.

    python benchmarks/roofline.py           kernels.csv -> docs/kernels.png
    python benchmarks/roofline.py --cuda    kernels_cuda.csv -> docs/kernels_cuda.png

All operators move more than they compute, or would if they were perfect: the roof is the bandwidth of a copy. A point
is the bytes that the operator must move (inputs once, results once) over the median time, on the README's headline
cases. Who is slower moves the same bytes more often, or computes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pictures import FAINT, INK, open_pyplot, save_picture
from record import read_rows
from tables import headline_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).parents[1] / "docs"
_NAMES = {
    "f2f triton": "f2f Triton",
    "f2f cpp": "f2f C++",
    "f2f torch": "f2f reference",
    "torch eager": "torch eager",
    "torch compile": "torch.compile",
    "opencv": "OpenCV",
    "kornia": "kornia",
    "localcorr": "localcorr",
    "pydensecrf": "pydensecrf",
}
_OURS, _REFERENCE, _THEIRS = "#d1495b", "#e3a3ac", "#3d6a8a"
_GAP = 1.35  # lines between two operators, for the heading
Row = dict[str, str]


def main() -> None:
    """Draw the picture."""
    name = "kernels_cuda" if "--cuda" in sys.argv[1:] else "kernels"
    path = DOCS / f"{name}.png"
    draw(headline_rows(name, read_rows(name)), path)


def draw(groups: Sequence[tuple[str, Sequence[Row]]], path: Path) -> None:
    """One group of points per headline case, (what it is, its rows), below one bandwidth axis."""
    lines = sum(len(rows) for _, rows in groups) + _GAP * len(groups)
    figure, axes = open_pyplot().subplots(figsize=(9, 0.9 + 0.225 * lines), dpi=130)
    roof = _roof(groups)
    lowest = min(float(row["gbps"]) for _, rows in groups for row in rows) / 1.6
    ticks: list[tuple[float, str]] = []
    top = 0.0
    for what, rows in groups:
        top += _GAP
        axes.text(lowest, top - 0.85, what, color=INK, fontweight="bold", va="center")
        fastest_first = sorted(rows, key=lambda row: float(row["p50_ms"]))
        for row in fastest_first:
            _point(axes, top, row, lowest, _times_ours(row, rows))
            ticks.append((top, _NAMES[row["backend"]]))
            top += 1
    _roof_line(axes, roof, top)
    _frame(axes, ticks, (lowest, roof * 5), top)
    save_picture(figure, path, tight=True)


def _roof(groups: Sequence[tuple[str, Sequence[Row]]]) -> float:
    return float(groups[0][1][0]["copy_gbps"])


def _times_ours(row: Row, rows: Sequence[Row]) -> str:
    """How much longer than f2f's best version: "12×"."""
    best = min(float(other["p50_ms"]) for other in rows if other["backend"].startswith("f2f"))
    ratio = float(row["p50_ms"]) / best
    return f"{ratio:.{0 if ratio >= 10 else 1}f}×"


def _point(axes: Axes, y: float, row: Row, lowest: float, times_ours: str) -> None:
    gbps, colour = float(row["gbps"]), _colour(row["backend"])
    ours = colour == _OURS
    axes.plot([lowest, gbps], [y, y], color=colour, alpha=0.45, linewidth=2.2 if ours else 1.3, solid_capstyle="butt")
    axes.plot(gbps, y, "o", color=colour, markersize=7 if ours else 5)
    share = float(row["pct_of_copy"])
    beside = f"{share:.{0 if share >= 10 else 1}f} % of copy" if ours else times_ours
    axes.annotate(
        f"{_short(float(row['p50_ms']))} ms   {beside}", (gbps, y), (8, 0), textcoords="offset points", va="center",
        color=INK if ours else FAINT, fontweight="bold" if ours else "normal", fontsize=8.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=3,
    )  # fmt: skip


def _colour(backend: str) -> str:
    if backend == "f2f torch":
        return _REFERENCE
    return _OURS if backend.startswith("f2f") else _THEIRS


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.3g}"


def _roof_line(axes: Axes, roof: float, bottom: float) -> None:
    axes.axvline(roof, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.text(roof * 1.07, bottom - 0.6, f"copy\n{roof:.0f} GB/s", color=INK, va="bottom", fontsize=8.5)


def _frame(axes: Axes, ticks: Sequence[tuple[float, str]], limits: tuple[float, float], bottom: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_ylim(bottom - 0.3, 0)  # the first operator on top
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("GB/s on the bytes that must move (beside each point: median time, × f2f's best)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    main()
