"""Ctrl-C and SIGTERM. The first asks to stop and says what is waited for; a second one ends the process at once.

Python's own handlers run in the main thread, between two of its instructions: while a library is at work there, none
runs. So signals are read by a thread here, which always can.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from stages.core.running.leaving import GRACE_S, left_at_work

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Raised in the main thread where a signal comes while nothing runs that could be asked to stop."""

    def __init__(self, number: int) -> None:
        self.exit_status = 128 + number
        super().__init__(signal.Signals(number).name)


class StopOnSignal:
    """Within it, SIGINT and SIGTERM call `ask`, which returns the sentence to say; a second signal ends the process.

    Without `ask` the first signal raises Interrupted in the main thread, and the process ends after GRACE_S in any
    case. A library that was at work there may raise an error of its own in its place ("Query interrupted"): what leaves
    this is Interrupted all the same.

    May be nested; a signal that the inner one has heard counts for the outer one, too. Only the main thread may listen:
    elsewhere this does nothing, and whoever owns the signals stops the work.
    """

    _active: StopOnSignal | None = None

    def __init__(self, ask: Callable[[int], str] | None = None) -> None:
        self._ask = ask
        self._interrupted: Interrupted | None = None
        self.heard = 0

    def __enter__(self) -> StopOnSignal:
        self._listens = threading.current_thread() is threading.main_thread()
        if not self._listens:
            return self
        self._outer, StopOnSignal._active = StopOnSignal._active, self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        self._handlers = {number: signal.signal(number, self._in_main_thread) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._listens:
            return
        self._stop_listening()
        if error is not None and self._interrupted not in (None, error):
            raise self._interrupted from error

    def _stop_listening(self) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)
        StopOnSignal._active = self._outer
        if self._outer:
            self._outer.heard += self.heard

    def _in_main_thread(self, number: int, frame: FrameType | None) -> None:
        if self._ask is None:
            self._interrupted = Interrupted(number)
            raise self._interrupted

    def _listen(self) -> None:
        """Read the numbers of signals until a 0 comes."""
        number, limit = 0, None
        while True:
            if not select.select([self._read], [], [], limit)[0]:
                leave(128 + number)
            got = os.read(self._read, 1)[0]
            if not got:
                return
            if got not in SIGNALS:
                continue
            number, self.heard = got, self.heard + 1
            if self.heard > 1:
                leave(128 + number)
            sentence = self._ask(number) if self._ask else f"stopping; {again(number)}"
            with contextlib.suppress(OSError, ValueError):  # whoever has read it may be gone
                print(f"rushes: {sentence}", file=sys.stderr, flush=True)
            limit = GRACE_S if self._ask is None else None


def again(number: int) -> str:
    """What a second signal does."""
    return f"{'press Ctrl-C again' if number == signal.SIGINT else 'send SIGTERM again'} to end at once"


def leave(status: int) -> NoReturn:
    """End this process without waiting for its threads, and all that it has started. The store is sound at every
    moment."""
    import psutil

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stream.isatty():
                os.write(stream.fileno(), b"\x1b[?25h")  # a progress bar hides the cursor
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(status)


def end_with(status: int) -> None:
    """Where something that was left is still at work when this process ends, end it with this status all the same."""
    atexit.register(_leave_what_was_left, status)


def _leave_what_was_left(status: int) -> None:
    if left_at_work():
        sys.stdout.flush()
        sys.stderr.flush()
        leave(status)
