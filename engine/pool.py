"""The decode pool: long-lived child processes, frames handed over through shared memory, a watchdog.

One child decodes one video at a time. It puts pixels into its ring and a small message into its pipe; a slot is free
again once the parent has copied it, so a slow parent holds the children back. A child that dies or shows no progress
costs its video and is replaced.

    parent -> child   ChildSettings, then DecodeTask | "credit" (a slot is free again) | "cancel" (enough of this
                      video) | "exit"
    child -> parent   FrameMessage | "tick" (alive) | EndMessage | the MachineError that ends the run
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from f2f.engine.children import end_child, exit_code, exit_text, start_child
from f2f.engine.decode import DecodeState, sample_frames
from f2f.engine.errors import MachineError, VideoError
from f2f.engine.nvdec import conversion
from f2f.engine.options import DecodeOptions
from f2f.engine.ring import RING_SLOTS, FrameRing, slot_bytes
from f2f.engine.stage import StageClock
from f2f.engine.types import DecodeReport, Failure, Frame, InputRow, PartEnd, Span, VideoEnd

_POLL_SECONDS = 0.5
_START_SECONDS = 60.0
_STARVED_POLL_SECONDS = 0.02
"""while a child has nothing to do because no input is ready"""
_OVER = "over"


@dataclass(frozen=True)
class DecodeTask:
    """One video to decode."""

    video: int
    location: str
    span: Span | None = None
    begun: PartEnd | None = None
    """the part of it whose frames are not wanted"""


@dataclass(frozen=True)
class ChildSettings:
    """What a child needs to know before its first video."""

    ring_path: str
    slots: int
    slot_bytes: int
    options: DecodeOptions


@dataclass(frozen=True)
class FrameMessage:
    """A frame lies in a slot of the ring."""

    video: int
    shot: int
    pts_seconds: float
    slot: int
    size_hw: tuple[int, int]
    report: DecodeReport
    blank: bool
    place: int


@dataclass(frozen=True)
class EndMessage:
    """The video is over."""

    end: VideoEnd
    seconds: float = 0.0
    """it took"""
    blocked_seconds: float = 0.0
    """of them, in which the parent had not taken what was decoded"""
    retiring: bool = False
    """the child decodes nothing more"""


# ---- the child


def decode_child(descriptor: int) -> None:
    """Decode videos until told to exit or the parent is gone; `descriptor` is the child's end of the pipe."""
    connection = Connection(descriptor)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        settings: ChildSettings = connection.recv()
        ring = FrameRing(settings.ring_path, settings.slots, settings.slot_bytes)
        ring.unlink()  # both sides have it mapped now
        conversion(settings.options.decoder)  # what it imports takes seconds
        connection.send("tick")
        sender = _Sender(connection, ring)
        while (message := connection.recv()) != "exit":
            if isinstance(message, DecodeTask):
                start, sender.blocked_seconds = time.monotonic(), 0.0
                try:
                    end = sender.decode(message, settings.options)
                except MachineError as error:
                    connection.send(error)
                    return
                retiring = _may_have_harmed_gpu(end)
                connection.send(EndMessage(end, time.monotonic() - start, sender.blocked_seconds, retiring))
                if retiring:
                    return
            else:
                sender.note(message)


def _may_have_harmed_gpu(end: VideoEnd) -> bool:
    """Whether a GPU met what it could not decode: its errors stay with a process, and would fail the next video."""
    return end.report.on_gpu and (end.failure is not None or end.report.packet_errors > 0)


class _Sender:
    """The child's end of the pipe: sends frames while it has credit."""

    def __init__(self, connection: Connection, ring: FrameRing) -> None:
        self._connection, self._ring = connection, ring
        self._credit, self._slot, self._cancelled = ring.slots, 0, False
        self.blocked_seconds = 0.0

    def note(self, message: str) -> None:
        self._credit += message == "credit"
        self._cancelled |= message == "cancel"

    def decode(self, task: DecodeTask, options: DecodeOptions) -> VideoEnd:
        self._cancelled = False
        state = DecodeState(tick=lambda: self._connection.send("tick"))
        try:
            for frame in sample_frames(task.video, task.location, options, state, task.span, task.begun):
                self._send(frame)
                if self._cancelled:
                    break
        except MachineError:
            raise
        except VideoError as error:
            return VideoEnd(task.video, state.report(), Failure.of("decode", error))
        except MemoryError:
            failure = Failure("decode", "out_of_memory", "the frame does not fit into memory", "transient")
            return VideoEnd(task.video, state.report(), failure)
        except Exception as error:
            failure = Failure("decode", "decoder_error", f"{type(error).__name__}: {error}")
            return VideoEnd(task.video, state.report(), failure)
        return VideoEnd(task.video, state.report(), note=state.note)

    def _send(self, frame: Frame) -> None:
        start = time.monotonic()
        while self._connection.poll(None if self._credit == 0 else 0):
            self.note(self._connection.recv())
        self.blocked_seconds += time.monotonic() - start
        self._ring.put(self._slot, frame.image)
        slot = (self._slot, frame.size_hw)
        self._connection.send(
            FrameMessage(frame.video, frame.shot, frame.pts_seconds, *slot, frame.report, frame.blank, frame.place)
        )
        self._credit -= 1
        self._slot = (self._slot + 1) % self._ring.slots


# ---- the parent


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection
    ring: FrameRing
    started: bool = False
    """it has said that it works"""
    task: DecodeTask | None = None
    heard: float = 0.0
    """monotonic time of its last sign of life"""
    last: FrameMessage | None = None
    """the latest frame of its video"""
    cancelled: bool = False


class DecodePool:
    """Decodes videos in child processes; use as a context manager, by one thread (but for `stop`)."""

    def __init__(
        self,
        options: DecodeOptions,
        clock: StageClock | None = None,
        begun: Callable[[int, InputRow], PartEnd | None] = lambda *_: None,
    ) -> None:
        """Children are started when they are first needed; `clock` counts their seconds as those of `decode`.

        `begun` is asked for the part of a video that is done already, right before the video is opened.
        """
        self._options, self._clock, self._begun = options, clock or StageClock(), begun
        self._stopped = threading.Event()
        self._children: list[_Child] = []
        self._starved = False

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            self._dismiss(child)
        self._children.clear()

    def frames(self, rows: Iterable[tuple[int, InputRow] | VideoEnd | None]) -> Iterator[Frame | VideoEnd]:
        """Frames of all videos, each video's in order and followed by its `VideoEnd`; videos are interleaved.

        A video that ended before it could be decoded is passed on; after None, `rows` are asked again soon.
        """
        tasks = iter(rows)
        while not self._stopped.is_set():
            yield from self._assign(tasks)
            if not self._starved and not self._busy():
                return
            yield from self._receive()

    def _busy(self) -> list[_Child]:
        return [child for child in self._children if child.task]

    def stop(self) -> None:
        """Nothing more is wanted: `frames` ends soon, as it stands. May be called by any thread."""
        self._stopped.set()

    def cancel(self, video: int) -> None:
        """Enough of `video`: its child stops soon; frames under way still come."""
        for child in self._children:
            if child.task is not None and child.task.video == video and not child.cancelled:
                child.cancelled = True
                with suppress(OSError):  # a dead child is noticed by `_receive`
                    child.connection.send("cancel")

    def _assign(self, tasks: Iterator[tuple[int, InputRow] | VideoEnd | None]) -> Iterator[VideoEnd]:
        """Give idle children work."""
        self._dismiss_dead()
        self._starved = False
        while len(self._busy()) < self._options.decoder_count:
            entry = next(tasks, _OVER)
            if isinstance(entry, VideoEnd):
                yield entry
            elif isinstance(entry, tuple):
                idle = next((child for child in self._children if child.task is None), None)
                task = DecodeTask(entry[0], entry[1].location, entry[1].span, self._begun(*entry))
                self._give(idle or self._start(), task)
            else:
                self._starved = entry is None
                return

    def _give(self, child: _Child, task: DecodeTask) -> None:
        child.task, child.heard, child.last, child.cancelled = task, time.monotonic(), None, False
        with suppress(OSError):  # a dead child is noticed by `_receive`
            child.connection.send(task)

    def _receive(self) -> Iterator[Frame | VideoEnd]:
        busy = {child.connection: child for child in self._busy()}
        ready = wait(list(busy), timeout=_STARVED_POLL_SECONDS if self._starved else _POLL_SECONDS)
        for connection in ready:
            assert isinstance(connection, Connection)
            yield from self._message(busy.pop(connection))
        for child in busy.values():
            silent_seconds = time.monotonic() - child.heard
            # What lies unread in the pipe is a sign of life: while the consumer worked, nobody listened.
            limit_seconds = self._options.decode_timeout_seconds
            if not child.started:  # on a busy machine Python itself may take longer than a video may be silent
                limit_seconds = max(limit_seconds, _START_SECONDS)
            if silent_seconds > limit_seconds and not child.connection.poll():
                limit = f"{limit_seconds:g} s"
                yield self._replace(child, "hung", f"showed no progress for {limit} (--decode-timeout-seconds)")

    def _message(self, child: _Child) -> Iterator[Frame | VideoEnd]:
        try:
            message = child.connection.recv()
        except (EOFError, OSError):
            ended = exit_text(exit_code(child.process))
            if not child.started:
                raise MachineError(f"a decoding process {ended} before it could start; see its words above") from None
            yield self._replace(child, "crashed", ended)
            return
        child.started = True
        if isinstance(message, FrameMessage):
            yield self._frame(child, message)
        elif isinstance(message, MachineError):
            raise message
        elif isinstance(message, EndMessage):
            child.task = None
            if message.retiring:
                self._children.remove(child)
                self._dismiss(child)
            self._clock.add(StageClock({"decode": message.seconds - message.blocked_seconds}))
            self._clock.add(StageClock(blocked_seconds={"decode": message.blocked_seconds}))
            yield message.end
        child.heard = time.monotonic()  # after the yield: the consumer's time is not the child's

    def _frame(self, child: _Child, message: FrameMessage) -> Frame:
        image = child.ring.take(message.slot, message.size_hw)
        child.last = message
        with suppress(OSError):  # a dead child is noticed by `_receive`
            child.connection.send("credit")
        where = (message.video, message.shot, message.pts_seconds)
        return Frame(*where, image, message.report, message.blank, message.place)

    def _start(self) -> _Child:
        size_bytes = slot_bytes(self._options.max_side)
        ring = FrameRing.create(RING_SLOTS, size_bytes)
        process, ours = start_child("f2f.engine.pool", "decode_child")
        child = _Child(process, ours, ring)
        self._children.append(child)
        with suppress(OSError):  # a dead child is noticed by `_receive`
            ours.send(ChildSettings(ring.path, RING_SLOTS, size_bytes, self._options))
        return child

    def _replace(self, child: _Child, reason: str, detail: str) -> VideoEnd:
        """Give up on a child; a new one is started with the next task."""
        assert child.task is not None
        seen = f"last frame at {child.last.pts_seconds:.2f} s" if child.last else "no frame"
        self._children.remove(child)
        self._dismiss(child, kill=True)
        failure = Failure("decode", reason, f"the decoding process {detail}; {seen}")
        return VideoEnd(child.task.video, child.last.report if child.last else DecodeReport(), failure)

    def _dismiss_dead(self) -> None:
        """Children that died while they had nothing to do cost nothing."""
        for child in [child for child in self._children if child.task is None and child.process.poll() is not None]:
            self._children.remove(child)
            self._dismiss(child)

    def _dismiss(self, child: _Child, kill: bool = False) -> None:
        if kill or child.task is not None:
            child.process.kill()
        else:
            with suppress(OSError):
                child.connection.send("exit")
        end_child(child.process)
        child.connection.close()
        child.ring.close()
