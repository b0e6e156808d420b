"""How a plan becomes tasks: one task per node and shard, each given the one before it, all handed to a `Submit`.

There are two: threads of this process, and (in flows/prefect/submit.py) Prefect tasks. A shard goes through its nodes
one after another; shards overtake each other, so spatial SR works on the first takes while base makes the later ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from stages.core.errors import Stopped
from stages.core.ledger.plan import Phase, Plan
from stages.core.ledger.run import Run
from stages.core.ledger.survey import Item, Survey

MAX_SHARD_ROWS, SHARDS_WANTED, TASKS_AT_ONCE = 32, 6, 48


class Pending(Protocol):
    """A result that will come."""

    def result(self) -> Any:
        """Wait for it; raises what the work raised."""


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
    """Cut units into shards of `rows`; by default some tens, and fewer where that would leave nothing to overlap."""
    size = rows or max(1, min(MAX_SHARD_ROWS, math.ceil(len(items) / SHARDS_WANTED)))
    return [list(items[i : i + size]) for i in range(0, len(items), size)]


def run_plan(run: Run, submit: Submit, *, retry: str, shard_rows: int = 0, overlap: bool = True) -> None:
    """Do everything that a plan has left to do. Raises Stopped where the run was stopped on the way.

    Without `overlap` there is one shard, so that the models of one stage are let go before those of the next load.
    """
    for phase in run.plan.phases:
        survey = Survey(run.catalog, run.plan, retry=retry, jobs=run.jobs)
        if not survey.units_known(phase):
            raise Stopped(f"{phase.name} has nothing to start from: an earlier job did not finish")
        items = survey.items(phase)
        _wait(
            run, [_shard(run, submit, phase, label, s, overlap) for label, s in _labelled(items, shard_rows, overlap)]
        )
        for node in (n for n in phase.nodes if n.job):
            _wait(run, [submit(node.name, run.do_job, node)])


def _labelled(items: Sequence[Item], rows: int, overlap: bool) -> list[tuple[str, list[Item]]]:
    parts = shards(items, rows if overlap else max(1, len(items)))
    return [(f"{i + 1}/{len(parts)}", part) for i, part in enumerate(parts)]


def _shard(run: Run, submit: Submit, phase: Phase, label: str, items: list[Item], overlap: bool) -> Pending:
    """One shard through every node of its phase; where models do not fit together, each lets go before the next."""
    state: Any = items
    for node in (n for n in phase.nodes if not n.job):
        state = submit(f"{node.name} {label}", run.do, node, state)
        if not overlap:
            state = submit(f"release {node.name}", _released, run, node.name, state)
    return state if state is not items else _Ready(items)


def _released(run: Run, name: str, items: list[Item]) -> list[Item]:
    run.executor.release(run.plan.refs[name])
    return items


class _Ready:
    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value


def _wait(run: Run, pending: Iterable[Pending]) -> None:
    """Wait for all; the first failure stops the rest, and is what is raised."""
    first: BaseException | None = None
    for one in pending:
        try:
            one.result()
        except Exception as error:
            run.ask_to_stop(str(error))
            if first is None or isinstance(first, Stopped):
                first = error
    if first:
        raise first


def nothing_to_do(survey: Survey, plan: Plan) -> bool:
    """Whether a run of this plan would do no work at all."""
    counts = survey.counts()
    return all(survey.units_known(p) for p in plan.phases) and not any(c.todo or c.waiting for c in counts.values())
