"""What the JSON of a record may hold, checked before anything relies on it.

A seal tells that a file is as it was written, not that what was written makes sense.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

_NONE = type(None)
_KINDS: Mapping[str, frozenset[type]] = {
    "str": frozenset({str}),
    "Status": frozenset({str}),
    "int": frozenset({int}),
    "float": frozenset({float, int}),
    "bool": frozenset({bool}),
    "float | None": frozenset({float, int, _NONE}),
    "tuple[str, ...]": frozenset({list}),
    "tuple[int, ...]": frozenset({list}),
    "tuple[float, ...]": frozenset({list}),
    "tuple[float, ...] | None": frozenset({list, _NONE}),
}
"""annotation of a record's field -> types of its value in JSON"""
_MOST = 2**63
"""tables have integers of 64 bits"""


def check_entry(kind: Any, entry: Mapping[str, Any]) -> None:
    """Check that `entry` has values that fields of the dataclass `kind` may have; others are left to it.

    Raises:
        ValueError: it has not.
    """
    accepted = _accepted(kind)
    for key, value in entry.items():
        if key not in accepted:
            continue
        types, elements = accepted[key]
        if type(value) not in types:
            raise ValueError(f"{key} is {value!r:.80}")
        for one in value if type(value) is list else (value,):
            if type(value) is list and type(one) not in elements:
                raise ValueError(f"{key} holds {one!r:.80}")
            _check_value(key, one)


def _check_value(key: str, value: Any) -> None:
    """Text fits file names, as all names of a run once did; numbers fit the tables."""
    if type(value) is str and not value.isascii():
        os.fsencode(value)  # raises a ValueError of its own for half a surrogate pair
    elif type(value) is int and not -_MOST <= value < _MOST:
        raise ValueError(f"{key} has more than 64 bits")


@cache
def _accepted(kind: Any) -> dict[str, tuple[frozenset[type], frozenset[type]]]:
    """Field -> types of its value, and of what is in it where that is a list."""
    named = {entry.name: str(entry.type) for entry in fields(kind)}
    return {
        name: (_KINDS[annotation], _KINDS.get(annotation.removeprefix("tuple[").partition(",")[0], frozenset()))
        for name, annotation in named.items()
        if annotation in _KINDS
    }
