"""What runtimes say of themselves, in the log: on stderr where nobody set it up otherwise."""

from __future__ import annotations

import logging
from functools import cache

_log = logging.getLogger("f2f.engine.runtimes")


def note(message: str) -> None:
    """Say it to those who ask for details."""
    _log.info(message)


def tell(message: str) -> None:
    """Say it."""
    _log.warning(message)


@cache
def tell_once(message: str) -> None:
    """Say it once in the life of a process."""
    _log.warning(message)
