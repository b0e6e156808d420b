"""The worker's side of the process boundary: rows and log records go out, exceptions do not."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from infra.logs import LogRecord
from stages.core import config
from stages.core.ledger.executor import Work, Worker, describe
from stages.core.ledger.storage import Storage
from stages.core.step import Row, StepRef

SEND_EVERY_S = 0.2
"""Finished rows wait no longer than this for the next one, so that cheap rows travel together."""

LOGS_KEPT = 1000

Delivery = tuple[list[Row], list[LogRecord]]


class LogCollector(logging.Handler):
    """Keeps records until they are fetched: all of ours from INFO, everyone's from WARNING, at most LOGS_KEPT."""

    def __init__(self, worker: str) -> None:
        super().__init__(logging.INFO)
        self.worker, self.records, self.dropped = worker, list[LogRecord](), 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record as plain data."""
        if record.levelno < logging.WARNING and not f"{record.name}.".startswith("rushes."):
            return
        if len(self.records) >= LOGS_KEPT:
            self.dropped += 1
            return
        text = self.format(record)
        self.records.append(self._plain(record.name, record.levelno, text, record.created))

    def _plain(self, name: str, level: int, message: str, created: float) -> LogRecord:
        return {"name": name, "level": level, "message": message, "created": created, "worker": self.worker}

    def fetch(self) -> list[LogRecord]:
        """What came since the last time."""
        found, self.records = self.records, []
        if self.dropped:
            note = f"{self.dropped} more log records were dropped"
            found.append(self._plain("rushes", logging.WARNING, note, time.time()))
        self.dropped = 0
        return found


class RemoteWorker:
    """What Ray runs: a `Worker` in a process of its own. Nothing loads before `setup`, so that errors can be told."""

    def setup(self, ref: StepRef, storage: Storage, packages: Sequence[str], crash: str) -> Row:
        """Make the worker and load its weights.

        Returns `worker` (host/pid), `seconds`, `logs`, `failed` (why there is no worker: no row can run here) and
        `error` (why the weights did not load: rows run here tell it, as they would in-process).
        """
        started = time.monotonic()
        if crash:
            os.environ["RUSHES_CRASH"] = crash
        config.PACKAGES = tuple(packages)
        answer: Row = {"worker": "", "failed": "", "error": "", "logs": []}
        try:
            self._worker = Worker(ref, storage)
            self._logs = _collect_logs(self._worker.name)
        except Exception as error:
            return {**answer, "failed": describe(error), "seconds": time.monotonic() - started}
        answer["worker"] = self._worker.name
        try:
            self._worker.setup()
        except Exception as error:
            answer["error"] = describe(error)
        return {**answer, "logs": self._logs.fetch(), "seconds": time.monotonic() - started}

    def run(self, batch: Sequence[Work], send_every_s: float) -> Iterator[Delivery]:
        """Ledger rows in the batch's order, some at a time, with the log records that came with them."""
        done: list[Row] = []
        sent = time.monotonic()
        for work in batch:
            done.append(self._worker.run_one(work))
            if time.monotonic() - sent >= send_every_s:
                yield done, self._logs.fetch()
                done, sent = [], time.monotonic()
        if done:
            yield done, self._logs.fetch()


def _collect_logs(worker: str) -> LogCollector:
    """Python's warnings count as log records; what a library prints stays in Ray's own files."""
    collector = LogCollector(worker)
    collector.setFormatter(logging.Formatter("%(message)s"))
    logging.captureWarnings(True)
    root: Any = logging.getLogger()
    root.addHandler(collector)
    logging.getLogger("rushes").setLevel(logging.INFO)
    return collector
