"""The classes and their families. A class differs from its family by one small distinctive part only."""

from __future__ import annotations

FAMILIES: dict[str, tuple[str, ...]] = {
    "quadruped": ("deer", "elephant"),
    "bird": ("peacock", "rooster"),
    "vehicle": ("ambulance", "firetruck"),
}

CLASSES: tuple[str, ...] = tuple(name for names in FAMILIES.values() for name in names)
"""Class i has label i + 1 in every mask."""

NO_CLASS = ""
"""A body of a family without any distinctive part."""
