"""How a plan becomes tasks: one task per node and shard, each given the one before it, all handed to a `Submit`.

There are two: threads of this process, and (in flows/prefect/submit.py) Prefect tasks. A shard goes through its nodes
one after another; shards overtake each other, so spatial SR works on the first takes while base makes the later ones.
Where a job decides group by group, what it lets pass goes on at once, ahead of what is still to be decided.
"""

from __future__ import annotations

import logging
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from stages.core.errors import Stopped
from stages.core.planning.plan import Node, Phase, Plan
from stages.core.planning.survey import Item, Survey
from stages.core.running.run import Run

progress = logging.getLogger("rushes.progress")

MAX_SHARD_ROWS, SHARDS_WANTED, TASKS_AT_ONCE = 32, 6, 48
LOOK_SHARE = 10
"""A survey is read again only once this many times as long has gone by as the last reading took."""


class Pending(Protocol):
    """A result that will come."""

    def result(self) -> Any:
        """Wait for it; raises what the work raised."""

    def add_done_callback(self, call: Callable[[Any], None], /) -> None:
        """Call this once the result is there, or will never come."""


class Submit(Protocol):
    """Starts work as soon as the pending results among its arguments are there."""

    def __call__(self, name: str, work: Callable[..., Any], *args: Any) -> Pending:
        """Hand in one piece of work. What depends on it must be handed in after it."""


class ThreadSubmit:
    """Work on threads of this process. First in, first out: whatever waits, waits for something handed in earlier, so
    the oldest unfinished piece can always run."""

    def __init__(self, threads: int = TASKS_AT_ONCE) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rushes")

    def __call__(self, name: str, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run `work` on a thread once the futures among `args` are done."""
        return self._pool.submit(lambda: work(*(a.result() if isinstance(a, Future) else a for a in args)))

    def close(self) -> None:
        """Forget what has not started."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def shards(items: Sequence[Item], rows: int = 0) -> list[list[Item]]:
    """Cut units into shards of `rows`; by default as `shard_size` says, after one unit alone: it is through all steps
    early, so that a step that fails does so at once, and what a row of each step takes is known."""
    size = rows or shard_size(len(items))
    alone = 1 if size > 1 and not rows else 0
    return ([list(items[:1])] if alone else []) + [list(items[i : i + size]) for i in range(alone, len(items), size)]


def shard_size(units: int) -> int:
    """How many units a shard has: some tens, and fewer where that would leave nothing to overlap."""
    return max(1, min(MAX_SHARD_ROWS, math.ceil(units / SHARDS_WANTED)))


def run_plan(run: Run, submit: Submit, *, shard_rows: int = 0, overlap: bool = True, only: Sequence[str] = ()) -> None:
    """Do everything that a plan has left to do, or only these nodes. Raises Stopped where the run was stopped.

    Without `overlap` there is one shard, so that the models of one stage are let go before those of the next load.
    """
    _Schedule(run, submit, shard_rows, overlap, frozenset(only)).run_all()


@dataclass
class _Work:
    """What a phase has at work: units that were handed in, shards that wait for a place, and how many have one."""

    phase: Phase
    taken: set[str] = field(default_factory=set)
    waiting: deque[list[Item]] = field(default_factory=deque)
    running: int = 0
    numbers: int = 0

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting


class _Schedule:
    """The loop of one run: look, hand in what can start, decide what can be decided, wait for a shard to end."""

    def __init__(self, run: Run, submit: Submit, rows: int, overlap: bool, only: frozenset[str]) -> None:
        self.run, self.submit, self.rows, self.overlap, self.only = run, submit, rows, overlap, only
        self.work = {p.name: _Work(p) for p in run.plan.phases}
        self.known = {p.name for p in run.plan.phases if run.survey.units_known(p)}
        self.ended: queue.SimpleQueue[tuple[_Work, Pending]] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self.looked_at = self.look_took = 0.0
        beside = 1 + sum(1 for n in run.plan.nodes if n.per and n.passes is not None)
        self.tasks = TASKS_AT_ONCE // beside

    def run_all(self) -> None:
        """Until nothing is left that can be done. The first failure stops the rest, and is what is raised."""
        while True:
            moved = not self.run.stop.is_set() and self._advance()
            self._fill()
            if moved:
                continue
            if not any(w.running for w in self.work.values()):
                break
            self._wait()
        if self.failure:
            raise self.failure
        if self.run.stop.is_set():
            raise Stopped(self.run.stopped_because or "the run was stopped")

    def _advance(self) -> bool:
        """Take in units that have become known, and decide what can be decided; whether anything changed."""
        clock = time.monotonic()
        survey = self.run.look()
        self.looked_at, self.look_took = time.monotonic(), time.monotonic() - clock
        for phase in self.run.plan.phases:
            if not survey.units_known(phase):
                break
            work = self.work[phase.name]
            if any(self._wanted(n) for n in phase.steps):
                self._take(work, survey)
            for job in phase.jobs:
                if self._wanted(job) and self._can_decide(job, work, survey):
                    self._do_job(job)
                    return True
        return False

    def _wanted(self, node: Node) -> bool:
        return not self.only or node.name in self.only

    def _take(self, work: _Work, survey: Survey) -> None:
        """Units that were not handed in yet, cut into shards."""
        if work.taken and survey.units_complete(work.phase) and not self._grows(work.phase):
            return  # all of them are: asking again would cost, and give none
        items = [i for i in survey.items(work.phase) if i["unit"]["id"] not in work.taken]
        if items and work.phase.name not in self.known:
            self.known.add(work.phase.name)
            self._say_how_many(work.phase, survey)
        work.taken |= {i["unit"]["id"] for i in items}
        work.waiting.extend(shards(items, self.rows if self.overlap else max(1, len(items))))

    def _say_how_many(self, phase: Phase, survey: Survey) -> None:
        """What was not known when the run began: how many rows the steps of a phase make."""
        counts = survey.counts()
        left = {n.name: counts[n.name].todo + counts[n.name].waiting for n in phase.steps if self._wanted(n)}
        progress.info("to do: %s", ", ".join(f"{n} {rows}" for n, rows in left.items()), extra={"expects": left})

    def _grows(self, phase: Phase) -> bool:
        before = self.run.plan.by_name.get(phase.name)
        return before is not None and bool(before.per)

    def _can_decide(self, job: Node, work: _Work, survey: Survey) -> bool:
        if job.per:
            return bool(survey.groups(job).ready)
        return work.idle and job.name not in survey.jobs and bool(survey.job_digest(job))

    def _do_job(self, job: Node) -> None:
        try:
            self.submit(job.name, self.run.do_job, job).result()
        except Exception as error:
            self._fail(error)

    # -- shards ------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Hand in shards while there is room, those of later phases first: winners go on before more is made."""
        for work in reversed(self.work.values()):
            room = max(2, self.tasks // max(1, len(work.phase.steps))) if self.overlap else 1
            while work.waiting and work.running < room and not self.run.stop.is_set():
                work.running += 1
                work.numbers += 1
                pending = self._shard(work.phase, f"{work.numbers}/{work.numbers + len(work.waiting) - 1}", work)
                pending.add_done_callback(partial(self._note_end, work, pending))
            if self.run.stop.is_set():
                work.waiting.clear()

    def _note_end(self, work: _Work, pending: Pending, _: Any) -> None:
        self.ended.put((work, pending))

    def _shard(self, phase: Phase, label: str, work: _Work) -> Pending:
        """One shard through every node of its phase; where models do not fit together, each lets go before the next."""
        state: Any = work.waiting.popleft()
        for node in (n for n in phase.steps if self._wanted(n)):
            state = self.submit(f"{node.name} {label}", self.run.do, node, state)
            if not self.overlap:
                state = self.submit(f"release {node.name}", _released, self.run, node.name, state)
        return state  # type: ignore[no-any-return]

    def _wait(self) -> None:
        """Until a shard has ended, and so much time has gone by that looking again is worth it."""
        early, news = any(n.per for n in self.run.plan.nodes), False
        while any(w.running for w in self.work.values()):
            # What has ended may decide a group: it is looked at when the rest is over, though nothing else may end.
            rest = LOOK_SHARE * self.look_took - (time.monotonic() - self.looked_at) if early and news else None
            if rest is not None and rest <= 0:
                return
            try:
                came = [self.ended.get(timeout=rest)]
            except queue.Empty:
                return
            while not self.ended.empty():
                came.append(self.ended.get())
            for work, pending in came:
                self._take_in(work, pending)
            self._fill()
            if any(work.idle for work, _ in came):
                return
            news = True

    def _take_in(self, work: _Work, pending: Pending) -> None:
        work.running -= 1
        try:
            pending.result()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.run.ask_to_stop(str(error))
        if self.failure is None or isinstance(self.failure, Stopped):
            self.failure = error


def _released(run: Run, name: str, items: list[Item]) -> list[Item]:
    run.executor.release(run.plan.refs[name])
    return items


def nothing_to_do(survey: Survey, plan: Plan) -> bool:
    """Whether a run of this plan would do no work at all: all is done, or what is left waits for people."""
    counts = survey.counts()
    if survey.held():
        known = [n for p in plan.phases if survey.units_known(p) for n in p.jobs if not n.per]
        ready = any(n.name not in survey.jobs and survey.job_digest(n) for n in known)
        return not ready and not any(c.todo for n, c in counts.items() if not _is_whole(plan, n))
    return all(survey.units_complete(p) for p in plan.phases) and not any(c.todo or c.waiting for c in counts.values())


def _is_whole(plan: Plan, name: str) -> bool:
    """Whether a node is a job over all units at once, which counts as to do until it can be done."""
    node = plan.node(name)
    return node.job and not node.per
