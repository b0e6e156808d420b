"""How long a run still takes, from the rows that it has made and from earlier rows of the same steps."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from stages.core.step import Row

EARLIER_ROWS = 2
"""How many rows of this run the mean of earlier runs weighs as much as: the first row is often a slow one."""


@dataclass
class _Step:
    """Rows that are left, workers that make them, seconds a row before this run; rows of this run, their seconds; when
    its first worker was started, in seconds since the epoch, and how long that took."""

    left: int
    workers: int = 1
    earlier: float = 0.0
    rows: int = 0
    seconds: float = 0.0
    starting: float | None = None
    set_up: float | None = None

    @property
    def mean(self) -> float:
        """Seconds a row; 0 where nothing is known."""
        before = EARLIER_ROWS if self.earlier else 0
        return (self.seconds + before * self.earlier) / (self.rows + before) if self.rows or before else 0.0

    @property
    def work(self) -> float:
        return self.left * self.mean


class Forecast:
    """Seconds that are left of a run whose steps work beside each other.

    totals: step -> rows that it is expected to make; earlier: step -> seconds a row in runs before; workers:
    step -> how many make its rows (1); slots: how many rows can be at work at a time, as far as that is known. Not
    thread-safe.
    """

    def __init__(
        self,
        totals: Mapping[str, int],
        earlier: Mapping[str, float] | None = None,
        workers: Mapping[str, int] | None = None,
        slots: float = math.inf,
    ) -> None:
        earlier, workers = earlier or {}, workers or {}
        self._steps = {n: _Step(t, max(1, workers.get(n, 1)), earlier.get(n, 0.0)) for n, t in totals.items()}
        self._slots = slots

    def start(self, step: str, at: float) -> None:
        """The first worker of a step is started now, `at` seconds since the epoch."""
        entry = self._steps.setdefault(step, _Step(0))
        entry.starting = at if entry.starting is None else entry.starting

    def add(self, step: str, row: Row) -> None:
        """A row that was made; `started` and `ended` are read where it has them, else `seconds`."""
        entry = self._steps.setdefault(step, _Step(0))
        if entry.starting is not None and entry.set_up is None and row.get("started"):
            entry.set_up = max(0.0, row["started"].timestamp() - entry.starting)
        entry.left = max(0, entry.left - 1)
        began, ended = row.get("started"), row.get("ended")
        seconds = (ended - began).total_seconds() if began and ended else float(row.get("seconds") or 0.0)
        entry.rows, entry.seconds = entry.rows + 1, entry.seconds + max(0.0, seconds)

    def seconds_left(self, now: float | None = None) -> float | None:
        """None before the first row. now: in seconds since the epoch, where that is not the clock's time.

        Steps work beside each other, so the slowest decides, unless there is no room for all of them at a time. Workers
        that are still to start do so one after another, as their first rows come.
        """
        left = [s for s in self._steps.values() if s.left]
        if not any(s.rows for s in self._steps.values()):
            return None
        beside = min(self._slots, sum(s.workers for s in left))
        slowest = max((s.work / s.workers for s in left), default=0.0)
        return max(slowest, sum(s.work for s in left) / max(1.0, beside)) + self._to_start(
            left, time.time() if now is None else now
        )

    def _to_start(self, left: Sequence[_Step], now: float) -> float:
        took = [s.set_up for s in self._steps.values() if s.set_up is not None]
        if not took:
            return 0.0
        each = fmean(took)
        return sum(max(0.0, each - (0.0 if s.starting is None else now - s.starting)) for s in left if not s.rows)

    @property
    def unknown(self) -> list[str]:
        """Steps with rows left of which nothing says how long they take: the time left is then a lower bound."""
        return [name for name, s in self._steps.items() if s.left and not s.mean]
