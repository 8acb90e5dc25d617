"""What was done to the engine, and what came of it, as a table for the README (tables.py)."""

from __future__ import annotations

from collections.abc import Sequence

Row = dict[str, str]
_SHARED = ("machine", "versions", "commit")


def trust_table(chaos: Sequence[Row], videos: Sequence[Row], readers: Sequence[Row], long: Sequence[Row]) -> list[Row]:
    """A row per kind of trouble."""
    kills = sum(int(row["times"]) for row in chaos)
    survived = sum(int(row["survived"]) for row in chaos)
    files = sum(int(row["files"]) for row in videos)
    executions = sum(int(row["executions"]) for row in readers)
    findings = sum(int(row["findings"]) for row in readers)
    crashed = sum(int(row["files"]) for row in videos if row["outcome"] in {"crashed", "hung"})
    ways, kinds = ({row[column] for row in videos} for column in ("mutation", "video"))
    troubles = [
        (
            "`kill -9` before any file operation and at any moment, both formats, resumed until done",
            f"{kills} kills",
            f"{survived} survived: every file has the same bytes as undisturbed, nothing is damaged after any kill",
            "make chaos",
            chaos,
        ),
        (
            f"videos of {len(kinds)} kinds damaged in {len(ways)} ways",
            f"{files:,} files",
            f"each has its record; {crashed} cost their decoding process, none the run",
            "make fuzz-videos",
            videos,
        ),
        (
            f"damaged manifests, tars, records, claims: {len(readers)} readers under a coverage-guided fuzzer",
            f"{executions:,} runs",
            f"{findings} findings open",
            "make fuzz-readers",
            readers,
        ),
    ]
    told = [
        {"what was done": what, "how often": often, "what came of it": came, "again": f"`{again}`", **_shared(rows)}
        for what, often, came, again, rows in troubles
    ]
    return told + [_long_row(row) for row in long if row["target"]]


def _long_row(row: Row) -> Row:
    value = f"{row['value']} {row['unit']}".strip()
    came = f"{value} (target {row['target']}{'' if row['met'] == 'yes' else ': missed'})"
    return {
        "what was done": row["what"],
        "how often": "",
        "what came of it": came,
        "again": "`make long`",
        **_shared([row]),
    }


def _shared(rows: Sequence[Row]) -> Row:
    return {name: rows[0][name] for name in _SHARED}
