"""A stand-in for a GPU, in the CPU's memory: it records what it is asked for, in order, and runs or captures it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from f2f.engine.runtimes import cuda
from f2f.engine.runtimes.cuda import Turns, empty_on, hand_back


class FakeGpu:
    """What the fakes share: the record, and what is being captured."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.capturing: list[Callable[[], None]] | None = None
        self.refuses_capture = False
        self.turns = Turns()

    def record(self, *call: Any) -> None:
        """Note a call."""
        self.calls.append(call)

    def names(self) -> list[str]:
        """The calls' names in order."""
        return [call[0] for call in self.calls]

    @property
    def last_beginning(self) -> str:
        """Of the work that is under way."""
        return next(name for name in reversed(self.names()) if name.startswith("begin"))

    def count(self, name: str) -> int:
        """How often a call was made."""
        return self.names().count(name)

    def submit(self, work: Callable[[], None]) -> None:
        """Run work, or keep it for the graph that is being captured."""
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)


class FakeQueue:
    """A stream, on the CPU."""

    type, index, handle = "cpu", 0, 4711

    def __init__(self, gpu: FakeGpu, name: str = "Fake GPU (9.0)") -> None:
        self.gpu, self._gpu = name, gpu

    @contextmanager
    def working(self, *, alone: bool = False) -> Iterator[None]:
        with self._gpu.turns.taken(alone=alone):  # as on a GPU: stages of a run are threads, and work at the same time
            self._gpu.record("begin alone" if alone else "begin")
            yield
            self._gpu.record("end")

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        made = empty_on(torch.device("cpu"), shape, dtype)
        return made.fill_(float("nan")) if dtype.is_floating_point else made

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._gpu.record("capture")
        assert self._gpu.last_beginning == "begin alone", "captured while others work"
        if self._gpu.refuses_capture:
            raise RuntimeError("operation not permitted when stream is capturing")
        steps: list[Callable[[], None]] = []
        self._gpu.capturing = steps
        try:
            work()
        finally:
            self._gpu.capturing = None

        def replay() -> None:
            self._gpu.record("replay")
            for step in steps:
                step()

        return replay

    def give(self, outputs: Sequence[Tensor], batch: Tensor, *, owned: bool) -> tuple[Tensor, ...]:
        self._gpu.record("give")
        return hand_back(outputs, batch, owned=owned)

    def wait(self) -> None:
        self._gpu.record("wait")


def install_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Let the engine see the stand-in of a GPU."""
    made = FakeGpu()
    monkeypatch.setattr(cuda, "open_queue", lambda: FakeQueue(made))
    monkeypatch.setattr(cuda, "gpu_obstacle", lambda: "")
    return made
