"""What is told to the Prefect server, in such a way that a server that goes away costs a run seconds and one line.

Prefect's client tries each call again for a minute, and its queues of logs and events do so once more when the process
ends. Here the first call that fails makes the server count as gone: from then on nothing waits for it, until it answers
again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from prefect.events.clients import NullEventsClient, PrefectEventsClient
from prefect.events.worker import EventsWorker, emit_events_to_cloud
from prefect.logging.handlers import APILogWorker, set_api_log_sink
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from flows.prefect.server import unreachable

log = logging.getLogger("rushes")

RETRIES, REQUEST_SECONDS = 1, 30.0
"""Of one call to the server: how often it is tried again, after two seconds, and how long an answer may take."""
LOOK_SECONDS, LOOK_WAIT = 10.0, 1.0
"""How often a server that is gone is looked for, and how long it has to answer."""

T = TypeVar("T")


class Contact:
    """Whether the server answers. One for the process, because Prefect's queues are; safe to use from any thread."""

    def __init__(self) -> None:
        self.say: Callable[[str], None] = log.warning
        self.lost = False
        self._lock, self._looked_at = threading.Lock(), 0.0

    def lose(self, error: BaseException) -> None:
        """A call has failed. The first to do so is told."""
        with self._lock:
            known, self.lost, self._looked_at = self.lost, True, time.monotonic()
        if not known:
            EventsWorker.set_client_override(NullEventsClient)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.say(
                f"the Prefect server {PREFECT_API_URL.value()} does not answer any more ({reason}); the run goes on, "
                "and its page there may miss the rest"
            )

    def regain(self) -> None:
        """The server answers."""
        self.lost = False
        _send_events()

    def due(self) -> bool:
        """Whether something may be sent: the server answers, or it is time to look for it again."""
        with self._lock:
            if not self.lost:
                return True
            if time.monotonic() - self._looked_at < LOOK_SECONDS:
                return False
            self._looked_at = time.monotonic()
            return True

    def is_back(self) -> bool:
        """Whether the server answers. One that is gone is asked at most every LOOK_SECONDS."""
        if self.lost and self.due() and not unreachable(PREFECT_API_URL.value() or "", LOOK_WAIT):
            self.regain()
        return not self.lost

    def send(self, call: Callable[..., T], *args: Any, **options: Any) -> T | None:
        """What a call to the server gives; None where it fails, or where the server is gone. Never raises."""
        if not self.is_back():
            return None
        try:
            return call(*args, **options)
        except Exception as error:  # the server's trouble must not become the run's
            if unreachable(PREFECT_API_URL.value() or "", LOOK_WAIT):
                self.lose(error)
            else:
                log.warning("the Prefect server refused what it was sent: %s", error)
            return None


contact = Contact()


class CalmLogs(APILogWorker):
    """Sends log records; those that come while the server is gone are left out."""

    async def _handle_batch(self, items: list[dict[str, Any]]) -> None:
        if contact.lost:
            return
        try:
            await self._client.create_logs(items)
        except Exception as error:
            contact.lose(error)


@contextmanager
def reporting(say: Callable[[str], None] = log.warning, url: str = "") -> Iterator[Contact]:
    """While this lasts, calls to the server (at `url`, else the one of the settings) are not tried again for long.

    say: is given the sentence that tells that the server is gone. The queues stay as they are set up here until the
    process ends, because they are emptied then.
    """
    contact.say, contact.lost = say, False
    settings: dict[Any, Any] = {PREFECT_CLIENT_MAX_RETRIES: RETRIES, PREFECT_API_REQUEST_TIMEOUT: REQUEST_SECONDS}
    with temporary_settings({**settings, **({PREFECT_API_URL: url} if url else {})}):
        set_api_log_sink(lambda record: CalmLogs.instance().send(record))
        _send_events()
        for name in ("prefect._internal.concurrency", "prefect.events.clients"):
            logging.getLogger(name).addFilter(_watch_events)  # once, however often it is added
        yield contact


def _send_events() -> None:
    """Let what tasks do be sent by a client that gives up at once: one more try, on a new connection."""
    if not emit_events_to_cloud():
        EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=1)


def _watch_events(record: logging.LogRecord) -> bool:
    """A filter of what Prefect's own queues log: it says nothing of a server that is gone, and learns from it that one
    is."""
    if record.name == "prefect.events.clients" and str(record.msg).startswith("Unable to connect"):
        contact.lose(ConnectionError(str(tuple(record.args or ("",))[-1])))
    return not contact.lost
