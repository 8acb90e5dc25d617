"""The engine's results as tables, for the README (tables.py)."""

from __future__ import annotations

from collections.abc import Sequence

Row = dict[str, str]
_SIDES = {
    "f2f": "f2f",
    "f2f int8": "f2f, networks in 8 bits",
    "script": "PyTorch script: scans every frame",
    "frugal script": "PyTorch script that leaves out the rest of a shot",
    "f2f without overlap": "f2f, one stage after the other",
    "f2f without leaving out": "f2f, every frame scored, activation computed anew",
    "f2f without runtime": "f2f, networks in eager torch",
    "f2f without kernels": "f2f, kernels in torch",
}
_SHARED = ("machine", "versions", "commit")


def engine_table(rows: Sequence[Row], ceilings: Sequence[Row]) -> list[Row]:
    """A row per side: time per world and how many times f2f's that is; the last says how near the ceiling f2f is."""
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    table = [_side_row(side, title, worlds, rows) for side, title in _SIDES.items()]
    shares = {row["world"]: f"{100 * float(row['share']):.0f} %" for row in ceilings if row["stage"] == "all"}
    last = {"": "CPU time of f2f's stages alone, of cores × time", **{world: shares[world] for world in worlds}}
    return [{**row, **{name: rows[0][name] for name in _SHARED}} for row in (*table, last)]


def _side_row(side: str, title: str, worlds: Sequence[str], rows: Sequence[Row]) -> Row:
    found = {row["world"]: row for row in rows if row["side"] == side}
    return {"": title, **{world: _told(found[world]) if world in found else "–" for world in worlds}}


def _told(row: Row) -> str:
    """5,531 videos/hour, for f2f; for the others, how many times f2f's time they take."""
    rate = f"{int(row['videos_per_hour']):,} videos/hour"
    iou = f"IoU with the script's masks {float(row['iou_with_script']):.3f}" if row["iou_with_script"] else ""
    if row["side"] == "f2f":
        return f"**{rate}**; {iou}"
    if row["side"] == "f2f int8":
        iou += f", {float(row['masks_shared']):.0%} of the same windows"
    return "; ".join(filter(None, (f"{rate} ({float(row['times_f2f']):.2f}× the time)", iou)))
