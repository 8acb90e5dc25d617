"""Which code files this installation made: a keyed digest beside the file, the key readable by its owner only."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path


def sign(path: Path) -> None:
    """Mark the file at `path` as made here, by a `.sig` file beside it."""
    _signature(path).write_text(_digest(path), encoding="ascii")


def is_ours(path: Path) -> bool:
    """Whether the file at `path` is, byte for byte, one that `sign` marked with this installation's key."""
    try:
        return hmac.compare_digest(_signature(path).read_text(encoding="ascii").strip(), _digest(path))
    except (OSError, ValueError):
        return False


def _signature(path: Path) -> Path:
    return path.with_name(path.name + ".sig")


def _digest(path: Path) -> str:
    return hmac.new(_key(), path.read_bytes(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """The installation's key, made on first use."""
    folder = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "f2f"
    path = folder / "signing-key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(32))
    return path.read_bytes()
