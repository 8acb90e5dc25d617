"""Changes that keep a file's format: values of JSON become others, headers of tars keep a checksum that fits.

Bytes changed blindly seldom get past a parser; what lies behind it is reached by these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutate = Callable[[bytes, Random], bytes]

_NASTY: Sequence[Any] = (
    *(None, True, -1, 0, 1, 255, 2**31, 2**63, 10**400, 0.5, float("inf"), float("nan")),
    *("", "\ud800", "\0", "..", "x" * 300, "red", "ok", "voc", "1", "\x1b[2J", "file://[", "s3://bucket/a.mp4"),
    *([], {}, [[]], [0, 1], [2, 1], ["", "", ""], [None], {"": None}, {"a": {"b": []}}),
)
_BLOCK = 512
_HEADER_FIELDS = ((0, 100), (124, 136), (156, 157), (157, 257), (257, 265), (345, 500))
"""name, size, kind, link, magic, prefix"""
_CHECKSUM = slice(148, 156)
_TELLING_BYTES = b"\0 /07LSgx\x80\xff"


def json_lines(data: bytes, rng: Random) -> bytes:
    """A value in one line of JSON becomes another, goes or comes twice."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = json_value(lines[number], rng)
    return b"\n".join(lines)


def json_value(data: bytes, rng: Random) -> bytes:
    """A value in a JSON text becomes another, goes or comes twice; what is no JSON stays."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _changed(value, rng)
    return json.dumps(value, indent=1).encode() if b"\n" in data else json.dumps(value).encode()


def _changed(value: Any, rng: Random) -> Any:
    places = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not places or rng.random() < 0.1:
        return rng.choice(_NASTY)
    place, changed, luck = rng.choice(places), value.copy(), rng.random()
    if luck < 0.7:
        changed[place] = _changed(value[place], rng)
    elif luck < 0.8:
        del changed[place]
    elif isinstance(changed, list):
        changed.insert(place, rng.choice(changed))
    else:
        changed[rng.choice([*places, "x"])] = changed[rng.choice(places)]
    return changed


def tar_header(data: bytes, rng: Random) -> bytes:
    """Bytes of one header of a tar become others, and its checksum fits again."""
    headers = [at for at in range(0, len(data) - _BLOCK + 1, _BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return data
    at = rng.choice(headers)
    header = bytearray(data[at : at + _BLOCK])
    for _ in range(rng.randint(1, 6)):
        header[rng.randrange(*rng.choice(_HEADER_FIELDS))] = rng.choice([*_TELLING_BYTES, rng.randrange(256)])
    if rng.random() < 0.3:  # a size in base 256, of up to 88 bits
        header[124:136] = b"\x80" + rng.randbytes(11)
    header[_CHECKSUM] = b" " * 8
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + _BLOCK :]
