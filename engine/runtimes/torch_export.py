"""torch: `.pt2` files from torch.export. They are code, so only this installation's own are loaded unasked."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from f2f.engine.errors import NetworkError, UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.network import CONTRACTS, Kind, network_failure, parse_info
from f2f.engine.runtimes.trust import is_ours


class TorchNetwork:
    """A `.pt2` program run by torch on the CPU."""

    def __init__(self, path: Path, kind: Kind, options: RuntimeOptions) -> None:
        if not options.trust_code and not is_ours(path):
            raise UsageError(
                f"{path} is code that this installation did not export; export it here with `f2f export {kind}`, or "
                "give --trust-code if you trust where it comes from"
            )
        extra = {"f2f.json": ""}
        try:
            program = torch.export.load(str(path), extra_files=extra)
        except Exception as error:  # the loader raises whatever its parts raise
            raise NetworkError(f"{path} cannot be opened as a torch program ({error}); export it again") from error
        self.info = parse_info(path, _metadata(path, extra["f2f.json"]), kind, f"torch {torch.__version__} CPU")
        self._outputs = len(CONTRACTS[kind].outputs)
        self._module = program.module()

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Run the program on a float32 batch; raises `VideoError` where torch refuses it."""
        try:
            with torch.inference_mode():
                outputs = self._module(batch)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise network_failure(self.info, batch, error) from error
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert len(outputs) == self._outputs, f"{len(outputs)} outputs, expected {self._outputs}"
        return tuple(outputs)


def _metadata(path: Path, text: str) -> dict[str, str]:
    try:
        entries = json.loads(text or "{}")
        return {str(name): str(value) for name, value in entries.items()}
    except (ValueError, AttributeError) as error:
        raise NetworkError(
            f"{path} has metadata (f2f.json) that is no JSON object ({error}); export it again"
        ) from error
