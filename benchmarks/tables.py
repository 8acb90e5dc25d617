"""Write the README's tables from `results/`: what stands between `<!-- table:NAME -->` and `<!-- end -->`.

python benchmarks/tables.py           rewrites the README
python benchmarks/tables.py --check   fails where the README differs from the results
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from record import read_rows

README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HIDDEN = {"machine", "versions", "commit", "world"}


def markdown(name: str) -> str:
    """The rows of `results/<name>.csv` as a Markdown table, with where they were measured below."""
    rows = read_rows(name)
    columns = [column for column in rows[0] if column not in _HIDDEN]
    lines = [_line([column.replace("_", " ") for column in columns]), _line(["---"] * len(columns))]
    lines += [_line([row[column] for column in columns]) for row in rows]
    return "\n".join(
        [*lines, "", f"<sub>{rows[0]['machine']}; {rows[0]['versions']}; commit {rows[0]['commit']}</sub>", ""]
    )


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
