"""Optical flow as KITTI stores it: 16-bit RGB PNG with u*64 + 2^15, v*64 + 2^15, valid."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from f2f.engine.errors import UsageError

_MAGIC = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, compression, filter, interlace
LIMIT_PX = (2**15 - 1) / 64


def write_kitti_flow(path: Path, flow_xy_px: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """Write flow [H, W, 2] px and its validity [H, W]; flow beyond ±511.98 px is stored as not valid."""
    storable = valid & (np.abs(flow_xy_px) <= LIMIT_PX).all(-1)
    stored = np.zeros((*valid.shape, 3), ">u2")
    stored[storable, :2] = np.round(flow_xy_px[storable] * 64) + 2**15
    stored[..., 2] = storable
    height, width = valid.shape
    rows = stored.reshape(height, -1).view(np.uint8)  # [H, W*6] big-endian bytes
    unfiltered = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1)  # filter type 0 before each row
    header = _chunk(b"IHDR", _HEADER.pack(width, height, 16, 2, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(unfiltered.tobytes(), 6))
    path.write_bytes(_MAGIC + header + data + _chunk(b"IEND", b""))


def read_kitti_flow(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Flow [H, W, 2] float32 px and validity [H, W] of a KITTI flow PNG.

    Raises:
        UsageError: not a 16-bit RGB PNG without interlacing.
    """
    try:
        width, height, rows = _decode(path.read_bytes())
    except (ValueError, KeyError, struct.error, zlib.error) as error:
        raise UsageError(f"{path} is not a 16-bit RGB PNG as KITTI stores flow ({error}); give another file") from error
    stored = rows.view(">u2").reshape(height, width, 3).astype(np.float32)
    return np.asarray((stored[..., :2] - 2**15) / 64, np.float32), stored[..., 2] > 0


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _decode(content: bytes) -> tuple[int, int, NDArray[np.uint8]]:
    """Width, height and unfiltered bytes [H, W*6]."""
    if not content.startswith(_MAGIC):
        raise ValueError("no PNG signature")
    chunks = _chunks(content)
    width, height, bits, colour, _, _, interlace = _HEADER.unpack(chunks[b"IHDR"])
    if not width * height:
        raise ValueError(f"{width} x {height} px")
    if (bits, colour, interlace) != (16, 2, 0):
        raise ValueError(f"{bits} bits, colour type {colour}, interlace {interlace}")
    raw = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * 6)
    return width, height, _unfilter(raw)


def _chunks(content: bytes) -> dict[bytes, bytes]:
    """Data by chunk type, parts of one type joined."""
    chunks: dict[bytes, bytes] = {}
    place = len(_MAGIC)
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind = content[place + 4 : place + 8]
        chunks[kind] = chunks.get(kind, b"") + content[place + 8 : place + 8 + length]
        place += 12 + length
    return chunks


def _unfilter(raw: NDArray[np.uint8], pixel_bytes: int = 6) -> NDArray[np.uint8]:
    """Undo PNG's row filters (0 none, 1 left, 2 up, 3 average, 4 Paeth)."""
    out = np.zeros((raw.shape[0], raw.shape[1] - 1), np.uint8)
    above = np.zeros(out.shape[1], np.uint8)
    for row, (kind, line) in enumerate(zip(raw[:, 0].tolist(), raw[:, 1:], strict=True)):
        if kind == 0:
            out[row] = line
        elif kind == 2:
            out[row] = line + above
        elif kind in {1, 3, 4}:
            out[row] = _unfilter_row(kind, line.tolist(), above.tolist(), pixel_bytes)
        else:
            raise ValueError(f"row filter {kind}")
        above = out[row]
    return out


def _unfilter_row(kind: int, line: list[int], above: list[int], pixel_bytes: int) -> list[int]:
    done: list[int] = []
    for place, value in enumerate(line):
        left = done[place - pixel_bytes] if place >= pixel_bytes else 0
        corner = above[place - pixel_bytes] if place >= pixel_bytes else 0
        guess = {1: left, 3: (left + above[place]) // 2, 4: _paeth(left, above[place], corner)}[kind]
        done.append((value + guess) & 255)
    return done


def _paeth(left: int, above: int, corner: int) -> int:
    estimate = left + above - corner
    distances = [(abs(estimate - value), order, value) for order, value in enumerate((left, above, corner))]
    return min(distances)[2]
