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
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from stages.core.config import load_class
from stages.core.errors import Stopped
from stages.core.ledger.catalog import BOOKKEEPING, Catalog, ledger_schema
from stages.core.ledger.executor import Executor, Work
from stages.core.ledger.plan import Node, Plan
from stages.core.ledger.survey import Item, Survey
from stages.core.step import Job, Row, StepRef, Workspace

COMMIT_ROWS, COMMIT_SECONDS = 32, 5.0
RUNS, RUNS_FINGERPRINT = "runs", "all"

RUN_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("flow", pa.string()),
        ("status", pa.string()),
        ("started", pa.timestamp("us", tz="UTC")),
        ("ended", pa.timestamp("us", tz="UTC")),
        ("config", pa.string()),
        ("core_seconds", pa.float64()),
        ("gpu_seconds", pa.float64()),
        ("scope", pa.string()),
        ("plan", pa.string()),
        ("jobs", pa.string()),
        ("counts", pa.string()),
        ("error", pa.string()),
        ("host", pa.string()),
        ("pid", pa.int64()),
        ("versions", pa.string()),
    ]
)

Listener = Callable[[str, Row], None]
"""Told (node name, ledger row) for every row that is committed: progress, logs."""


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
    """What a run may spend: core-seconds and GPU-seconds of its rows, and seconds on the clock; 0 means no limit."""

    def __init__(self, core_seconds: float = 0, gpu_seconds: float = 0, wall_seconds: float = 0) -> None:
        self.limits = {"core_seconds": core_seconds, "gpu_seconds": gpu_seconds, "wall_seconds": wall_seconds}
        self._began = time.monotonic()

    def exceeded(self, spent: Mapping[str, float]) -> str:
        """The sentence that says which limit was reached, "" while there is some left."""
        now = {**spent, "wall_seconds": time.monotonic() - self._began}
        for name, limit in self.limits.items():
            if limit and now.get(name, 0.0) >= limit:
                return f"the budget of {limit:g} {name.replace('_', ' ')} is used up"
        return ""


class Run:
    """One run of a plan: does nodes for shards, commits what comes back, and writes its own row in `runs`.

    `do` may be called from many threads. Set `stop` to end early: what is done is committed, the rest stays to do.
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
    ) -> None:
        self.catalog, self.executor, self.plan = catalog, executor, plan
        self.run_id = run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self.stop = threading.Event()
        self.stopped_because = ""
        self.spent = {"core_seconds": 0.0, "gpu_seconds": 0.0}
        self.jobs: dict[str, str] = {}
        self._config, self._scope = json.dumps(dict(config or {}), default=str), scope
        self._budget, self._listener = budget or Budget(), listener
        self._lock = threading.Lock()
        self._survey: Survey | None = None
        self._in_flight: dict[tuple[str, str, int], threading.Event] = {}
        self._shared: dict[tuple[str, str, int], Row] = {}
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
            "jobs": json.dumps(self.jobs),
            "counts": json.dumps(counts),
            "error": error,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "versions": json.dumps(versions()),
            **self.spent,
        }
        self.catalog.commit(RUNS, RUNS_FINGERPRINT, [row], RUN_SCHEMA)

    # -- row-parallel nodes ------------------------------------------------------------------------------------------

    def do(self, node: Node, items: Sequence[Item]) -> list[Item]:
        """Bring these units past one node. Returns them with the node's rows filled in where there are any.

        Raises Stopped once the run is stopping, so that nothing behind this shard starts.
        """
        mine, theirs = self._claim(node, items)
        try:
            made = self._execute(node, mine)
        finally:
            self._let_go(node, mine)
        for key in theirs:
            self._wait_for(key)
        if self.stop.is_set():
            raise Stopped(self.stopped_because or "the run was stopped")
        return [self._with_row(node, item, made) for item in items]

    def _claim(self, node: Node, items: Sequence[Item]) -> tuple[list[Work], list[tuple[str, str, int]]]:
        """Split what is to do into what this call does and what another call is doing at this moment."""
        mine, theirs = [], []
        with self._lock:
            for item in items:
                if (work := _work(node, item)) is None:
                    continue
                key = (node.fingerprint, work.input_id, work.seed)
                if key in self._in_flight or key in self._shared:
                    theirs.append(key)
                else:
                    self._in_flight[key] = threading.Event()
                    mine.append(work)
        return mine, theirs

    def _let_go(self, node: Node, mine: Sequence[Work]) -> None:
        with self._lock:
            for work in mine:
                self._in_flight.pop((node.fingerprint, work.input_id, work.seed)).set()

    def _wait_for(self, key: tuple[str, str, int]) -> None:
        with self._lock:
            event = self._in_flight.get(key)
        while event and not event.wait(0.2) and not self.stop.is_set():
            pass

    def _execute(self, node: Node, work: Sequence[Work]) -> dict[tuple[str, int], Row]:
        """Run the work and commit what comes back: a part every few seconds or some tens of rows."""
        ref = self.plan.refs[node.name]
        schema = ledger_schema(load_class(ref.use, ref.name).writes, node.fan_out)
        made: dict[tuple[str, int], Row] = {}
        ready: list[Row] = []
        deadline = time.monotonic() + COMMIT_SECONDS
        try:
            for row in self._results(ref, work):
                made[row["input_id"], row["seed"]] = row
                ready.append({**row, "run_id": self.run_id})
                if len(ready) >= COMMIT_ROWS or time.monotonic() > deadline:
                    self._commit(node, ready, schema)
                    ready, deadline = [], time.monotonic() + COMMIT_SECONDS
        finally:
            self._commit(node, ready, schema)
        return made

    def _results(self, ref: StepRef, work: Sequence[Work]) -> Iterator[Row]:
        heft = getattr(load_class(ref.use, ref.name), "heft", "")  # jobs have none
        ordered = sorted(work, key=lambda w: -(w.row.get(heft) or 0)) if heft else work
        return self.executor.map(ref, ordered, self.stop) if work else iter(())

    def _commit(self, node: Node, rows: Sequence[Row], schema: pa.Schema) -> None:
        self.catalog.commit(node.name, node.fingerprint, rows, schema)
        with self._lock:
            self._survey = None
        key, by_seed = self.plan.phase_of(node.name).shared_key(node.name)
        shared = key != "id" and not by_seed  # other shards may hold units that want the same row
        with self._lock:
            for row in rows:
                if shared:
                    self._shared[node.fingerprint, row["input_id"], row["seed"]] = row
                for name in self.spent:
                    self.spent[name] += row.get(name) or 0.0
            reason = self._budget.exceeded(self.spent)
        if reason:
            self.ask_to_stop(reason)
        if self._listener:
            for row in rows:
                self._listener(node.name, row)

    def ask_to_stop(self, reason: str) -> None:
        """End the run soon: rows at work are finished or given up, nothing new starts."""
        self.stopped_because = self.stopped_because or reason
        self.stop.set()

    def _with_row(self, node: Node, item: Item, made: Mapping[tuple[str, int], Row]) -> Item:
        key = _key(node, item)
        row = made.get(key) or self._shared.get((node.fingerprint, *key)) if key else None
        return {**item, node.name: {**_for_steps(row), "retry": False}} if row else item

    # -- jobs --------------------------------------------------------------------------------------------------------

    def do_job(self, node: Node) -> None:
        """Do one whole-table job, unless its result for these inputs is there.

        Rows that failed are given to it as they stand: one bad row, even one to be tried again, stops nothing. Jobs
        behind it are looked up when their turn comes.
        """
        survey = self._survey_for(node)
        mark = survey.jobs.get(node.name, "")
        if not mark:
            mark = survey.job_digest(node)
            if not mark:
                raise Stopped(f"{node.name} cannot run: some of {', '.join(node.after)} are still to do")
            self._do_job(node, mark, survey)
        self.jobs = {**self.jobs, node.name: mark}

    def _survey_for(self, node: Node) -> Survey:
        """One survey serves the jobs of a phase, which follow each other; rows that are committed make it stale."""
        with self._lock:
            survey = self._survey
        if survey is None or not survey.units_known(self.plan.phase_of(node.name)):
            survey = Survey(self.catalog, self.plan, retry="none", jobs=self.jobs)
        elif node.name not in survey.jobs:
            survey.look_again(node)
        with self._lock:
            self._survey = survey
        return survey

    def _do_job(self, node: Node, mark: str, survey: Survey) -> None:
        ref = self.plan.refs[node.name]
        cls = load_class(ref.use, ref.name)
        assert issubclass(cls, Job)
        clock, cpu = time.monotonic(), time.process_time()
        launch = getattr(self.executor, "launch", None)
        job = cls(ref.config, Workspace(self.catalog.storage, stop=self.stop.is_set, launch=launch))
        result = job.run({name: survey.table(name, job.columns(name)) for name in node.after}).cast(cls.writes)
        self.catalog.commit_table(node.name, node.fingerprint, result, f"job-{mark}")
        survey.add_result(node, mark, result)
        self.spent["core_seconds"] += time.process_time() - cpu
        self._tell_job(node, result.num_rows, time.monotonic() - clock)

    def _tell_job(self, node: Node, rows: int, seconds: float) -> None:
        if self._listener:
            self._listener(node.name, {"status": "ok", "rows": rows, "seconds": seconds})


def _for_steps(row: Row) -> Row:
    return {k: v for k, v in row.items() if k not in BOOKKEEPING}


def _key(node: Node, item: Item) -> tuple[str, int] | None:
    """(input id, seed) of the row that a node makes of a unit; None where what it needs is not there."""
    if any((item.get(name) or {}).get("status") != "ok" for name in node.after):
        return None
    source = item[node.after[0]]["id"] if node.after else item["unit"][node.key]
    return str(source), int(item["unit"]["seed"]) if node.seeded else 0


def _work(node: Node, item: Item) -> Work | None:
    """What is to do for one unit at one node, None where it is done, failed for good, or not ready."""
    row, key = item.get(node.name), _key(node, item)
    if key is None or (row is not None and not row["retry"]):
        return None
    given = {name: item[name] for name in node.after}
    return Work(*key, attempt=row["attempt"] if row else 0, row={**item["unit"], **given})
