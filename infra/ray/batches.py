"""Which rows a worker is handed at a time, and which of them are retried when it is lost. No Ray in here."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stages.core.running.executor import Work


class Cause(enum.Enum):
    """Why a worker ended."""

    LOST = "worker lost"
    MEMORY = "out of memory"
    TIME = "time limit"


@dataclass(frozen=True)
class WorkerLoss:
    """The end of a worker: the cause, and the message of Ray or of the limit."""

    cause: Cause
    detail: str

    def __str__(self) -> str:
        return f"{self.cause.value}: {self.detail}"


@dataclass(frozen=True)
class FailedRow:
    """One row that is not retried any more. `work.attempt` counts the tries before the last one, as everywhere."""

    work: Work
    loss: WorkerLoss


Batch = tuple[Work, ...]


def plan_retries(unfinished: Batch, loss: WorkerLoss, attempts: int) -> tuple[list[Batch], list[FailedRow]]:
    """(batches to retry, rows that failed) for the rows of one batch that had not come back when their worker ended.

    A lost worker's rows are retried one at a time, so that the one that kills its worker is found; out of memory halves
    the batch. A row fails when it was alone and has had `attempts` tries. Past a time limit the first row fails at
    once: where there is a limit, rows come back one by one, so the first unfinished one is the one that took too long.
    """
    if loss.cause is Cause.TIME:
        return ([unfinished[1:]] if unfinished[1:] else []), [FailedRow(unfinished[0], loss)]
    tried = tuple(replace(work, attempt=work.attempt + 1) for work in unfinished)
    if len(unfinished) == 1:
        if tried[0].attempt >= attempts:
            return [], [FailedRow(unfinished[0], loss)]
        return [tried], []
    size = (len(unfinished) + 1) // 2 if loss.cause is Cause.MEMORY else 1
    return [tried[i : i + size] for i in range(0, len(tried), size)], []


class Backlog:
    """The rows of one `map` call that no worker has: new rows, which are cut into batches, and batches to retry.

    A batch to retry keeps its size, because that was chosen to find the row at fault; joining it with new rows would
    put them at risk again.
    """

    def __init__(self, work: Sequence[Work], batch_rows: int, workers: int) -> None:
        self._new, self._retries = deque(work), deque[Batch]()
        self._max_rows = max(1, batch_rows)
        self._shares = 2 * max(1, workers)  # two batches a worker: one that it does, one that waits

    def __len__(self) -> int:
        """Rows left."""
        return len(self._new) + sum(len(batch) for batch in self._retries)

    def next_batch(self) -> Batch:
        """The next batch. Batches shrink towards the end, so that all workers end at about the same time."""
        if self._retries:
            return self._retries.popleft()
        share = -(-len(self._new) // self._shares)
        return tuple(self._new.popleft() for _ in range(min(self._max_rows, share)))

    def requeue(self, batches: Sequence[Batch]) -> None:
        """Put batches before all others, in their order and undivided."""
        self._retries.extendleft(reversed(batches))

    def drain(self) -> list[Work]:
        """Remove and return all rows that are left."""
        rest = [work for batch in self._retries for work in batch] + list(self._new)
        self._retries.clear()
        self._new.clear()
        return rest
