"""Running a plan: one call does one node for one shard of units. Whoever calls decides the order and the threads."""

from __future__ import annotations

import json
import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.core.config import load_class
from stages.core.errors import UNWRITABLE, Stopped
from stages.core.full_disk import as_cannot_write
from stages.core.identity import digest
from stages.core.ledger.catalog import BOOKKEEPING, Catalog, ledger_schema
from stages.core.ledger.records import RUN_SCHEMA, RUNS, RUNS_FINGERPRINT
from stages.core.planning.plan import Node, Plan
from stages.core.planning.survey import Item, Survey
from stages.core.reach.secrets import bare_in, cleared
from stages.core.running.executor import Executor, Work
from stages.core.running.leaving import GRACE_S, LeavableThread, Left, Stop, grace_of
from stages.core.running.step_inputs import work_for
from stages.core.step import Job, Row, Step, StepRef, Workspace

COMMIT_ROWS, COMMIT_SECONDS = 32, 5.0

Listener = Callable[[str, Row], None]
"""Told (node name, ledger row) for every row that is committed: progress, logs."""
Mark = tuple[str, str]
"""A node's name and the id of a row of it: two nodes of one config that read the same have rows of the same ids."""


@cache  # as of the start of this process: what is loaded stays as it is
def versions() -> dict[str, str]:
    """What the run's results may depend on beyond its config; recorded, never part of an identity."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("rushes", "torch", "diffusers", "transformers", "av", "opencv-python-headless", "ray", "prefect"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Budget:
    """What a run may spend: core-seconds and GPU-seconds of its rows, seconds on the clock, money; 0 means no limit.

    price: what so many core-seconds and GPU-seconds cost; unit: the currency
    """

    def __init__(
        self,
        core_seconds: float = 0,
        gpu_seconds: float = 0,
        wall_seconds: float = 0,
        money: float = 0,
        *,
        price: Callable[[float, float], float] = lambda core_seconds, gpu_seconds: 0.0,
        unit: str = "",
    ) -> None:
        self.limits = {"core seconds": core_seconds, "gpu seconds": gpu_seconds, "wall seconds": wall_seconds}
        self.limits[unit or "money"] = money
        self._price, self._began = price, time.monotonic()

    def exceeded(self, spent: Mapping[str, float]) -> str:
        """The sentence that says which limit was reached, "" while there is some left."""
        core, gpu = spent.get("core_seconds", 0.0), spent.get("gpu_seconds", 0.0)
        now = (core, gpu, time.monotonic() - self._began, self._price(core, gpu))
        for (name, limit), used in zip(self.limits.items(), now, strict=True):
            if limit and used >= limit:
                return f"the budget of {limit:g} {name} is used up"
        return ""


class Run:
    """One run of a plan: does nodes for shards, commits what comes back, and writes its own row in `runs`.

    `do` may be called from many threads. Set `stop` to end early: what is done is committed, the rest stays to do.
    survey: the one reading of the plan that a run keeps, and reads again when rows were committed.
    """

    def __init__(
        self,
        catalog: Catalog,
        executor: Executor,
        plan: Plan,
        *,
        config: Mapping[str, Any] | None = None,
        scope: str = "",
        budget: Budget | None = None,
        listener: Listener | None = None,
        run_id: str = "",
        survey: Survey | None = None,
    ) -> None:
        self.catalog, self.executor, self.plan = catalog, executor, plan
        self.run_id = run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self.survey = survey or Survey(catalog, plan)
        self.survey.run_id = self.run_id
        self.stop = Stop()
        self.stopped_because = ""
        self.spent = {"core_seconds": 0.0, "gpu_seconds": 0.0}
        self._config, self._scope = json.dumps(dict(config or {}), default=str), bare_in(scope)
        self._budget, self._listener = budget or Budget(), listener
        self._lock = threading.Lock()
        self._stale = False
        self._in_flight: dict[Mark, threading.Event] = {}
        self._made: dict[Mark, Row] = {}
        self._failed_with: dict[Mark, set[str]] = {}
        self._sharing: set[str] | None = None
        self._job_at_work: tuple[str, threading.Event] | None = None
        self._started = datetime.now(UTC)

    # -- the run's own row -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Write the row that says the run has started."""
        self._record("running", None, {})

    def finish(self, status: str, counts: Mapping[str, Any] | None = None, error: str = "") -> None:
        """Write the row that says how it ended: done, failed or stopped."""
        self._record(status, datetime.now(UTC), counts or {}, error)

    def _record(self, status: str, ended: datetime | None, counts: Mapping[str, Any], error: str = "") -> None:
        row = {
            "run_id": self.run_id,
            "flow": self.plan.flow,
            "status": status,
            "started": self._started,
            "ended": ended,
            "config": self._config,
            "scope": self._scope,
            "plan": self.plan.to_json(),
            "jobs": json.dumps(self.survey.jobs),
            "counts": json.dumps(counts),
            "error": cleared(error),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "versions": json.dumps(versions()),
            **self.spent,
        }
        self.catalog.commit(RUNS, RUNS_FINGERPRINT, [row], RUN_SCHEMA)

    def look(self) -> Survey:
        """The survey as things stand now; read again only where rows were committed since the last time."""
        with self._lock:
            stale, self._stale = self._stale, False
        if stale:
            self.survey.refresh()
        known = [p for p in self.plan.phases if self.survey.units_known(p)]
        self._sharing = {name for p in known for name, shares in self.survey.shared(p).items() if shares}
        return self.survey

    # -- row-parallel nodes ------------------------------------------------------------------------------------------

    def do(self, node: Node, items: Sequence[Item]) -> list[Item]:
        """Bring these units past one node. Returns them with the node's rows filled in where there are any.

        A row that several units share is made once, with what the first of them carries; where that fails, with what
        the next one carries. Raises Stopped once the run is stopping, so that nothing behind this shard starts.
        """
        own: dict[str, Row] = {}
        while True:
            mine, others = self._claim(node, items, own)
            try:
                own |= self._execute(node, list(mine.values()))
            finally:
                self._let_go(mine)
            for mark in others:
                self._wait_for(mark)
            if self.stop.is_set():
                raise Stopped(self.stopped_because or "the run was stopped")
            if not mine and not others:
                return [self._with_row(node, item, own) for item in items]

    def _claim(self, node: Node, items: Sequence[Item], own: Mapping[str, Row]) -> tuple[dict[Mark, Work], list[Mark]]:
        """Split what is to do into what this call does and what another call is doing at this moment."""
        mine, others = dict[Mark, Work](), list[Mark]()
        with self._lock:
            for item in items:
                if (work := self._work(node, item, own)) is None:
                    continue
                mark = (node.name, work.id(node.fingerprint))
                if mark in mine:
                    continue
                if mark in self._in_flight:
                    others.append(mark)
                    continue
                self._in_flight[mark] = threading.Event()
                mine[mark] = work
                if node.carries:
                    self._failed_with.setdefault(mark, set()).add(_carried(node, work))
        return mine, others

    def _work(self, node: Node, item: Item, own: Mapping[str, Row]) -> Work | None:
        """What is to do for one unit at one node, None where it is done, failed for good, or not ready."""
        work = work_for(self.plan, node, item)
        if work is None:
            return None
        mark = (node.name, work.id(node.fingerprint))
        if made := own.get(mark[1]) or self._made.get(mark):
            other = node.carries and _carried(node, work) not in self._failed_with.get(mark, ())
            return replace(work, attempt=made["attempt"]) if made["status"] == "error" and other else None
        row = item.get(node.name)
        if row is not None and not row["retry"]:
            return None
        return replace(work, attempt=row["attempt"] if row else 0)

    def _let_go(self, mine: Mapping[Mark, Work]) -> None:
        with self._lock:
            for mark in mine:
                self._in_flight.pop(mark).set()

    def _wait_for(self, mark: Mark) -> None:
        with self._lock:
            event = self._in_flight.get(mark)
        while event and not event.wait(0.2) and not self.stop.is_set():
            pass

    def _execute(self, node: Node, work: Sequence[Work]) -> dict[str, Row]:
        """Run the work and commit what comes back: a part every few seconds or some tens of rows."""
        made: dict[str, Row] = {}
        if not work:
            return made
        ref = self.plan.refs[node.name]
        schema = ledger_schema(load_class(ref.use, ref.name).writes, node.fan_out)
        ready: list[Row] = []
        deadline = time.monotonic() + COMMIT_SECONDS
        try:
            for row in self._results(ref, work):
                if row.get("error_kind") == UNWRITABLE:
                    self.ask_to_stop(row["error"])
                    continue
                made[row["id"]] = row
                ready.append({**row, "run_id": self.run_id})
                if len(ready) >= COMMIT_ROWS or time.monotonic() > deadline:
                    self._commit(node, ready, schema)
                    ready, deadline = [], time.monotonic() + COMMIT_SECONDS
        finally:
            self._commit(node, ready, schema)
        return made

    def _results(self, ref: StepRef, work: Sequence[Work]) -> Iterator[Row]:
        cls = load_class(ref.use, ref.name)
        heft = cls.heft if issubclass(cls, Step) else ""
        ordered = sorted(work, key=lambda w: -(w.row.get(heft) or 0)) if heft else work
        return self.executor.map(ref, ordered, self.stop)

    def _commit(self, node: Node, rows: Sequence[Row], schema: pa.Schema) -> None:
        with self._stopping_where_full():
            self.catalog.commit(node.name, node.fingerprint, rows, schema)
        with self._lock:
            for row in rows:
                self._stale = True
                if self._sharing is None or node.name in self._sharing:
                    self._made[node.name, row["id"]] = row  # other shards may hold units that need the same row
                for name in self.spent:
                    self.spent[name] += row.get(name) or 0.0
            reason = self._budget.exceeded(self.spent)
        if reason:
            self.ask_to_stop(reason, drain=True)
        if self._listener:
            for row in rows:
                self._listener(node.name, row)

    @contextmanager
    def _stopping_where_full(self) -> Iterator[None]:
        """Where a place cannot be written to, all that is to come would fail likewise. Raises Stopped then."""
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            found = as_cannot_write(error, self.catalog.storage.local_root)
            if found is None:
                raise
            self.ask_to_stop(str(found))
            raise Stopped(self.stopped_because) from error

    def ask_to_stop(self, reason: str, *, drain: bool = False) -> None:
        """End the run soon: nothing new starts, and what is at work is given up after some seconds, or finished where
        the run may `drain`."""
        self.stopped_because = self.stopped_because or cleared(reason)
        if drain:
            self.stop.drain()
        else:
            self.stop.set()

    def awaited(self) -> str:
        """What a stop waits for now, in words."""
        if self._job_at_work:
            name, asks = self._job_at_work
            return f"{name} to keep what it has done" if asks.is_set() else f"{name} (at most {GRACE_S:.0f} s)"
        return self.executor.awaited() or "finished rows to be stored"

    def _with_row(self, node: Node, item: Item, own: Mapping[str, Row]) -> Item:
        work = work_for(self.plan, node, item)
        mark = work.id(node.fingerprint) if work else ""
        row = own.get(mark) or self._made.get((node.name, mark))
        return {**item, node.name: {**_for_steps(row), "retry": False}} if row else item

    # -- jobs --------------------------------------------------------------------------------------------------------

    def do_job(self, node: Node) -> None:
        """Do one job, unless its result for these inputs is there: for all units, or for the groups that have ended.

        Rows that failed are handed to it as they stand: one bad row, even one to be tried again, stops nothing.
        """
        survey = self.look()
        with self._stopping_where_full():
            if node.per:
                self._do_groups(node, survey)
            elif node.name not in survey.jobs:
                survey.look_again(node)
                if node.name not in survey.jobs:
                    self._do_table(node, survey)

    def _do_table(self, node: Node, survey: Survey) -> None:
        mark = survey.job_digest(node)
        if not mark:
            raise Stopped(f"{node.name} cannot run: some of {', '.join(node.sources)} are still to do")
        result = self._timed(node, lambda job: job.run(survey.inputs(node, job.columns)))
        self.catalog.commit_table(node.name, node.fingerprint, result, f"job-{mark}")
        survey.add_result(node, mark, result)
        with self._lock:
            self._stale = True

    def _do_groups(self, node: Node, survey: Survey) -> None:
        """Decide every group that has ended; the results of one call make one file."""
        ready = survey.groups(node).ready
        if not ready:
            return

        def decide(job: Job[Any]) -> pa.Table:
            tables, keys, columns = survey.inputs(node, job.columns), survey.group_keys(node), dict(node.tables)
            if job.recalls:
                tables["earlier"] = survey.earlier(node)
            everyone = pa.array([unit for group in ready for unit in keys[group.key]], pa.string())
            tables = {n: _of_units(t, everyone, columns.get(n, "")) for n, t in tables.items()}
            parts = []
            for group in ready:
                members = pa.array(keys[group.key], pa.string())
                own = {n: _of_units(t, members, columns.get(n, "")) for n, t in tables.items()}
                result = job.run(own).cast(job.writes)
                if not result.num_rows:
                    raise RuntimeError(
                        f"{node.name} gave no row for a group; it must say of each unit whether it passes"
                    )
                parts.append(result.append_column("mark", pa.repeat(pa.scalar(group.mark), result.num_rows)))
            whole = pa.concat_tables(parts)
            return whole.append_column("run_id", pa.repeat(pa.scalar(self.run_id), whole.num_rows))

        result = self._timed(node, decide)
        self.catalog.commit_table(node.name, node.fingerprint, result, f"groups-{uuid.uuid4().hex}")
        with self._lock:
            self._stale = True

    def _timed(self, node: Node, work: Callable[[Job[Any]], pa.Table]) -> pa.Table:
        """What a job makes; its time is spent, and progress hears of it."""
        ref = self.plan.refs[node.name]
        cls = load_class(ref.use, ref.name)
        assert issubclass(cls, Job)
        clock, cpu = time.monotonic(), time.process_time()
        made = self._leavable(ref, lambda space: work(cls(ref.config, space, ref.name)))
        result = made if node.per else made.cast(cls.writes_of(ref.config))
        self.spent["core_seconds"] += time.process_time() - cpu
        if self._listener:
            self._listener(node.name, {"status": "ok", "rows": result.num_rows, "seconds": time.monotonic() - clock})
        return result

    def _leavable(self, ref: StepRef, work: Callable[[Workspace], pa.Table]) -> pa.Table:
        """A job that has asked whether to stop ends by itself, and keeps what it has; any other is left after a stop.

        Raises Stopped where it was left.
        """
        asks = threading.Event()

        def must_stop() -> bool:
            asks.set()
            return self.stop.is_set()

        threads = max(1, int(ref.resources.cpus))
        space = Workspace(self.catalog.storage, threads, must_stop, self.executor.launch)
        thread = LeavableThread(ref.name)
        self._job_at_work = (ref.name, asks)
        try:
            return thread.call(lambda: work(space), self.stop, lambda: None if asks.is_set() else grace_of(self.stop))
        except Left:
            raise Stopped(self.stopped_because or "the run was stopped") from None
        finally:
            self._job_at_work = None
            thread.close()


def _of_units(table: pa.Table, members: pa.Array, column: str) -> pa.Table:
    """The rows of a table that belong to some units; all of one whose rows name no unit."""
    name = column or next((n for n in ("unit_id", "id") if n in table.column_names), "")
    if name not in table.column_names:
        return table
    return table.filter(pc.is_in(table.column(name), members))


def _carried(node: Node, work: Work) -> str:
    return digest({name: repr(work.row[name]) for name in node.carries})


def _for_steps(row: Row) -> Row:
    return {k: v for k, v in row.items() if k not in BOOKKEEPING}
