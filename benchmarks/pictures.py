"""What the pictures of all benchmarks share: their looks, and small files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#222222", "#6e6e6e", "#e6e6e6"
"""text, axes, grid"""


def open_pyplot() -> Any:
    """`matplotlib.pyplot` of the extra `bench`, drawing into files, with our font."""
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.use("Agg")
    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9.5, "axes.edgecolor": FAINT})
    return pyplot


def save_picture(figure: Figure, path: Path, *, tight: bool = False) -> None:
    """Write a PNG of 64 colours, which has a third of the bytes, and say how large it is; `tight` crops its border."""
    figure.savefig(path, bbox_inches="tight" if tight else None)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(64)
    few.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")
