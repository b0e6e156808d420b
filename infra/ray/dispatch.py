"""One call of `map`: hands its rows to workers of the step's pool and returns the results as they come."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError

from infra.logs import LogRecord, OnLog
from infra.ray.actor import SEND_EVERY_S
from infra.ray.batches import Backlog, Batch, Cause, FailedRow, WorkerLoss, plan_retries
from infra.ray.pool import WorkerActor, WorkerPool, WorkerPools
from stages.core.running.executor import Work, error_row
from stages.core.running.leaving import grace_of
from stages.core.step import Row

POLL_S = 0.1
QUICK_ROW_S = 1.0
"""Where rows take less than this, a worker has its next batch queued while it does one, so that it never waits for the
driver. Where they take longer, a queued batch would only keep other workers from it."""

DETAIL_LENGTH = 400

log = logging.getLogger("rushes.ray")


@dataclass(eq=False)
class InFlight:
    """One batch at a worker: the rows whose results have not come, and the stream on which they come."""

    unfinished: Batch
    stream: Any


@dataclass(eq=False)
class Lease:
    """A worker that this call holds. It does the first batch; a second one may be queued behind it.

    progress_at: when a result last came, or the running batch was sent (time.monotonic): a row's time limit counts
    from here.
    """

    worker: WorkerActor
    batches: deque[InFlight] = field(default_factory=deque)
    progress_at: float = 0.0

    @property
    def awaited(self) -> Any:
        """The Ray reference that is ready next: the set-up's, the running batch's, or None."""
        return self.worker.setup_ref or (self.batches[0].stream if self.batches else None)


class Dispatcher:
    """The loop of one call of `map`. It runs in the caller's thread, between the rows that the caller takes."""

    def __init__(
        self,
        pools: WorkerPools,
        pool: WorkerPool,
        work: Sequence[Work],
        stop: threading.Event,
        ready_s: float,
        on_log: OnLog,
    ) -> None:
        self.pools, self.pool, self.stop, self.ready_s, self.on_log = pools, pool, stop, ready_s, on_log
        self.ref, self.resources = pool.ref, pool.ref.resources
        self.backlog = Backlog(work, self.resources.batch_rows, self.resources.workers)
        self.leases: list[Lease] = []
        self.row_seconds = QUICK_ROW_S

    def rows(self) -> Iterator[Row]:
        """One ledger row per piece of work. Once `stop` is set it ends without the rest, and its busy workers end;
        where the stop drains, after the batches that they have."""
        with self.pools.changed:
            self.pool.active_calls += 1
        try:
            while self._goes_on():
                if not self.stop.is_set():
                    self._scale_up()
                    self._dispatch()
                self._release_idle()
                yield from self._collect()
        finally:
            self._finish()

    def _goes_on(self) -> bool:
        busy = any(lease.batches for lease in self.leases)
        if self.stop.is_set():
            return busy and grace_of(self.stop) is None
        return busy or bool(self.backlog)

    # -- handing out -------------------------------------------------------------------------------------------------

    def _scale_up(self) -> None:
        """Lease one more worker where all ready ones are busy and more rows are left than starting ones will take."""
        starting = sum(1 for lease in self.leases if lease.worker.setup_ref)
        unoccupied = any(not lease.batches for lease in self.leases if not lease.worker.setup_ref)
        if unoccupied or len(self.backlog) <= starting:
            return
        if worker := self.pools.lease(self.pool):
            self.leases.append(Lease(worker))

    def _dispatch(self) -> None:
        """One batch for every worker that has none; then a second one where rows are quick."""
        for depth in (1, 2) if self.row_seconds < QUICK_ROW_S else (1,):
            for lease in self.leases:
                if self.backlog and not lease.worker.setup_ref and len(lease.batches) < depth:
                    self._send_batch(lease)

    def _send_batch(self, lease: Lease) -> None:
        batch = self.backlog.next_batch()
        every = 0.0 if self.resources.time_limit_s else SEND_EVERY_S  # a limit is for one row: each must be seen
        stream = lease.worker.actor.run.options(num_returns="streaming").remote(batch, every)
        if not lease.batches:
            lease.progress_at = time.monotonic()
        lease.batches.append(InFlight(batch, stream))

    def _release_idle(self) -> None:
        """Once nothing is left to hand out, return workers without a batch, so that other calls can lease them."""
        for lease in [] if self.backlog else [lease for lease in self.leases if not lease.batches]:
            self.leases.remove(lease)
            self.pools.give_back(self.pool, lease.worker)

    # -- taking in ---------------------------------------------------------------------------------------------------

    def _collect(self) -> Iterator[Row]:
        """The rows that have come from any worker, none after POLL_S; then those of workers past a time limit."""
        awaited = [lease.awaited for lease in self.leases if lease.awaited]
        if not awaited:
            self.pools.wait(POLL_S)
            return
        ready, _ = ray.wait(awaited, num_returns=1, timeout=POLL_S)
        for lease in [lease for lease in self.leases if any(lease.awaited is ref for ref in ready)]:
            yield from self._finish_setup(lease) if lease.worker.setup_ref else self._receive(lease)
        for lease in list(self.leases):
            yield from self._check_time_limits(lease)

    def _receive(self, lease: Lease) -> Iterator[Row]:
        """The next rows of the running batch, or its end, or the end of its worker."""
        batch, rows, loss = lease.batches[0], list[Row](), None
        try:
            rows, records = ray.get(next(batch.stream))
            self._log(records)
        except StopIteration:
            loss = WorkerLoss(Cause.LOST, "it ended a batch early") if batch.unfinished else None
            lease.batches.popleft()
        except Exception as error:  # Ray's own errors; a step's exceptions have become rows in the worker
            loss = _loss(error)
        self.row_seconds = (time.monotonic() - lease.progress_at) / len(rows) if rows else self.row_seconds
        lease.progress_at, batch.unfinished = time.monotonic(), batch.unfinished[len(rows) :]
        yield from rows
        if loss:
            yield from self._handle_loss(lease, loss, batch)

    def _log(self, records: Sequence[LogRecord]) -> None:
        for record in records:
            self.on_log(self.ref.name, record)

    def _finish_setup(self, lease: Lease) -> Iterator[Row]:
        """Read the result of a set-up. Where the weights did not load, each row says so, as it would in-process."""
        try:
            result = ray.get(lease.worker.setup_ref)
        except Exception as error:
            result = {"failed": _loss(error)}
        if result["failed"]:
            yield from self._setup_failed(lease, result["failed"])
            return
        self._log(result["logs"])
        self.pools.mark_ready(self.pool, lease.worker, result)
        log.info("%s: set up in %.1f s on %s", self.ref.name, result["seconds"], result["worker"])

    # -- losing workers ----------------------------------------------------------------------------------------------

    def _check_time_limits(self, lease: Lease) -> Iterator[Row]:
        """End a worker that is not ready in time, or whose row takes too long."""
        now, limit = time.monotonic(), self.resources.time_limit_s
        if lease.worker.setup_ref:
            if now - lease.worker.started_at > self.ready_s:
                detail = f"not ready after {self.ready_s:g} s (it asks for {self.pool.need})"
                yield from self._setup_failed(lease, WorkerLoss(Cause.TIME, detail))
        elif lease.batches and limit and now - lease.progress_at > limit:
            stream = lease.batches[0].stream
            # The caller may have been busy with other rows while a result came: only silence is past the limit.
            if not ray.wait([stream], timeout=0)[0]:
                loss = WorkerLoss(Cause.TIME, f"a row took longer than {limit:g} s")
                yield from self._handle_loss(lease, loss, lease.batches.popleft())

    def _handle_loss(self, lease: Lease, loss: WorkerLoss, running: InFlight) -> Iterator[Row]:
        """End a worker. Its running batch goes by `plan_retries`; one queued behind it is requeued with its tries as
        they were, because no row of it had begun."""
        log.warning("%s: %s (%s)", self.ref.name, loss, lease.worker.name)
        self._discard(lease)
        queued = [batch.unfinished for batch in lease.batches if batch is not running]
        retries, failed = (
            plan_retries(running.unfinished, loss, self.resources.attempts) if running.unfinished else ([], [])
        )
        self.backlog.requeue([*retries, *queued])
        yield from (self._failure_row(row, lease) for row in failed)

    def _failure_row(self, row: FailedRow, lease: Lease) -> Row:
        ended = datetime.now(UTC)
        started = ended - timedelta(seconds=time.monotonic() - lease.progress_at)
        return error_row(self.ref, row.work, str(row.loss), worker=lease.worker.name, started=started, ended=ended)

    def _setup_failed(self, lease: Lease, why: object) -> Iterator[Row]:
        """End a worker that did not come up; the next one may. Where none does, every row that is left says why."""
        log.warning("%s: set-up failed: %s", self.ref.name, why)
        self._discard(lease)
        if self.pool.failed_setups < max(1, self.resources.attempts) or self.leases:
            return
        for work in self.backlog.drain():
            yield error_row(self.ref, work, f"no worker could be set up: {why}")

    def _discard(self, lease: Lease) -> None:
        self.leases.remove(lease)
        self.pools.discard(self.pool, lease.worker, lost=True)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Return idle workers to the pool. A worker in the middle of a row ends: the run stops, or nobody reads on."""
        for lease in self.leases:
            if lease.batches or (lease.worker.setup_ref and self.stop.is_set()):
                self.pools.discard(self.pool, lease.worker)
            else:
                self.pools.give_back(self.pool, lease.worker)
        self.leases.clear()
        with self.pools.changed:
            self.pool.active_calls -= 1
            self.pools.changed.notify_all()


def _loss(error: Exception) -> WorkerLoss:
    """A Ray error as the end of a worker: its memory monitor told apart from every other cause.

    Ray's own text is long: only the line that names the reason is kept.
    """
    if isinstance(error, RayTaskError) and error.cause is not None:
        return WorkerLoss(Cause.LOST, f"{type(error.cause).__name__}: {error.cause}"[:DETAIL_LENGTH])
    cause = Cause.MEMORY if isinstance(error, OutOfMemoryError) else Cause.LOST
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if "exit detail" in line or "Memory on the node" in line]
    return WorkerLoss(cause, f"{type(error).__name__}: {(reasons or lines or [''])[0]}"[:DETAIL_LENGTH])
