"""What the metadata of an exported network says about it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class NetworkCard:
    """What the metadata of an exported network says about it."""

    kind: Literal["classifier", "flow", "saliency", "segmenter"]
    classes: tuple[str, ...] = ()
    """channel order, no background"""
    defaults: dict[str, float] = field(default_factory=dict)
    """tau, theta_f, theta_b where the network has its own"""
    training: dict[str, Any] = field(default_factory=dict)
    """how it came to be: options, seed, quality"""

    def metadata(self) -> dict[str, str]:
        """The `f2f.*` entries, each a string."""
        return {
            "f2f.kind": self.kind,
            "f2f.classes": json.dumps(self.classes),
            "f2f.size_multiple": "1",
            "f2f.defaults": json.dumps(self.defaults),
            "f2f.training": json.dumps(self.training),
        }
