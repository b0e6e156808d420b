"""Work that a run can leave when it is stopped: it is done on a thread of its own, so that nobody must await its end.

What is left goes on until the process ends. That harms no store: files and rows appear whole or not at all, and a row
that was not committed is done again by the next run.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

GRACE_S = 5.0
"""How long a stop waits for what is at work."""
POLL_S = 0.1

T = TypeVar("T")
Calls = queue.SimpleQueue[Callable[[], None] | None]
_left = list[threading.Thread]()


class Left(Exception):
    """Raised for work that was left."""


def left_at_work() -> bool:
    """Whether something that was left is still at work in this process: it must not wait for it at its end."""
    return any(thread.is_alive() for thread in _left)


class Stop(threading.Event):
    """A request to stop. Once it is set nothing new begins, and what is at work may be left; where it was `drain` that
    set it, rows at work are finished first."""

    def __init__(self) -> None:
        super().__init__()
        self._drains = False

    def drain(self) -> None:
        """Ask for an end that finishes what is at work. It takes nothing from a `set` that came before."""
        self._drains = self._drains or not self.is_set()
        super().set()

    def set(self) -> None:
        """Ask for an end within seconds, also of what is being finished."""
        self._drains = False
        super().set()

    @property
    def drains(self) -> bool:
        """Whether what is at work is to be finished."""
        return self._drains


def grace_of(stop: threading.Event) -> float | None:
    """How many seconds a stop waits for what is at work; None for as long as it takes."""
    return None if isinstance(stop, Stop) and stop.drains else GRACE_S


class LeavableThread:
    """Calls on one thread, one after the other: libraries keep pools and handles for each thread that uses them.

    The thread starts with a call and is a daemon: the interpreter does not wait for it. It ends with `close`, or when
    nobody holds this object any more.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._calls: Calls | None = None
        self._thread: threading.Thread | None = None

    def call(self, work: Callable[[], T], stop: threading.Event, grace_s: Callable[[], float | None]) -> T:
        """What `work` returns, or raises; it sees the caller's context variables. Not for several callers at once.

        Raises Left where `stop` is set and the work has not ended `grace_s()` seconds later (None: it is waited for).
        """
        future, context = Future[Any](), contextvars.copy_context()
        self._open().put(lambda: _settle(future, lambda: context.run(work)))
        stopped_at: float | None = None
        while True:
            try:
                found: T = future.result(POLL_S)
                return found
            except TimeoutError:
                if future.done():  # then it is the work's own
                    raise
            if stop.is_set() and (grace := grace_s()) is not None:
                stopped_at = time.monotonic() if stopped_at is None else stopped_at
                if time.monotonic() - stopped_at >= grace:
                    self._leave()
                    raise Left()

    def _open(self) -> Calls:
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            weakref.finalize(self, self._calls.put, None)
            self._thread = threading.Thread(target=_serve, args=(self._calls,), name=self.name, daemon=True)
            self._thread.start()
        return self._calls

    def _leave(self) -> None:
        if self._thread:
            _left.append(self._thread)
        self.close()

    def close(self) -> None:
        """End the thread after what it does; another call starts another one."""
        if self._calls:
            self._calls.put(None)
        self._calls = self._thread = None


def _serve(calls: Calls) -> None:
    while (call := calls.get()) is not None:
        call()


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
