"""The seam between what is done and where: one protocol, and the in-process implementation that is a real one.

Results cross the seam as plain ledger rows. An exception of a step never does: it becomes an error row in the worker.
"""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Protocol

from stages.core.config import load_class
from stages.core.errors import TRANSIENT, UNWRITABLE, BadInput, is_out_of_memory, kind_of
from stages.core.full_disk import as_cannot_write
from stages.core.identity import child_id, row_id
from stages.core.ledger.catalog import LEDGER, ledger_schema, to_table
from stages.core.ledger.storage import Storage
from stages.core.reach.secrets import cleared
from stages.core.running.launch import load_function
from stages.core.running.leaving import GRACE_S, LeavableThread, Left, grace_of
from stages.core.step import InputRow, PermanentError, Rejected, Row, Skipped, Step, StepRef, Workspace

ERROR_LENGTH = 2000
SENTENCES = ("BadMedia", "BadLatent", "Refused", "NotThere", "NotOpened")
"""Errors whose message is a sentence for people."""


@dataclass(frozen=True)
class Work:
    """One row to do: what it is made of, how often it was tried before, and what the step is handed.

    parents, depends as in the ledger (`stages.core.ledger.catalog.LEDGER`); row has the declared columns and ports.
    """

    parents: str
    depends: str
    attempt: int
    row: Row

    def id(self, fingerprint: str) -> str:
        """The id of the row that the step of this fingerprint makes."""
        return row_id(fingerprint, self.parents, self.depends)


class Executor(Protocol):
    """Runs steps somewhere. `map` may be called from several threads at once, for the same step too."""

    def check(self, refs: Sequence[StepRef]) -> None:
        """Raise BadInput where a step asks for more than any node has; nothing has started then."""

    def map(self, ref: StepRef, work: Sequence[Work], stop: threading.Event) -> Iterator[Row]:
        """One ledger row per piece of work, in any order; ends early, without the rest, once `stop` is set.

        What is at work then is given up after some seconds, and no error that comes of the stop is a row; where the
        stop drains (`stages.core.running.leaving.Stop`) it is finished. A row whose `error_kind` is UNWRITABLE is none
        for the ledger: its error is why the run must stop.
        """

    def awaited(self) -> str:
        """What is waited for where `map` or `check` is stopped now, in words; "" for nothing."""

    def fits_together(self, refs: Sequence[StepRef]) -> bool:
        """Whether one worker of each of these steps can be up at the same time; where not, run step after step."""

    def launch(
        self, entry: str, settings: Row, group: Mapping[str, Any], stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Row:
        """Run `module:function` of our packages in a group of workers and return the first one's result.

        The function is called with (settings, stop, say): it ends early once `stop()` is true, and calls `say` with
        lines of progress. group: `workers`, and `cpus` and `gpus` of each; `folder`, which all of them see. Raises
        BadInput where there is no room for all workers at once, and the BadInput that the function raises.
        """

    def release(self, ref: StepRef) -> None:
        """End a step's workers: no more of its rows will come."""

    def close(self) -> None:
        """End all workers."""


def ledger_row(ref: StepRef, work: Work, **columns: Any) -> Row:
    """The ledger columns of one result; what is not given is filled with its empty value at commit."""
    return {
        "id": work.id(ref.fingerprint),
        "parents": work.parents,
        "depends": work.depends,
        "attempt": work.attempt + 1,
        **columns,
    }


def error_row(ref: StepRef, work: Work, message: str, kind: str = TRANSIENT, **columns: Any) -> Row:
    """The row of a failure."""
    return ledger_row(ref, work, status="error", error=cleared(message)[:ERROR_LENGTH], error_kind=kind, **columns)


def describe(error: BaseException) -> str:
    """What a person needs, bounded in length and without secrets: of bad input the sentence alone; else class, message
    and the place."""
    said = cleared(str(error))
    if isinstance(error, BadInput | PermanentError) or type(error).__name__ in SENTENCES:
        return said[:ERROR_LENGTH].encode("utf-8", "replace").decode()
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = f"{type(error).__name__}: {said}"[: ERROR_LENGTH - len(where)] + where
    return text.encode("utf-8", "replace").decode()  # a file's name may hold what is no text


class Worker:
    """One warm instance of a step. The same code runs in-process and inside a Ray actor."""

    def __init__(self, ref: StepRef, storage: Storage, name: str = "") -> None:
        self.ref, self.name = ref, name or f"{socket.gethostname()}/{os.getpid()}"
        cls = load_class(ref.use, ref.name)
        assert issubclass(cls, Step)
        self.step = cls(ref.config, Workspace(storage, threads=max(1, int(ref.resources.cpus))), ref.name)
        self.schema = ledger_schema(cls.writes, cls.fan_out)
        self.setups = 0
        self._failures: list[tuple[Exception, TracebackType | None]] = []

    def setup(self) -> None:
        """Load weights, once. A failure is tried again for the next rows, then remembered and raised at once."""
        if self.setups:
            return
        if len(self._failures) >= max(1, self.ref.resources.attempts):
            error, where = self._failures[-1]
            raise error.with_traceback(where)
        try:
            self.step.setup()
        except Exception as caught:
            self._failures.append((caught, caught.__traceback__))
            raise
        self.setups += 1

    def run(self, batch: Sequence[Work]) -> list[Row]:
        """One ledger row per piece of work, one after the other: bytes must not depend on the batch."""
        return [self.run_one(work) for work in batch]

    def run_one(self, work: Work) -> Row:
        """Process one row; every exception becomes a row. Loading weights is not counted to the first."""
        failed = self._setup_failure()
        started, clock, cpu = datetime.now(UTC), time.perf_counter(), _cpu_seconds()
        outcome = failed or self._outcome(work)
        seconds = time.perf_counter() - clock
        usage = {
            "worker": self.name,
            "setups": self.setups,
            "started": started,
            "ended": datetime.now(UTC),
            "core_seconds": _cpu_seconds() - cpu,
            "gpu_seconds": seconds * self.ref.resources.gpus,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        return ledger_row(self.ref, work, **usage, **outcome)

    def _setup_failure(self) -> Row:
        try:
            self.setup()
        except Exception as error:  # weights that are not there may be there the next time; bad ones stay bad
            return self._error(error, TRANSIENT if isinstance(error, OSError) else kind_of(error))
        return {}

    def _error(self, error: Exception, kind: str) -> Row:
        if found := as_cannot_write(error, self.step.workspace.storage.local_root):
            return {"status": "error", "error": str(found), "error_kind": UNWRITABLE}
        return {"status": "error", "error": describe(error), "error_kind": kind}

    def _outcome(self, work: Work) -> Row:
        try:
            return {"status": "ok", **self._checked(work, self.step.process(InputRow(work.row)))}
        except Rejected as refused:
            status = "skipped" if isinstance(refused, Skipped) else "rejected"
            reasons = [
                {"step": self.ref.name, **{name: cleared(text) for name, text in reason.items()}}
                for reason in refused.reasons
            ]
            return {"status": status, "reasons": reasons, **self._kept(work, refused.columns)}
        except Exception as error:
            return self._error(error, TRANSIENT if is_out_of_memory(error) else kind_of(error))

    def _kept(self, work: Work, columns: Row) -> Row:
        """What a refused row holds all the same."""
        return self._checked(work, columns) if columns else {}

    def _checked(self, work: Work, output: Row) -> Row:
        """Hold a row to what the step declares, here, so that a bad one is an error of its own and not of its part.

        Child rows get their ids; a step may set `id` itself where it has a better one.
        """
        if clash := set(output) & set(LEDGER.names):
            raise BadInput(
                f"step {self.ref.name} may not write the reserved columns {', '.join(sorted(clash))}: rename them"
            )
        if self.step.fan_out:
            parent = work.id(self.ref.fingerprint)
            output = {**output, "rows": [{"id": child_id(parent, i), **r} for i, r in enumerate(output["rows"])]}
        to_table([output], self.schema)
        return output


def _cpu_seconds() -> float:
    """CPU time of this process, its threads, and the children it has waited for (encoders)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class LocalExecutor:
    """Runs everything in this process, one row at a time, weights kept warm. The fake that is real."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()
        self._thread = LeavableThread("rows")
        self._at_work = ""

    def check(self, refs: Sequence[StepRef]) -> None:
        """In-process there is one of everything, so nothing is refused."""

    def map(self, ref: StepRef, work: Sequence[Work], stop: threading.Event) -> Iterator[Row]:
        """One row at a time, in order; the lock keeps one model at work, as on a laptop it should be."""
        for item in work:
            with self._lock:
                if stop.is_set():
                    return
                self._at_work = ref.name
                try:
                    result = self._thread.call(partial(self._run_one, ref, item), stop, lambda: grace_of(stop))
                except Left:
                    return
                finally:
                    self._at_work = ""
            if result["status"] == "error" and stop.is_set() and grace_of(stop) is not None:
                return  # a Ctrl-C reaches the processes that a row has started, too
            yield result

    def awaited(self) -> str:
        """The row at work."""
        return f"a row of {self._at_work} (at most {GRACE_S:.0f} s)" if self._at_work else ""

    def _run_one(self, ref: StepRef, work: Work) -> Row:
        return self._worker(ref).run_one(work)

    def _worker(self, ref: StepRef) -> Worker:
        if ref.fingerprint not in self._workers:
            self._workers[ref.fingerprint] = Worker(ref, self.storage)
        return self._workers[ref.fingerprint]

    def fits_together(self, refs: Sequence[StepRef]) -> bool:
        """Always: all steps share this process."""
        return True

    def launch(
        self, entry: str, settings: Row, group: Mapping[str, Any], stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Row:
        """Run the function in this process, as a group of one. Raises BadInput for a larger group."""
        if group["workers"] != 1:
            raise BadInput(f"{group['workers']} workers need Ray: set infra.executor=ray, or workers=1")
        return load_function(entry)(settings, stop, say)

    def release(self, ref: StepRef) -> None:
        """Drop the warm instance."""
        with self._lock:
            self._workers.pop(ref.fingerprint, None)

    def close(self) -> None:
        """Drop every warm instance."""
        with self._lock:
            self._workers.clear()
        self._thread.close()
