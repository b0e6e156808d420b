"""What is handed to a worker at a time, and what becomes of it when the worker is lost. No Ray in here."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stages.core.ledger.executor import Work


class Cause(enum.Enum):
    """Why a worker is no more."""

    LOST = "worker lost"
    MEMORY = "out of memory"
    TIME = "time limit"


@dataclass(frozen=True)
class Loss:
    """The end of a worker: the cause, and what Ray or the limit said about it."""

    cause: Cause
    detail: str

    def __str__(self) -> str:
        return f"{self.cause.value}: {self.detail}"


@dataclass(frozen=True)
class Failed:
    """One row that is given up. `work.attempt` counts the tries before the last one, as everywhere."""

    work: Work
    loss: Loss


Batch = tuple[Work, ...]


def after_loss(left: Batch, loss: Loss, attempts: int) -> tuple[list[Batch], list[Failed]]:
    """(batches to hand out again, rows given up) for the rows that had not come back when their worker ended.

    A lost worker's rows go out again one at a time, so that the one that kills is found; out of memory halves the
    batch. A row is given up when it was alone and has had `attempts` tries. Past a time limit the first row is given up
    at once: rows come back one by one where there is a limit, so that is the one that took too long.
    """
    if loss.cause is Cause.TIME:
        return ([left[1:]] if left[1:] else []), [Failed(left[0], loss)]
    tried = tuple(replace(work, attempt=work.attempt + 1) for work in left)
    if len(left) == 1:
        if tried[0].attempt >= attempts:
            return [], [Failed(left[0], loss)]
        return [tried], []
    size = (len(left) + 1) // 2 if loss.cause is Cause.MEMORY else 1
    return [tried[i : i + size] for i in range(0, len(tried), size)], []


class Backlog:
    """The part of a call's work that is not handed out: rows that go out in batches, and batches kept as they are."""

    def __init__(self, work: Sequence[Work], batch_rows: int, workers: int) -> None:
        self._fresh, self._again = deque(work), deque[Batch]()
        self._limit, self._shares = max(1, batch_rows), 2 * max(1, workers)

    def __len__(self) -> int:
        """Rows left."""
        return len(self._fresh) + sum(len(batch) for batch in self._again)

    def next(self) -> Batch:
        """The next batch: smaller towards the end, so that all workers end at about the same time."""
        if self._again:
            return self._again.popleft()
        share = -(-len(self._fresh) // self._shares)
        return tuple(self._fresh.popleft() for _ in range(min(self._limit, share)))

    def put_back(self, batches: Sequence[Batch]) -> None:
        """Batches that go out again, before all others and undivided."""
        self._again.extendleft(reversed(batches))

    def drain(self) -> list[Work]:
        """Everything that is left; nothing is left then."""
        rest = [work for batch in self._again for work in batch] + list(self._fresh)
        self._again.clear()
        self._fresh.clear()
        return rest
