"""One call of `map`: hands a list of work to the pool's workers and gives the rows back as they come."""

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
from infra.ray.batches import Backlog, Batch, Cause, Failed, Loss, after_loss
from infra.ray.pool import Member, Pool, Staff
from stages.core.ledger.executor import Work, error_row
from stages.core.step import Row

POLL_S = 0.1
QUICK_ROW_S = 1.0
"""Where rows take less than this, a worker has its next batch waiting while it does one."""

DETAIL = 400

log = logging.getLogger("rushes.ray")


@dataclass(eq=False)
class Errand:
    """One batch at a worker: the rows that have not come back, and the stream that they come on."""

    left: Batch
    stream: Any


@dataclass(eq=False)
class Hand:
    """A worker lent to this call. The first errand is under way, a second one may wait behind it."""

    member: Member
    errands: deque[Errand] = field(default_factory=deque)
    since: float = 0.0

    @property
    def waited_for(self) -> Any:
        """What Ray tells about next: the set-up, the running errand, or nothing."""
        return self.member.starting or (self.errands[0].stream if self.errands else None)


class Call:
    """The loop of one call. It runs in the caller's thread, between the rows that the caller takes."""

    def __init__(
        self, staff: Staff, pool: Pool, work: Sequence[Work], stop: threading.Event, ready_s: float, on_log: OnLog
    ) -> None:
        self.staff, self.pool, self.stop, self.ready_s, self.on_log = staff, pool, stop, ready_s, on_log
        self.ref, self.resources = pool.ref, pool.ref.resources
        self.backlog = Backlog(work, self.resources.batch_rows, self.resources.workers)
        self.hands: list[Hand] = []
        self.row_seconds = QUICK_ROW_S

    def rows(self) -> Iterator[Row]:
        """One ledger row per piece of work; ends without the rest, and its workers with it, once `stop` is set."""
        with self.staff.changed:
            self.pool.calls += 1
        try:
            while (self.backlog or any(hand.errands for hand in self.hands)) and not self.stop.is_set():
                self._hire()
                self._feed()
                self._spare()
                yield from self._collect()
        finally:
            self._part()

    # -- handing out -------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        """Ask for one more worker where all that are here have work, and more is left than those starting will take."""
        starting = sum(1 for hand in self.hands if hand.member.starting)
        free = any(not hand.errands for hand in self.hands if not hand.member.starting)
        if free or len(self.backlog) <= starting:
            return
        if member := self.staff.take(self.pool):
            self.hands.append(Hand(member))

    def _feed(self) -> None:
        """One batch for everyone who has none; a second one where rows are quick."""
        for depth in (1, 2) if self.row_seconds < QUICK_ROW_S else (1,):
            for hand in self.hands:
                if self.backlog and not hand.member.starting and len(hand.errands) < depth:
                    self._send(hand)

    def _send(self, hand: Hand) -> None:
        batch = self.backlog.next()
        every = 0.0 if self.resources.time_limit_s else SEND_EVERY_S
        stream = hand.member.actor.run.options(num_returns="streaming").remote(batch, every)
        if not hand.errands:
            hand.since = time.monotonic()
        hand.errands.append(Errand(batch, stream))

    def _spare(self) -> None:
        """Nothing is left to hand out: who has no errand is free for another call."""
        for hand in [] if self.backlog else [hand for hand in self.hands if not hand.errands]:
            self.hands.remove(hand)
            self.staff.give_back(self.pool, hand.member)

    # -- taking in ---------------------------------------------------------------------------------------------------

    def _collect(self) -> Iterator[Row]:
        """What has come from any worker, or nothing after a short wait; then whoever is overdue."""
        waited = [hand.waited_for for hand in self.hands if hand.waited_for]
        if not waited:
            self.staff.wait(POLL_S)
            return
        ready, _ = ray.wait(waited, num_returns=1, timeout=POLL_S)
        for hand in [hand for hand in self.hands if any(hand.waited_for is ref for ref in ready)]:
            yield from self._set_up(hand) if hand.member.starting else self._deliver(hand)
        for hand in list(self.hands):
            yield from self._overdue(hand)

    def _deliver(self, hand: Hand) -> Iterator[Row]:
        """The next rows of the running errand, or its end, or the end of its worker."""
        errand, rows, loss = hand.errands[0], list[Row](), None
        try:
            rows, records = ray.get(next(errand.stream))
            self._tell(records)
        except StopIteration:
            loss = Loss(Cause.LOST, "it ended a batch early") if errand.left else None
            hand.errands.popleft()
        except Exception as error:  # Ray's own errors; a step's exceptions have become rows in the worker
            loss = _loss(error)
        self.row_seconds = (time.monotonic() - hand.since) / len(rows) if rows else self.row_seconds
        hand.since, errand.left = time.monotonic(), errand.left[len(rows) :]
        yield from rows
        if loss:
            yield from self._lose(hand, loss, errand)

    def _tell(self, records: Sequence[LogRecord]) -> None:
        for record in records:
            self.on_log(self.ref.name, record)

    def _set_up(self, hand: Hand) -> Iterator[Row]:
        """The answer of a set-up. Weights that did not load are told by the rows, as they would be in-process."""
        try:
            answer = ray.get(hand.member.starting)
        except Exception as error:
            answer = {"failed": _loss(error)}
        if answer["failed"]:
            yield from self._no_start(hand, answer["failed"])
            return
        self._tell(answer["logs"])
        self.staff.arrived(self.pool, hand.member, answer)
        log.info("%s: set up in %.1f s on %s", self.ref.name, answer["seconds"], answer["worker"])

    # -- losing workers ----------------------------------------------------------------------------------------------

    def _overdue(self, hand: Hand) -> Iterator[Row]:
        now, limit = time.monotonic(), self.resources.time_limit_s
        if hand.member.starting:
            if now - hand.member.began > self.ready_s:
                detail = f"not ready after {self.ready_s:g} s (it asks for {self.pool.need})"
                yield from self._no_start(hand, Loss(Cause.TIME, detail))
        elif hand.errands and limit and now - hand.since > limit:
            stream = hand.errands[0].stream
            if not ray.wait([stream], timeout=0)[0]:  # nothing has come while the caller was busy with other rows
                loss = Loss(Cause.TIME, f"a row took longer than {limit:g} s")
                yield from self._lose(hand, loss, hand.errands.popleft())

    def _lose(self, hand: Hand, loss: Loss, errand: Errand) -> Iterator[Row]:
        """End a worker; its running batch goes by the policy, a batch that waited behind it goes out again as it is."""
        log.warning("%s: %s (%s)", self.ref.name, loss, hand.member.name)
        self._dismiss(hand)
        untouched = [waiting.left for waiting in hand.errands if waiting is not errand]
        again, failed = after_loss(errand.left, loss, self.resources.attempts) if errand.left else ([], [])
        self.backlog.put_back([*again, *untouched])
        yield from (self._failure(row, hand) for row in failed)

    def _failure(self, failed: Failed, hand: Hand) -> Row:
        ended = datetime.now(UTC)
        started = ended - timedelta(seconds=time.monotonic() - hand.since)
        return error_row(self.ref, failed.work, str(failed.loss), worker=hand.member.name, started=started, ended=ended)

    def _no_start(self, hand: Hand, why: object) -> Iterator[Row]:
        """A worker that did not come up: the next one may. Where none does, every row here says why."""
        log.warning("%s: set-up failed: %s", self.ref.name, why)
        self._dismiss(hand)
        if self.pool.failed_starts < max(1, self.resources.attempts) or self.hands:
            return
        for work in self.backlog.drain():
            yield error_row(self.ref, work, f"no worker could be set up: {why}")

    def _dismiss(self, hand: Hand) -> None:
        self.hands.remove(hand)
        self.staff.drop(self.pool, hand.member, lost=True)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _part(self) -> None:
        """Idle workers go back to the pool; one in the middle of a row ends: we were told to stop, or left alone."""
        for hand in self.hands:
            if hand.errands or (hand.member.starting and self.stop.is_set()):
                self.staff.drop(self.pool, hand.member)
            else:
                self.staff.give_back(self.pool, hand.member)
        self.hands.clear()
        with self.staff.changed:
            self.pool.calls -= 1
            self.staff.changed.notify_all()


def _loss(error: Exception) -> Loss:
    """Ray's memory monitor told apart from every other end. Ray's own text is long: its most telling line is kept."""
    if isinstance(error, RayTaskError) and error.cause is not None:
        return Loss(Cause.LOST, f"{type(error.cause).__name__}: {error.cause}"[:DETAIL])
    cause = Cause.MEMORY if isinstance(error, OutOfMemoryError) else Cause.LOST
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit detail" in line or "Memory on the node" in line]
    return Loss(cause, f"{type(error).__name__}: {(telling or lines or [''])[0]}"[:DETAIL])
