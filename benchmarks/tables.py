"""Write the README's tables from `results/`: what stands between `<!-- table:NAME -->` and `<!-- end -->`.

python benchmarks/tables.py           rewrites the README
python benchmarks/tables.py --check   fails where the README differs from the results
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from engine_table import engine_table
from record import read_rows
from runtime_table import runtimes_table
from study_table import filter_table, frames_table, study_table
from trust_table import trust_table

README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HIDDEN = {"machine", "versions", "commit", "world"}
# Headline cases of the kernels on a CPU and on a GPU: (op, mode, shape) -> (what it is, target).
_HEADLINES = {
    "kernels": {
        ("warp_union", "forward", "B1 K5 P20 321x321"): ("20 classes, 5 frames, 321²", "≥ 45× eager, ≥ 8× OpenCV"),
        ("activate_cams", "forward", "B1 S8 P20 321x321"): ("20 classes, 4 scales × flip, 321²", "≥ 15× eager"),
        ("compose_labels", "forward", "B1 P20 321x321"): ("20 classes, 321²", "≥ 10× eager"),
        ("cost_volume", "forward", "B1 L5 384x640"): ("PWC-Net's five levels, 384×640", "≥ 5× eager"),
        ("cost_volume", "forward+backward", "B1 L5 384x640"): ("the same with gradients", ""),
        ("warp_cost_volume", "forward", "B1 L5 384x640"): ("PWC-Net's five levels, 384×640", ""),
        ("soft_union", "forward", "B1 K5 P2 240x427"): ("2 classes, 5 frames, 427×240", ""),
        ("soft_union", "forward", "B1 K5 P2 480x854"): ("the same, 854×480", ""),
        ("crf_refine", "forward", "B1 L2 240x427"): ("427×240, 2 labels", "≥ 10× pydensecrf"),
        ("crf_refine", "forward", "B1 L4 240x427"): ("the same, 4 labels", "≥ 10× pydensecrf"),
        ("crf_refine", "forward", "B1 L21 240x427"): ("the same, 21 labels", ""),
    },
    "kernels_cuda": {
        ("warp_union", "forward", "B1 K5 P20 321x321"): ("20 classes, 5 frames, 321²", ""),
        ("warp_union", "forward", "B132 K5 P20 321x321"): (
            "132 such clips",
            "≥ 30× eager, ≥ 5× compile, ≥ 70 % of copy",
        ),
        ("activate_cams", "forward", "B132 S8 P20 321x321"): ("20 classes, 4 scales × flip, 132 × 321²", ""),
        ("compose_labels", "forward", "B132 P20 321x321"): ("20 classes, 132 × 321²", ""),
        ("cost_volume", "forward", "B1 L5 384x640"): ("PWC-Net's five levels, 384×640", ""),
        ("cost_volume", "forward+backward", "B1 L5 384x640"): ("the same with gradients", ""),
        ("warp_cost_volume", "forward", "B1 L5 384x640"): ("PWC-Net's five levels, 384×640", ""),
    },
}
_KEPT_PCT = ("20", "40", "60", "80", "100")
_NOTHING = "–"
_OURS = ("f2f triton", "f2f cpp", "f2f torch")  # best first
_OTHERS = ("torch eager", "torch compile", "opencv", "kornia", "localcorr", "pydensecrf")


def markdown(name: str) -> str:
    """The rows of `results/<name>.csv` as a Markdown table, with where they were measured below."""
    rows = _MADE[name]() if name in _MADE else read_rows(name)
    columns = [column for column in rows[0] if column not in _HIDDEN and any(row[column] != _NOTHING for row in rows)]
    lines = [_line([column.replace("_", " ") for column in columns]), _line(["---"] * len(columns))]
    lines += [_line([row[column] for column in columns]) for row in rows]
    return "\n".join([*lines, "", f"<sub>{_circumstances(rows, columns[0])}</sub>", ""])


def _circumstances(rows: Sequence[dict[str, str]], column: str) -> str:
    """Machine, versions and commit; of which rows, by the words before the colon in `column`, where they differ."""
    measured: dict[str, list[str]] = {}
    for row in rows:
        where = f"{row['machine']}; {row['versions']}; commit {row['commit']}"
        measured.setdefault(where, []).append(row[column].partition(":")[0])
    if len(measured) == 1:
        return next(iter(measured))
    return "<br>".join(f"{', '.join(dict.fromkeys(names))}: {where}" for where, names in measured.items())


def quality_scores() -> list[dict[str, str]]:
    """One row per share of the masks that is kept, best quality first: from which quality on, and what they are."""
    worlds = {world: read_rows(f"quality_score_{world}") for world in ("real", "synthetic")}
    return [
        {
            "masks_kept": f"{share} %",
            **{f"{world}: {title}": entry for world, rows in worlds.items() for title, entry in _kept(share, rows)},
            **{column: worlds["real"][0][column] for column in ("machine", "versions", "commit")},
        }
        for share in _KEPT_PCT
    ]


def _kept(share: str, rows: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    (row,) = (row for row in rows if (row["part"], row["share_pct"]) == ("kept", share))
    columns = {"quality from": "least_quality", "iou": "iou", "precision": "precision", "videos": "videos"}
    return [(title, row[column]) for title, column in columns.items()]


def condensed(name: str, rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """One row per headline case of the kernels' results: f2f's best version, and the others beside it.

    Times are medians; "12 ms (20×)" means that f2f is 20 times as fast as that.
    """
    targets = {_title(key, words[0]): words[1] for key, words in _HEADLINES[name].items()}
    return [_headline(title, targets[title], case) for title, case in headline_rows(name, rows)]


def headline_rows(name: str, rows: Sequence[dict[str, str]]) -> list[tuple[str, list[dict[str, str]]]]:
    """(what it is, rows that have a time, one per backend) of every headline case that was measured."""
    usual = [row for row in rows if row["p50_ms"] and row["flow"] != "random" and row["dtype"] == "float32"]
    cases = [
        (
            _title(key, words[0]),
            [row for row in usual if (row["op"], row["mode"], row["shape"]) == key and _is_default(row)],
        )
        for key, words in _HEADLINES[name].items()
    ]
    return [(title, case) for title, case in cases if case]


def flow_methods(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """One row per method of flow: errors beside exact flow, IoU of carried masks by stride, time on the videos.

    "7 of 9" counts the videos whose masks, carried over two frames, overlap the true ones more than with DIS medium.
    """
    return [_flow_method(method, rows) for method in dict.fromkeys(row["method"] for row in rows)]


def _flow_method(method: str, rows: Sequence[dict[str, str]]) -> dict[str, str]:
    own = [row for row in rows if row["method"] == method]
    exact = {row["material"]: row for row in own if not row["stride"]}
    means = {row["stride"]: row for row in own if row["video"] == "mean"}
    timed = means.get("2", own[0])
    return {
        "flow": "bundled network" if method == "demo" else method,
        **{f"EPE px, {material}": row["epe_px"] for material, row in exact.items()},
        **{f"mask IoU, stride {stride}": f"{float(row['mask_iou']):.3f}" for stride, row in means.items()},
        **({"above DIS medium, stride 2": _above_dis(method, rows)} if "2" in means else {}),
        "ms per pair": timed["ms_per_pair"],
        **{column: own[0][column] for column in ("machine", "versions", "commit")},
    }


def _above_dis(method: str, rows: Sequence[dict[str, str]]) -> str:
    by_method: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["stride"] == "2" and row["video"] != "mean":
            by_method.setdefault(row["method"], {})[row["video"]] = float(row["mask_iou"])
    own, dis = by_method[method], by_method["dis-medium"]
    return "–" if method == "dis-medium" else f"{sum(own[video] > dis[video] for video in dis)} of {len(dis)} videos"


def _title(key: tuple[str, str, str], words: str) -> str:
    return f"{key[0]}: {words}"


def _is_default(row: dict[str, str]) -> bool:
    """Our versions have rows of forced launches beside the one that users get."""
    return row["backend"] not in _OURS or not row["form"]


def _headline(title: str, target: str, rows: Sequence[dict[str, str]]) -> dict[str, str]:
    timed = {row["backend"]: row for row in rows}
    ours = timed[next(backend for backend in _OURS if backend in timed)]
    share = float(ours["pct_of_copy"])
    return {
        "operator": title,
        "f2f": f"**{_ms(ours)}** ({ours['backend'].removeprefix('f2f ')})",
        "of_copy": f"{share:.{0 if share >= 10 else 1}f} %",
        **{name: _compared(timed.get(name), ours) for name in _OTHERS},
        "target": target,
        **{column: ours[column] for column in ("machine", "versions", "commit")},
    }


def _compared(row: dict[str, str] | None, ours: dict[str, str]) -> str:
    if row is None:
        return _NOTHING
    ratio = float(row["p50_ms"]) / float(ours["p50_ms"])
    return f"{_ms(row)} ({ratio:.{0 if ratio >= 10 else 1}f}×)"


def _ms(row: dict[str, str]) -> str:
    value = float(row["p50_ms"])
    return f"{value:.0f} ms" if value >= 100 else f"{value:.2g} ms" if value < 1 else f"{value:.3g} ms"


_MADE: dict[str, Callable[[], list[dict[str, str]]]] = {
    **{name: partial(lambda name: condensed(name, read_rows(name)), name) for name in _HEADLINES},
    "trust": lambda: trust_table(read_rows("chaos"), read_rows("fuzz"), read_rows("fuzz_readers"), read_rows("long")),
    "engine": lambda: engine_table(read_rows("engine"), read_rows("engine_ceiling")),
    "runtimes": lambda: runtimes_table(read_rows("runtimes")),
    "flow": lambda: flow_methods(read_rows("flow")),
    "quality_score": quality_scores,
    "study": lambda: study_table(read_rows("study")),
    "study_frames": lambda: frames_table(read_rows("study"), read_rows("study_labels")),
    "study_filter": lambda: filter_table(read_rows("study"), read_rows("study_filter")),
}
"""tables that are not the rows of results as they are"""


def with_tables(text: str) -> str:
    """The README's text with every table block filled anew."""
    return _BLOCK.sub(lambda block: block[1] + "\n" + markdown(block[2]) + "\n" + block[3], text)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Rewrite or check the README."""
    text = README.read_text(encoding="utf-8")
    filled = with_tables(text)
    if "--check" in sys.argv[1:]:
        print(
            "README's tables are the results" if text == filled else "README's tables differ: run benchmarks/tables.py"
        )
        return int(text != filled)
    README.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
