"""The runtimes' results as a table, for the README (tables.py)."""

from __future__ import annotations

from collections.abc import Sequence

Row = dict[str, str]
_COLUMNS = {
    ("onnxruntime", "float32"): "ONNX Runtime",
    ("onnxruntime in sections", "float32"): "in sections",
    ("openvino", "float32"): "OpenVINO",
    ("torch eager", "float32"): "torch, eager",
    ("torch compile", "float32"): "compiled",
    ("torch .pt2", "float32"): "`.pt2`",
    ("onnxruntime", "int8"): "ONNX Runtime, 8 bits",
    ("onnxruntime in sections", "int8"): "in sections, 8 bits",
    ("openvino", "int8"): "OpenVINO, 8 bits",
}


def runtimes_table(rows: Sequence[Row]) -> list[Row]:
    """A row per network and shape: ms by every runtime, the quickest in float32 and of all in bold."""
    cases = dict.fromkeys((row["network"], row["shape"]) for row in rows)
    return [_case(network, shape, rows) for network, shape in cases]


def _case(network: str, shape: str, rows: Sequence[Row]) -> Row:
    own = {
        (row["runtime"], row["precision"]): row for row in rows if (row["network"], row["shape"]) == (network, shape)
    }
    first = next(iter(own.values()))
    return {
        "ms": f"{network}: {shape.replace('x', '×')}",
        **{title: _told(own.get(key)) for key, title in _COLUMNS.items()},
        **{name: first[name] for name in ("machine", "versions", "commit")},
    }


def _told(row: Row | None) -> str:
    if row is None:
        return "–"
    ms = float(row["p50_ms"])
    text = f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}"
    return f"**{text}**" if row["best"] else text
