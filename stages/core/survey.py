"""Reading a plan against a catalog: what is done, what is to do, and the tables that people see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.core.catalog import Catalog, connect, ledger_schema
from stages.core.config import load_class
from stages.core.identity import digest
from stages.core.plan import ROOT_UNITS, Node, Phase, Plan

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
    job is not named there, its result is looked up by the digest of its inputs as they are now."""

    def __init__(self, catalog: Catalog, plan: Plan, *, retry_errors: bool = False, jobs: Jobs | None = None) -> None:
        self.catalog, self.plan, self.retry_errors = catalog, plan, retry_errors
        self.sql = connect()
        self._jobs = dict(jobs or {})
        self._units: set[str] = set()
        self._add_roots()
        for phase in plan.phases:
            if not self._add_phase(phase):
                break

    # -- building the views ------------------------------------------------------------------------------------------

    def _add_roots(self) -> None:
        table = self.catalog.read_file(self.plan.roots)
        if table is None:
            raise FileNotFoundError(f"{self.plan.roots} is missing from {self.catalog.storage.url}")
        self.sql.register("roots", table)

    def _add_phase(self, phase: Phase) -> bool:
        """Views for one phase; False where its units are not known yet, because a job before it has not run."""
        source = "roots" if phase.units == ROOT_UNITS else _view(phase.units)
        if phase.units != ROOT_UNITS and not self._known(phase.units):
            return False
        self.sql.execute(f'CREATE TEMP VIEW "u_{phase.name}" AS SELECT * FROM {source} WHERE {phase.where}')
        self._units.add(phase.name)
        steps = [n for n in phase.nodes if not n.job]
        for node in steps:
            self._add_latest(node)
        self.sql.execute(f'CREATE TEMP VIEW "p_{phase.name}" AS {self._phase_sql(phase, steps)}')
        for node in steps:
            self._add_views(phase, node)
        for node in (n for n in phase.nodes if n.job):
            self._add_job(node)
        return True

    def _add_latest(self, node: Node) -> None:
        """The last attempt per input, and whether it is to be tried again."""
        paths = self.catalog.parts(node.name, node.fingerprint)
        if paths:
            source = self.catalog.scan(self.sql, paths)
        else:
            source = f"empty_{node.name}"
            self.sql.register(source, _empty(node))
        again = "true" if self.retry_errors else f"(error_kind = 'transient' AND attempt < {node.attempts})"
        self.sql.execute(
            f"CREATE TEMP VIEW \"l_{node.name}\" AS SELECT *, (status = 'error' AND {again}) AS retry FROM {source} "
            "QUALIFY row_number() OVER (PARTITION BY input_id, seed ORDER BY (status = 'ok') DESC, attempt DESC) = 1"
        )

    def _phase_sql(self, phase: Phase, steps: Sequence[Node]) -> str:
        """One row per unit: the unit, each node's row as a struct, and each node's state."""
        columns, joins = ["u.id AS unit_id", "u AS unit"], []
        for node in steps:
            row, before = f'"l_{node.name}"', node.after[0] if node.after else ""
            key = f'"l_{before}".id' if before else f'u."{node.key}"'
            seed = "u.seed" if node.seeded else "0"
            joins.append(f"LEFT JOIN {row} ON {row}.input_id = {key} AND {row}.seed = {seed}")
            blocked = " OR ".join(f'"blocked_{a}" OR ("set_{a}" AND NOT "ok_{a}")' for a in node.after) or "false"
            ready = " AND ".join(f'"ok_{a}"' for a in node.after) or "true"
            columns += [
                f'{row} AS "{node.name}"',
                f'{key} AS "key_{node.name}"',
                f"coalesce({row}.status = 'ok', false) AS \"ok_{node.name}\"",
                f'coalesce({row}.id IS NOT NULL AND NOT {row}.retry, false) AS "set_{node.name}"',
                f"coalesce({row}.id IS NOT NULL AND {row}.status = 'error', false) AS \"bad_{node.name}\"",
                f'({blocked}) AS "blocked_{node.name}"',
                f'(NOT "set_{node.name}" AND NOT "blocked_{node.name}" AND ({ready})) AS "todo_{node.name}"',
            ]
        return f'SELECT {", ".join(columns)} FROM "u_{phase.name}" u {" ".join(joins)}'

    def _add_views(self, phase: Phase, node: Node) -> None:
        """`v_<node>`: its rows within this plan, each once, with the unit they belong to."""
        name = f'"{node.name}"'
        rows = (
            f'SELECT min(unit_id) AS unit_id, any_value({name}) AS r FROM "p_{phase.name}" '
            f"WHERE {name}.id IS NOT NULL GROUP BY {name}.id"
        )
        self.sql.execute(f'CREATE TEMP VIEW "v_{node.name}" AS SELECT unit_id, unnest(r) FROM ({rows})')
        if node.fan_out:
            self.sql.execute(
                f'CREATE TEMP VIEW "x_{node.name}" AS SELECT unit_id, id AS parent_id, unnest(rows, max_depth := 2) '
                f"FROM \"v_{node.name}\" WHERE status = 'ok'"
            )

    def _add_job(self, node: Node) -> None:
        mark = self._jobs.get(node.name) or self.job_digest(node)
        path = f"{self.catalog.folder(node.name, node.fingerprint)}/job-{mark}.parquet"
        if mark and self.catalog.storage.exists(path):
            self._jobs[node.name] = mark
            source = self.catalog.scan(self.sql, [path])
            self.sql.execute(f'CREATE TEMP VIEW "v_{node.name}" AS SELECT * FROM {source}')
        else:
            self._jobs.pop(node.name, None)

    # -- questions ---------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> bool:
        if name == ROOT_UNITS:
            return True
        node = self.plan.node(name)
        return name in self._jobs if node.job else self.plan.phase_of(name).name in self._units

    @property
    def jobs(self) -> dict[str, str]:
        """The jobs whose results are there: node -> digest of the inputs."""
        return dict(self._jobs)

    def job_inputs(self, node: Node) -> dict[str, str]:
        """The views that a job is given, by the name of the node that made them."""
        return {name: self.view(name) for name in node.after}

    def job_digest(self, node: Node) -> str:
        """The identity of a job's inputs, "" where they are not all known or some are still to do."""
        if not all(self._known(name) for name in node.after) or any(self._is_open(name) for name in node.after):
            return ""
        return digest([(name, *self._set_hash(name)) for name in node.after])

    def _is_open(self, name: str) -> bool:
        """Whether a job must still wait for a node: some unit has no row there, not even of a failed attempt."""
        if name == ROOT_UNITS or self.plan.node(name).job:
            return False
        phase = self.plan.phase_of(name)
        waits_for = {name}
        for node in reversed(phase.nodes):
            if node.name in waits_for:
                waits_for.update(node.after)
        untried = " OR ".join(f'("todo_{n}" AND "{n}".id IS NULL)' for n in sorted(waits_for))
        return bool(self._one(f'SELECT count(*) FROM "p_{phase.name}" WHERE {untried}')[0])

    def _set_hash(self, name: str) -> tuple[str, ...]:
        """A hash of a set of rows that does not depend on their order, computed where the rows are."""
        if name == ROOT_UNITS:
            return (self.plan.roots,)
        node = self.plan.node(name)
        if node.job:
            return (self._jobs[node.name],)
        text = "id || '/' || status"
        row = self._one(
            f"SELECT count(*), sum(md5_number_lower({text})::HUGEINT), bit_xor(md5_number_upper({text})) "
            f'FROM "v_{node.name}"'
        )
        return tuple(str(v) for v in row)

    def count(self, name: str) -> Count:
        """How one node stands. Units that share a row count once."""
        node, phase = self.plan.node(name), self.plan.phase_of(name)
        if node.job:
            return Count(*((1, 0, 0, 0) if name in self._jobs else (0, 1, 0, 0)))
        if phase.name not in self._units:
            return Count(0, 0, 0, 0)
        what = "*" if node.after else f'DISTINCT "key_{name}"'
        row = self._one(
            f"""SELECT count({what}) FILTER ("set_{name}" AND NOT "bad_{name}"), count({what}) FILTER ("todo_{name}"),
                count({what}) FILTER (NOT "set_{name}" AND NOT "blocked_{name}" AND NOT "todo_{name}"),
                count({what}) FILTER ("set_{name}" AND "bad_{name}") FROM "p_{phase.name}" """
        )
        return Count(*row)

    def counts(self) -> dict[str, Count]:
        """How every node stands, in the plan's order."""
        return {node.name: self.count(node.name) for node in self.plan.nodes}

    def units_known(self, phase: Phase) -> bool:
        """Whether the units of a phase can be listed already."""
        return phase.name in self._units

    def items(self, phase: Phase, *, unsettled: bool = True) -> list[Item]:
        """The units of a phase with the rows they have, in order; only those with work left, or all."""
        steps = [n for n in phase.nodes if not n.job]
        left = " OR ".join(f'NOT ("set_{n.name}" OR "blocked_{n.name}")' for n in steps) or "false"
        names = ", ".join(["unit", *(f'"{n.name}"' for n in steps)])
        order = "unit.position" if self._has_column(phase, "position") else "unit_id"
        query = f'SELECT {names} FROM "p_{phase.name}" WHERE {left if unsettled else "true"} ORDER BY {order}'
        return [{k: _row_or_none(v) for k, v in item.items()} for item in self._arrow(query).to_pylist()]

    def _has_column(self, phase: Phase, column: str) -> bool:
        described = self.sql.execute(f'DESCRIBE "u_{phase.name}"').fetchall()
        return any(name == column for name, *_ in described)

    def view(self, name: str) -> str:
        """The SQL name of a node's rows: child rows where it fans out. Raises KeyError where they are not known."""
        if not self._known(name):
            raise KeyError(name)
        if name == ROOT_UNITS:
            return ROOT_UNITS
        return _view(name) if not self.plan.node(name).fan_out else f'"x_{name}"'

    def table(self, name: str) -> pa.Table:
        """A node's rows as a table."""
        return self._arrow(f"SELECT * FROM {self.view(name)}")

    def _one(self, query: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self.sql.execute(query).fetchall()[0]
        return found

    def _arrow(self, query: str) -> pa.Table:
        return self.sql.sql(query).to_arrow_table()


def _view(name: str) -> str:
    return f'"v_{name}"'


def _row_or_none(row: Any) -> Any:
    return row if row and row.get("id") is not None else None


def _empty(node: Node) -> pa.Table:
    """No rows, with the columns that they would have."""
    return ledger_schema(load_class(node.use, node.name).writes, node.fan_out).empty_table()
