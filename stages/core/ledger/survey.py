"""Reading a plan against a catalog: what is done, what is to do, and the tables that people see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from stages.core.config import load_class
from stages.core.identity import digest
from stages.core.ledger import survey_sql
from stages.core.ledger.catalog import LISTINGS, NO_ROWS, Catalog, connect, has_vanished, ledger_schema
from stages.core.ledger.plan import ROOT_UNITS, Node, Phase, Plan

T = TypeVar("T")
Jobs = Mapping[str, str]
Item = dict[str, Any]
"""One unit on its way through a phase: {"unit": {...}, "<node>": its ledger row or None, ...}."""


@dataclass(frozen=True)
class Count:
    """How a node stands: rows done, ready to do, waiting for an earlier node, and failed for good."""

    done: int
    todo: int
    waiting: int
    failed: int


class Survey:
    """One consistent reading of a plan. `jobs` names the results of jobs (node -> digest) of a finished run; where a
    job is not named there, its result is looked up by the digest of its inputs as they are now. `retry` says which
    errors count as still to do: `none`, `transient` or `all`.

    What is there is read once, narrowly, when the survey is made; whole rows are read when they are asked for. SQL for
    `query` may use, for a node and a phase: "v_<node>" its rows within the plan; "x_<node>" its child rows; "l_<node>"
    its rows whatever the plan, each once; "u_<phase>" the units; "p_<phase>" the units with their rows and states.
    """

    def __init__(self, catalog: Catalog, plan: Plan, *, retry: str = "transient", jobs: Jobs | None = None) -> None:
        self.catalog, self.plan, self.retry = catalog, plan, retry
        self.sql = connect()
        self._jobs = dict(jobs or {})
        self._read: dict[str, Node] = {}
        self._results: dict[str, pa.Table] = {}
        self._phases: dict[str, list[Node]] = {}
        self._counts: dict[str, Count] = {}
        self._add_roots()
        for phase in plan.phases:
            if not self._add_phase(phase):
                break

    # -- building the views ------------------------------------------------------------------------------------------

    def _add_roots(self) -> None:
        if not self.catalog.storage.exists(self.plan.roots):
            raise FileNotFoundError(f"{self.plan.roots} is missing from {self.catalog.storage.url}")
        self._create_view("roots", f"SELECT * FROM {self.catalog.scan(self.sql, [self.plan.roots])}")

    def _add_phase(self, phase: Phase) -> bool:
        """Tables and views for one phase; False where its units are not known yet, as a job before it has not run."""
        if phase.units != ROOT_UNITS and not self._known(phase.units):
            return False
        steps = [n for n in phase.nodes if not n.job]
        self._create_view(f"u_{phase.name}", f"SELECT * FROM {self._units(phase)} WHERE {phase.where}")
        for node in steps:
            self._again(lambda node=node: self._add_rows(node, repeated=False))  # type: ignore[misc]
        self._add_standing(phase, steps)
        self._create_view(f"p_{phase.name}", survey_sql.units_with_rows(phase, steps))
        self._phases[phase.name] = steps
        for node in steps:
            self._add_views(phase, node)
        for node in (n for n in phase.nodes if n.job):
            self._add_job(node)
        return True

    def _units(self, phase: Phase) -> str:
        return "roots" if phase.units == ROOT_UNITS else self.view(phase.units)

    def _create_view(self, name: str, query: str) -> None:
        self._execute(f'CREATE OR REPLACE TEMP VIEW "{name}" AS {query}')

    def _add_rows(self, node: Node, repeated: bool) -> None:
        """Views of the parts that are there now: `n_<node>`, identity and standing, and `l_<node>`, the whole rows."""
        self._read[node.name] = node
        source = self.catalog.rows(self.sql, node.name, node.fingerprint)
        if source == NO_ROWS:
            source = f'"empty_{node.name}"'
            self.sql.register(f"empty_{node.name}", _empty(node))
        narrow = survey_sql.narrow(node, source, self.retry, repeated)
        latest = survey_sql.latest(node, source, self.retry, repeated)
        self.sql.execute(f'CREATE OR REPLACE TEMP VIEW "n_{node.name}" AS {narrow}')
        self.sql.execute(f'CREATE OR REPLACE TEMP VIEW "l_{node.name}" AS {latest}')
        self.sql.execute(f'CREATE OR REPLACE TEMP VIEW "i_{node.name}" AS {survey_sql.for_steps(node)}')

    def _add_standing(self, phase: Phase, steps: list[Node]) -> None:
        """`s_<phase>`: one narrow row per unit.

        Tried first as if no input had two rows, and no unit came twice: then as many rows come out as there are units.
        """
        if self._units(phase) != "roots" and self._has(f'count(*) > count(DISTINCT id) FROM "u_{phase.name}"'):
            once = f"SELECT DISTINCT ON (id) * FROM {self._units(phase)} WHERE {phase.where} ORDER BY ALL"
            self._create_view(f"u_{phase.name}", once)
        self._write_standing(phase, steps)
        if self._has(f'count(*) > (SELECT count(*) FROM "u_{phase.name}") FROM "s_{phase.name}"'):
            for node in steps:
                if self._has(f'count(*) > count(DISTINCT id) FROM "n_{node.name}"'):
                    self._again(lambda node=node: self._add_rows(node, repeated=True))  # type: ignore[misc]
            self._write_standing(phase, steps)

    def _write_standing(self, phase: Phase, steps: list[Node]) -> None:
        order = "u.position" if self._has_column(phase, "position") else "u.id"
        query = survey_sql.standing(phase, steps, order)
        self._execute(f'CREATE OR REPLACE TEMP TABLE "s_{phase.name}" AS {query}')

    def _add_views(self, phase: Phase, node: Node) -> None:
        """`v_<node>`: its rows within this plan, each once, with the unit they belong to."""
        members = survey_sql.members(phase, node)
        self._create_view(
            f"v_{node.name}", f'SELECT unit_id, l.* FROM ({members}) m JOIN "l_{node.name}" l ON l.id = m.id'
        )
        if node.fan_out:
            self._create_view(
                f"x_{node.name}",
                f'SELECT unit_id, id AS parent_id, unnest(rows, max_depth := 2) FROM "v_{node.name}" '
                "WHERE status = 'ok'",
            )

    def _add_job(self, node: Node) -> None:
        mark = self._jobs.get(node.name) or self.job_digest(node)
        path = f"{self.catalog.folder(node.name, node.fingerprint)}/job-{mark}.parquet"
        if mark and self.catalog.storage.exists(path):
            self._jobs[node.name] = mark
            self._create_view(f"v_{node.name}", f"SELECT * FROM {self.catalog.scan(self.sql, [path])}")
        else:
            self._jobs.pop(node.name, None)

    def look_again(self, job: Node) -> None:
        """Take note of a job's result that was committed since this survey was made."""
        self._add_job(job)

    def add_result(self, job: Node, mark: str, result: pa.Table) -> None:
        """Take note of a job's result that was committed just now, without reading it again."""
        self._jobs[job.name], self._results[job.name] = mark, result
        self.sql.register(f"result_{job.name}", result)
        self._create_view(f"v_{job.name}", f'SELECT * FROM "result_{job.name}"')

    # -- questions ---------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> bool:
        if name == ROOT_UNITS:
            return True
        node = self.plan.node(name)
        return name in self._jobs if node.job else self.plan.phase_of(name).name in self._phases

    @property
    def jobs(self) -> dict[str, str]:
        """The jobs whose results are there: node -> digest of the inputs."""
        return dict(self._jobs)

    def job_digest(self, node: Node) -> str:
        """The identity of a job's inputs, "" where they are not all known or some are still to do."""
        if not all(self._known(name) for name in node.after):
            return ""
        if any(c.todo or c.waiting for name in node.after if (c := self.count(name))):
            return ""
        return digest([(name, *self._set_hash(name)) for name in node.after])

    def _set_hash(self, name: str) -> tuple[str, ...]:
        if name == ROOT_UNITS:
            return (self.plan.roots,)
        node = self.plan.node(name)
        if node.job:
            return (node.fingerprint, self._jobs[node.name])  # the same inputs under other settings
        return tuple(str(v) for v in self._one(survey_sql.set_hash(self.plan.phase_of(node.name), node)))

    def count(self, name: str) -> Count:
        """How one node stands. Units that share a row count once."""
        if name == ROOT_UNITS:
            return Count(0, 0, 0, 0)
        node, phase = self.plan.node(name), self.plan.phase_of(name)
        if node.job:
            return Count(*((1, 0, 0, 0) if name in self._jobs else (0, 1, 0, 0)))
        if name not in self._counts and phase.name in self._phases:
            steps = self._phases[phase.name]
            row = self._one(survey_sql.counts(phase, steps))
            self._counts |= {n.name: Count(*row[4 * i : 4 * i + 4]) for i, n in enumerate(steps)}
        return self._counts.get(name, Count(0, 0, 0, 0))

    def counts(self) -> dict[str, Count]:
        """How every node stands, in the plan's order."""
        return {node.name: self.count(node.name) for node in self.plan.nodes}

    def units_known(self, phase: Phase) -> bool:
        """Whether the units of a phase can be listed already."""
        return phase.name in self._phases

    def items(self, phase: Phase, *, unsettled: bool = True) -> list[Item]:
        """The units of a phase with the rows they have (all columns but BOOKKEEPING), in order; only those with work
        left, or all."""
        steps = self._phases[phase.name]
        left = " OR ".join(f'NOT ("set_{n.name}" OR "blocked_{n.name}")' for n in steps) or "false"
        names = ", ".join(["unit", *(f'"{n.name}"' for n in steps)])
        condition = left if unsettled else "true"
        rows = survey_sql.units_with_rows(phase, steps, "i")
        query = f"SELECT {names} FROM ({rows}) WHERE {condition} ORDER BY unit_order, unit_id"
        return [{k: _row_or_none(v) for k, v in item.items()} for item in self.query(query).to_pylist()]

    def _has_column(self, phase: Phase, column: str) -> bool:
        described = self._execute(f'DESCRIBE "u_{phase.name}"').fetchall()
        return any(name == column for name, *_ in described)

    def view(self, name: str) -> str:
        """The SQL name of a node's rows: child rows where it fans out. Raises KeyError where they are not known."""
        if not self._known(name):
            raise KeyError(name)
        if name == ROOT_UNITS:
            return ROOT_UNITS
        return f'"v_{name}"' if not self.plan.node(name).fan_out else f'"x_{name}"'

    def table(self, name: str, columns: Sequence[str] = ()) -> pa.Table:
        """A node's rows as a table: all columns, or those of the given ones that there are."""
        view = self.view(name)
        if (known := self._results.get(name)) is not None:
            return known.select([c for c in known.column_names if c in columns] or known.column_names)
        there = [c for c, *_ in self._execute(f"DESCRIBE {view}").fetchall() if c in columns]
        names = ", ".join('"' + c + '"' for c in there)
        return self.query(f"SELECT {names or '*'} FROM {view}")

    def query(self, query: str) -> pa.Table:
        """The answer to SQL over the survey's views. Use this and not `sql` for whole rows: parts that were compacted
        away since the survey was made are looked for again."""
        return self._again(lambda: self.sql.sql(query).to_arrow_table())

    def _execute(self, query: str) -> duckdb.DuckDBPyConnection:
        return self._again(lambda: self.sql.execute(query))

    def _again(self, ask: Callable[[], T]) -> T:
        for _ in range(LISTINGS):
            try:
                return ask()
            except duckdb.IOException as error:
                if not has_vanished(error):
                    raise
            self._list_again()
        return ask()

    def _list_again(self) -> None:
        """Every row that was there when the survey was made is also in the parts that are there now."""
        try:
            for node in list(self._read.values()):
                self._add_rows(node, repeated=True)
        except duckdb.IOException as error:  # compacted once more: whoever asks will ask again
            if not has_vanished(error):
                raise

    def _one(self, query: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self._execute(query).fetchall()[0]
        return found

    def _has(self, question: str) -> bool:
        return bool(self._one(f"SELECT {question}")[0])


def _row_or_none(row: Any) -> Any:
    return row if row and row.get("id") is not None else None


def _empty(node: Node) -> pa.Table:
    """No rows, with the columns that they would have."""
    return ledger_schema(load_class(node.use, node.name).writes, node.fan_out).empty_table()
