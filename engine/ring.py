"""Ring: slots for frames in memory that two processes see."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from f2f.engine.files import machine_errors
from f2f.engine.types import ImageArray

RING_SLOTS = 8


def slot_bytes(max_side: int) -> int:
    """Room for the largest frame, RGB, in whole pages."""
    return -(-(max_side**2) * 3 // mmap.PAGESIZE) * mmap.PAGESIZE


class FrameRing:
    """Slots for frames in memory that two processes see: in /dev/shm where there is room, else in a temporary file."""

    def __init__(self, path: str, slots: int, slot_bytes: int) -> None:
        """Map the file at `path`, which `create` has made."""
        self.path, self.slots, self.slot_bytes = path, slots, slot_bytes
        with Path(path).open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), slots * slot_bytes)

    @classmethod
    def create(cls, slots: int, slot_bytes: int) -> FrameRing:
        """Make a ring; its file is removed by `unlink`, at the latest by `close`.

        Raises:
            MachineError: there is no room for it.
        """
        folder = _ring_folder(slots * slot_bytes)
        with machine_errors(Path(folder)):
            handle, path = tempfile.mkstemp(prefix=f"f2f-ring-{os.getpid()}-", dir=folder)
            try:
                os.posix_fallocate(handle, 0, slots * slot_bytes)
            except OSError:
                Path(path).unlink()
                raise
            finally:
                os.close(handle)
        return cls(path, slots, slot_bytes)

    def put(self, slot: int, image: ImageArray) -> None:
        """Copy `image` into a slot."""
        start = slot * self.slot_bytes
        self._memory[start : start + image.nbytes] = image.tobytes()

    def take(self, slot: int, size_hw: tuple[int, int]) -> ImageArray:
        """A copy of the uint8 [H, W, 3] image in a slot."""
        count = size_hw[0] * size_hw[1] * 3
        pixels = np.frombuffer(self._memory, np.uint8, count, slot * self.slot_bytes)
        return pixels.reshape(*size_hw, 3).copy()

    def unlink(self) -> None:
        """Remove the file; the memory lives on where it is mapped, and a kill -9 leaves nothing behind."""
        Path(self.path).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmap the memory and remove the file."""
        self._memory.close()
        self.unlink()


def _ring_folder(size_bytes: int) -> str:
    shared = "/dev/shm"  # noqa: S108 - the kernel's shared memory; mkstemp makes the name
    with suppress(OSError):
        if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 4 * size_bytes:
            return shared
    return tempfile.gettempdir()
