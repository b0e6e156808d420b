"""How long a run still takes, from the rows that it has made and from earlier rows of the same steps."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import fmean, geometric_mean

from stages.core.step import Row

EARLIER_ROWS = 2
"""How many rows of this run the mean of earlier runs weighs as much as: the first row is often a slow one."""
AS_BEFORE = 0.05
"""Which part of a run's work counts as done at the pace of earlier runs, beside what is done."""


@dataclass
class _Step:
    """Rows that are left, workers that make them, seconds a row before this run; rows of this run, their seconds; when
    its first worker was started, in seconds since the epoch, and how long that took.

    light: it runs no model. job: it begins once all before it is done. supposed: how many rows it will make is a guess;
    0 where there is none.
    """

    left: int
    workers: int = 1
    earlier: float = 0.0
    job: bool = False
    supposed: bool = False
    light: bool = False
    rows: int = 0
    seconds: float = 0.0
    starting: float | None = None
    set_up: float | None = None

    def mean(self, pace: float) -> float:
        """Seconds a row; 0 where nothing is known. pace: how many times as long rows take as in runs before."""
        before = EARLIER_ROWS if self.earlier else 0
        seconds = self.seconds + before * self.earlier * pace
        return seconds / (self.rows + before) if self.rows or before else 0.0


@dataclass(frozen=True)
class _Rest:
    """What is left of a step: seconds until its first worker is up, rows, seconds a row, workers; whether it is a job,
    and whether rows wait for it that the step before has made."""

    set_up: float
    rows: int
    mean: float
    workers: int
    job: bool
    fed: bool

    def seconds(self, rows: int) -> float:
        """How long its workers take for so many rows."""
        return rows * self.mean / self.workers

    @property
    def work(self) -> float:
        return self.set_up + self.rows * self.mean


class Forecast:
    """Seconds that are left of a run. Its rows go through the steps in this order, in shards; the steps work beside
    each other, as far as there is room.

    totals: step -> rows that it is expected to make; earlier: step -> seconds a row in runs before; workers:
    step -> how many make its rows (1); slots: how many rows can be at work at a time, as far as that is known; jobs:
    steps that begin once all before them is done; supposed: steps whose total is a guess, or 0 where there is none;
    light: steps that run no model; shard: rows of a shard. Not thread-safe.
    """

    def __init__(
        self,
        totals: Mapping[str, int],
        earlier: Mapping[str, float] | None = None,
        workers: Mapping[str, int] | None = None,
        slots: float = math.inf,
        *,
        jobs: Set[str] = frozenset(),
        supposed: Set[str] = frozenset(),
        light: Set[str] = frozenset(),
        shard: int = 1,
    ) -> None:
        earlier, workers = earlier or {}, workers or {}
        self._steps = {
            n: _Step(t, max(1, workers.get(n, 1)), earlier.get(n, 0.0), n in jobs, n in supposed, n in light)
            for n, t in totals.items()
        }
        self._slots, self._shard, self._one_by_one = slots, max(1, shard), False
        self._began, self._last = math.inf, -math.inf
        """When the first row began and the last one ended, in seconds since the epoch."""

    def start(self, step: str, at: float) -> None:
        """The first worker of a step is started now, `at` seconds since the epoch."""
        entry = self._steps.setdefault(step, _Step(0))
        entry.starting = at if entry.starting is None else entry.starting

    def expect(self, totals: Mapping[str, int]) -> None:
        """So many rows are left of these steps, as is known from now on."""
        for name, total in totals.items():
            entry = self._steps.setdefault(name, _Step(0))
            entry.left, entry.supposed = total, False

    def run_one_by_one(self) -> None:
        """There is no room for the steps beside each other: each begins once the one before it is done."""
        self._one_by_one = True

    def add(self, step: str, row: Row) -> None:
        """A row that was made; `started` and `ended` are read where it has them, else `seconds`."""
        entry = self._steps.setdefault(step, _Step(0))
        if entry.starting is not None and entry.set_up is None and row.get("started"):
            entry.set_up = max(0.0, row["started"].timestamp() - entry.starting)
        entry.left = max(0, entry.left - 1)
        began, ended = row.get("started"), row.get("ended")
        seconds = (ended - began).total_seconds() if began and ended else float(row.get("seconds") or 0.0)
        entry.rows, entry.seconds = entry.rows + 1, entry.seconds + max(0.0, seconds)
        if began and ended:
            self._began, self._last = min(self._began, began.timestamp()), max(self._last, ended.timestamp())

    def seconds_left(self, now: float | None = None) -> float | None:
        """None before the first row. now: in seconds since the epoch, where that is not the clock's time.

        Of a step of which nothing is known a row is taken to cost what one of the slowest known step does, where it
        runs a model, as the costly steps of a cascade come late; else what one of the known steps does, their geometric
        mean. A worker that is still to start is taken to need as long as the others did.
        """
        if not any(s.rows for s in self._steps.values()):
            return None
        now = time.time() if now is None else now
        rest = self._rest(now)
        return max(0.0, self._seconds(rest) - self._at_work(rest, now))

    def seconds_expected(self) -> float | None:
        """Seconds for all rows, as far as runs before tell, without the start of workers; None where they do not tell
        what a row of some step takes."""
        steps = [s for s in self._steps.values() if s.left and not s.job]
        return self._seconds(self._rest(0.0)) if steps and all(s.earlier for s in steps) else None

    def _seconds(self, rest: Sequence[_Rest]) -> float:
        if self._one_by_one:
            return sum(r.set_up + r.seconds(r.rows) for r in rest)
        return max(_path(rest, self._shard), sum(r.work for r in rest) / self._beside(rest))

    def _pace(self) -> float:
        """How many times as long this run's rows take as those of runs before, whose takes may have been smaller, or
        the machine less busy. A few rows do not decide it: a part of all rows is taken to be as before."""
        before = [s for s in self._steps.values() if s.earlier]
        as_before = AS_BEFORE * sum(s.earlier * (s.rows + s.left) for s in before)
        expected = sum(s.earlier * s.rows for s in before)
        known = expected + as_before  # 0 where those that were seen before have no rows in this run
        return (sum(s.seconds for s in before) + as_before) / known if known else 1.0

    def _rest(self, now: float) -> list[_Rest]:
        pace = self._pace()
        known = [m for s in self._steps.values() if (m := s.mean(pace)) and not s.job]
        took = [s.set_up for s in self._steps.values() if s.set_up is not None]
        most, usual = (max(known), geometric_mean(known)) if known else (0.0, 0.0)
        each = fmean(took or [0.0])
        rest, before = list[_Rest](), 0.0
        for step in self._steps.values():
            if not step.left:
                continue
            gone = 0.0 if step.starting is None else now - step.starting
            set_up = max(0.0, each - gone) if not step.rows and not step.job else 0.0
            mean = step.mean(pace) or (0.0 if step.job else usual if step.light else most)
            rest.append(_Rest(set_up, step.left, mean, step.workers, step.job, step.left > before))
            before = math.inf if step.job else step.left
        return rest

    def _beside(self, rest: Sequence[_Rest]) -> float:
        """How many rows are at work at a time: as many as there are slots, or as were until now where that is more."""
        spent, wall = sum(s.seconds for s in self._steps.values()), self._last - self._began
        slots = max(self._slots, spent / wall) if wall > 0 else self._slots
        return max(1.0, min(slots, sum(r.workers for r in rest)))

    def _at_work(self, rest: Sequence[_Rest], now: float) -> float:
        """How long the rows at work have been so, since the last one that ended: at most nearly as long as a row takes.
        While a worker starts, the time that this takes counts instead."""
        if any(s.starting is not None and s.set_up is None and s.left for s in self._steps.values()):
            return 0.0
        return max(0.0, min(now - self._last, 0.9 * max((r.mean for r in rest), default=0.0)))

    @property
    def knows_enough(self) -> bool:
        """Whether the time left may be told: what a row takes is known of every step with rows left, or of two steps.
        The first step alone, often a quick one, says nothing of the others."""
        steps = [s for s in self._steps.values() if not s.job]
        known = [s for s in steps if s.mean(1.0)]
        return len(known) > 1 or all(s in known for s in steps if s.left)

    @property
    def sureness(self) -> str:
        """How much to trust the time left, as a word before it: `at least` where there are rows that are not counted,
        `roughly` where how many there are or what one takes is a guess, else `about`."""
        steps = [s for s in self._steps.values() if not s.job]
        if any(s.supposed and not s.left for s in steps):
            return "at least"
        return "about" if all(s.mean(1.0) and not s.supposed for s in steps if s.left) else "roughly"


def _path(rest: Sequence[_Rest], shard: int) -> float:
    """Seconds until the last shard has gone through the last step, with room for every worker.

    A step begins with the first shard that the one before it has finished, and ends no sooner than one shard after it.
    """
    first = last = 0.0  # when the first and the last shard come to a step
    for step in rest:
        begins = (last if step.job else 0.0 if step.fed else first) + step.set_up
        first = begins + step.seconds(min(shard, step.rows))
        last = max(begins + step.seconds(step.rows), last + step.seconds(min(shard, step.rows)))
        first = last if step.job else first
    return last
