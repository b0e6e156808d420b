"""The worker's side of the process boundary: rows and log records go out, exceptions do not."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.logs import LogRecord
from stages.core import config
from stages.core.ledger.storage import Storage
from stages.core.reach.policy import Reach, in_force, put_in_force
from stages.core.reach.secrets import guard_output, known, remember
from stages.core.running.executor import Work, Worker, describe
from stages.core.step import Row, StepRef

SEND_EVERY_S = 0.2
"""Finished rows wait no longer than this for the next one, so that cheap rows travel together."""

MAX_LOG_RECORDS = 1000

RowsAndLogs = tuple[list[Row], list[LogRecord]]


class LogCollector(logging.Handler):
    """Keeps records until they are drained: all of ours from INFO, everyone's from WARNING, at most MAX_LOG_RECORDS."""

    def __init__(self, worker: str) -> None:
        super().__init__(logging.INFO)
        self.worker, self.records, self.dropped = worker, list[LogRecord](), 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record as plain data."""
        if record.levelno < logging.WARNING and not f"{record.name}.".startswith("rushes."):
            return
        if len(self.records) >= MAX_LOG_RECORDS:
            self.dropped += 1
            return
        text = self.format(record)
        self.records.append(self._plain(record.name, record.levelno, text, record.created))

    def _plain(self, name: str, level: int, message: str, created: float) -> LogRecord:
        return {"name": name, "level": level, "message": message, "created": created, "worker": self.worker}

    def drain(self) -> list[LogRecord]:
        """Remove and return the records since the last call; a last one counts those that were dropped."""
        records, self.records = self.records, []
        if self.dropped:
            note = f"{self.dropped} more log records were dropped"
            records.append(self._plain("rushes", logging.WARNING, note, time.time()))
        self.dropped = 0
        return records


@dataclass(frozen=True)
class Surroundings:
    """What a worker takes over from the driver: packages of steps, what may be opened, what must not be said, and more
    environment variables. Handed over in a call, so that none of it stands in a list of processes or in Ray's logs."""

    packages: Sequence[str]
    reach: Reach
    secrets: Sequence[str] = field(repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def here(cls, env: Mapping[str, str]) -> Surroundings:
        """Those of this process, with these variables."""
        return cls(config.PACKAGES, in_force(), known(), dict(env))

    def take_over(self) -> None:
        """Make them this process's own."""
        os.environ.update(self.env)
        config.PACKAGES = tuple(self.packages)
        put_in_force(self.reach)
        remember(self.secrets)
        guard_output()


class RemoteWorker:
    """The class of the Ray actors: a `Worker` in a process of its own. Nothing loads before `setup`."""

    def setup(self, ref: StepRef, storage: Storage, surroundings: Surroundings, crash: str) -> Row:
        """Make the worker and load its weights.

        Returns `worker` (host/pid), `seconds`, `logs`, `failed` (why there is no worker: no row can run here) and
        `error` (why the weights did not load: rows that run here become error rows with it, as they would in-process).
        """
        started = time.monotonic()
        if crash:
            os.environ["RUSHES_CRASH"] = crash
        surroundings.take_over()
        result: Row = {"worker": "", "failed": "", "error": "", "logs": []}
        try:
            self._worker = Worker(ref, storage)
            self._logs = _collect_logs(self._worker.name)
        except Exception as error:
            return {**result, "failed": describe(error), "seconds": time.monotonic() - started}
        result["worker"] = self._worker.name
        try:
            self._worker.setup()
        except Exception as error:
            result["error"] = describe(error)
        return {**result, "logs": self._logs.drain(), "seconds": time.monotonic() - started}

    def run(self, batch: Sequence[Work], send_every_s: float) -> Iterator[RowsAndLogs]:
        """Ledger rows in the batch's order, some at a time, with the log records since the last ones.

        send_every_s: 0 sends every row by itself.
        """
        done: list[Row] = []
        sent = time.monotonic()
        for work in batch:
            done.append(self._worker.run_one(work))
            if time.monotonic() - sent >= send_every_s:
                yield done, self._logs.drain()
                done, sent = [], time.monotonic()
        if done:
            yield done, self._logs.drain()


def _collect_logs(worker: str) -> LogCollector:
    """Collect all logging of this process. Python's warnings count; what a library prints stays in Ray's own files."""
    collector = LogCollector(worker)
    collector.setFormatter(logging.Formatter("%(message)s"))
    logging.captureWarnings(True)
    root: Any = logging.getLogger()
    root.addHandler(collector)
    logging.getLogger("rushes").setLevel(logging.INFO)
    return collector
