"""Prefetch: what lets stages work at the same time, each in a thread of its own, a few items ahead of the next.

Stages are generators that know nothing of this. Networks, kernels, OpenCV and encoders release the interpreter's lock,
so threads are enough. A stage that is ahead waits: queues hold a few items, whatever the length of a crawl.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from f2f.engine.stage import StageClock

T = TypeVar("T")
AHEAD = 2
"""items that a stage may be ahead of the next; windows with their maps and flow are some ten MB each"""


class Lanes:
    """Threads that work ahead; use as a context manager: none is left behind when the block ends, whatever ends it."""

    def __init__(self, clock: StageClock, stop: Callable[[], None] = lambda: None, ahead: int = AHEAD) -> None:
        """`clock` counts waits; `stop` is called when nothing more is wanted, for whoever waits inside the items."""
        self._clock, self._stop, self._ahead = clock, stop, ahead
        self._running: list[tuple[_Channel[Any], threading.Thread]] = []

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        for channel, _thread in self._running:
            channel.close()
        self._stop()
        for _channel, thread in self._running:
            thread.join()

    def prefetch(self, items: Iterator[T], makes: str, takes: str) -> Iterator[T]:
        """The same items in the same order, made by a thread of its own from when the first is asked for.

        Whatever the thread raises is raised here, after the items before it.

        Args:
            items: what the thread runs through.
            makes: name of the last stage in `items`, whose wait for room is counted.
            takes: name of the stage that consumes this, whose wait for items is counted.
        """
        channel = _Channel[T](self._ahead)
        arguments = (items, channel, makes, self._clock)
        thread = threading.Thread(target=_fill, args=arguments, name=f"f2f-{makes}", daemon=True)
        self._running.append((channel, thread))
        thread.start()
        while True:
            with self._clock.starved(takes):
                is_there, item = channel.get()
            if not is_there:
                return
            yield item


def _fill(items: Iterator[T], channel: _Channel[T], makes: str, clock: StageClock) -> None:
    try:
        for item in items:
            with clock.blocked(makes):
                if not channel.put(item):
                    return
    except BaseException as error:
        channel.end(error)
    else:
        channel.end()


class _Channel(Generic[T]):
    """A queue of bounded length between two threads."""

    def __init__(self, most: int) -> None:
        self._items: deque[T] = deque()
        self._most = most
        self._changed = threading.Condition()
        self._is_closed = self._is_over = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Wait for room and add an item; False where nobody wants it."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._items) < self._most)
            if not self._is_closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._is_closed

    def get(self) -> tuple[bool, T]:
        """Wait for (True, the next item), or (False, …) behind the last; raises what ended the other side."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._is_over or self._is_closed)
            if self._items:
                self._changed.notify_all()
                return True, self._items.popleft()
            if self._error is not None:
                raise self._error
            return False, None  # type: ignore[return-value]

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes."""
        with self._changed:
            self._is_over, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is wanted."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify_all()
