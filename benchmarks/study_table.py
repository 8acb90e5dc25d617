"""The study's results as tables, for the README (tables.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from study_picture import PAPER, chosen, mean_std, usual_videos

Row = dict[str, str]
_METHODS = {"sec": "SEC", "dsrg": "DSRG", "ficklenet": "FickleNet"}
_DATA = {"I": "I", "I twice": "I, adapted to itself", "I+V": "I + V", "I+V+DA": "I + V + DA"}
_SHARED = ("machine", "versions", "commit")


def study_table(rows: Sequence[Row]) -> list[Row]:
    """Table 5 in shape: a row per method, mean IoU in percent over the seeds; the last is full supervision."""
    table = [_method_row(method, rows) for method in _METHODS if chosen(rows, method=method)]
    full = dict.fromkeys(("paper, VOC val", *_DATA.values()), "")
    exact = {"method": "full supervision, the same network", **full, "I": _told(chosen(rows, method="full"))}
    return [{**row, **_circumstances(rows)} for row in (*table, exact)]


def _method_row(method: str, rows: Sequence[Row]) -> Row:
    found = {
        title: _told(chosen(rows, method=method, data=data, **usual_videos(data))) for data, title in _DATA.items()
    }
    return {"method": _METHODS[method], **found, "paper, VOC val": PAPER[method]}


def frames_table(rows: Sequence[Row], labels: Sequence[Row]) -> list[Row]:
    """Figure 5a: a row per rule and K, the masks of V beside exact ones and what DSRG makes of them."""
    ordered = sorted(labels, key=lambda row: (row["rule"], int(row["frames"])))
    return [{**_frames_row(row, rows), **_circumstances(rows)} for row in ordered]


def _frames_row(label: Row, rows: Sequence[Row]) -> Row:
    videos = {"rule": label["rule"], "frames": label["frames"], "samples": 0, "kept": ""}
    miou = _told(chosen(rows, method="dsrg", data="I+V", **videos))
    own = {name: label[name] for name in ("masks", "precision", "recall", "iou")}
    return {"rule": f"rule {label['rule']}", "K": label["frames"], **own, "mean IoU of DSRG, %": miou}


def filter_table(rows: Sequence[Row], filters: Sequence[Row]) -> list[Row]:
    """§3.2: which windows of trusted queries are kept, and what DSRG makes of them."""
    titles = {"none": "all", "single": "last frame shows the query", "agreed": "all K frames agree on it"}
    return [
        {
            "windows kept": titles[row["filter"]],
            **{name: row[name] for name in ("windows", "precision", "recall")},
            "mean IoU of DSRG, %": _told(chosen(rows, method="dsrg", data="I+V", kept=row["filter"])),
            **_circumstances(rows),
        }
        for row in filters
    ]


def _told(values: Sequence[float]) -> str:
    """49.1 ± 0.8 (3), the number being that of the seeds."""
    if not values:
        return "–"
    mean, std = mean_std(values)
    return f"{mean:.1f} ± {std:.1f} ({len(values)})" if len(values) > 1 else f"{mean:.1f}"


def _circumstances(rows: Sequence[Row]) -> Row:
    """Of all trainings together."""
    return {name: ", ".join(_distinct(row[name] for row in rows)) for name in _SHARED}


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
