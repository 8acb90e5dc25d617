"""Which code files this installation made: a keyed digest beside the file, the key readable by its owner only."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from f2f.engine.errors import UsageError

_KEY_BYTES = 32


def sign(path: Path) -> None:
    """Mark the file at `path` as made here, by a `.sig` file beside it."""
    _signature(path).write_text(_digest(path.read_bytes()), encoding="ascii")


def is_ours(path: Path, data: bytes | None = None) -> bool:
    """Whether the file at `path` is, byte for byte, one that `sign` marked with this installation's key.

    Args:
        path: the file.
        data: what was read of it, where that is what will be used.

    Raises:
        UsageError: the key is damaged.
    """
    try:
        content = path.read_bytes() if data is None else data
        return hmac.compare_digest(_signature(path).read_text(encoding="ascii").strip(), _digest(content))
    except (OSError, ValueError):
        return False


def _signature(path: Path) -> Path:
    return path.with_name(path.name + ".sig")


def _digest(content: bytes) -> str:
    return hmac.new(_key(), content, hashlib.sha256).hexdigest()


def _key() -> bytes:
    """The installation's key, made on first use."""
    folder = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "f2f"
    path = folder / "signing-key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _make_key(path)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise UsageError(
            f"{path} is no signing key ({len(key)} bytes; accepted: {_KEY_BYTES}); remove it and export networks again"
        )
    return key


def _make_key(path: Path) -> None:
    """A new key at `path`, whole from the start; where two processes make one, the first stays."""
    handle, aside = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
    with os.fdopen(handle, "wb") as stream:
        stream.write(secrets.token_bytes(_KEY_BYTES))
    with suppress(FileExistsError):
        path.hardlink_to(aside)
    Path(aside).unlink()
