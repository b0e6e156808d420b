"""The SQL views over a plan's units and rows, on which a survey stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from stages.core.config import load_class
from stages.core.identity import depends_key
from stages.core.ledger.catalog import LISTINGS, NO_ROWS, Catalog, connect, has_vanished, ledger_schema, with_depends
from stages.core.ledger.records import STORE_TABLE
from stages.core.planning import survey_sql
from stages.core.planning.groups import Groups
from stages.core.planning.plan import OWN_UNITS, ROOT_UNITS, Node, Phase, Plan

T = TypeVar("T")
Jobs = Mapping[str, str]


@dataclass(frozen=True)
class Count:
    """How a node stands: rows done, ready to do, waiting for an earlier node, and failed for good."""

    done: int
    todo: int
    waiting: int
    failed: int


class SurveyViews:
    """The state of a survey, its DuckDB, and the views over what is there; see `stages.core.planning.survey.Survey`."""

    def __init__(self, catalog: Catalog, plan: Plan, retry: str, jobs: Jobs, run_id: str) -> None:
        self.catalog, self.plan, self.retry, self.run_id = catalog, plan, retry, run_id
        self.sql = connect()
        self.sql.execute("SET parquet_metadata_cache=true")  # parts never change, and are looked at again and again
        self._recorded = dict(jobs)
        self._jobs: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._groups: dict[str, Groups] = {}
        self._read: dict[str, Node] = {}
        self._results: dict[str, pa.Table] = {}
        self._phases: dict[str, Phase] = {}
        self._shared: dict[str, dict[str, bool]] = {}
        self._counts: dict[str, Count] = {}
        self._listed: dict[str, list[str]] = {}

    def _forget(self, phase: Phase) -> None:
        """What was read of a phase; its views are replaced when it is read again."""
        self._phases.pop(phase.name, None)
        self._shared.pop(phase.name, None)
        for node in phase.steps:
            self._read.pop(node.name, None)
            self._counts.pop(node.name, None)
        for node in phase.jobs:
            self._digests.pop(node.name, None)
        self._forget_jobs(phase)

    def _forget_jobs(self, phase: Phase) -> None:
        """What was read of the results of a phase's jobs, and the digests of inputs that are such results."""
        known: Sequence[dict[str, Any]] = (self._jobs, self._groups, self._results)
        for node, values in product(phase.jobs, known):
            values.pop(node.name, None)
        for node in phase.jobs:
            if any(self.plan.node(name).job for name in node.sources):
                self._digests.pop(node.name, None)

    def _is_new(self, nodes: Sequence[Node]) -> bool:
        """Whether other files lie in the folders of these nodes than at the last time, or in those of the tables of the
        store that they read."""
        new = False
        for folder in [(n.name, n.fingerprint) for n in nodes] + [(t, STORE_TABLE) for n in nodes for t, _ in n.tables]:
            listed = self.catalog.parts(*folder, prefix="")
            key = "/".join(folder)
            new |= self._listed.get(key) != listed
            self._listed[key] = listed
        return new

    def _add_roots(self) -> None:
        if not self.catalog.storage.exists(self.plan.roots):
            raise FileNotFoundError(f"{self.plan.roots} is missing from {self.catalog.storage.url}")
        self._distinct = self.catalog.distinct_keys(self.plan.roots)
        self._create_view(ROOT_UNITS, f"SELECT * FROM {self.catalog.scan(self.sql, [self.plan.roots])}")

    def _add_units(self, phase: Phase) -> None:
        """`u_<phase>`: the units with all their columns, and the ids of the units that they came from by level."""
        if phase.name == ROOT_UNITS:
            self._create_view(f"u_{ROOT_UNITS}", "SELECT * FROM roots")
            return
        before = self.plan.phase_of(phase.name)
        source, own = f'"u_{before.name}"', f'"v_{phase.name}"'
        names = self._columns(own)
        kept = [n for n in names if n not in ("id", "status", "reasons", "mark", "run_id")]
        ok = f"SELECT DISTINCT ON (id) * FROM {own} WHERE status = 'ok' ORDER BY ALL" if "status" in names else own
        verdict = f"(SELECT DISTINCT ON (id) * FROM ({ok}) ORDER BY ALL)" if "status" not in names else f"({ok})"
        if phase.units == OWN_UNITS:
            query = f"SELECT * FROM {verdict}"
            levels = "".join(f", NULL::VARCHAR AS level_{i}" for i in range(phase.level))
            self._create_view(f"u_{phase.name}", f"SELECT *{levels} FROM ({query})")
            return
        columns, joins = "", f"JOIN {source} u ON u.id = j.id"
        above = [f"level_{i}" for i in range(before.level)]
        if phase.units:
            child = f'"x_{phase.units}"'
            if self._has(f"count(*) > count(DISTINCT id) FROM {child}"):  # named by their content, they may come twice
                child = f"(SELECT DISTINCT ON (id) * FROM {child} ORDER BY id, unit_id)"
            joins = f"JOIN {child} x ON x.id = j.id JOIN {source} u ON u.id = x.unit_id"
            theirs = [n for n in self._columns(child) if n not in (*kept, "unit_id", "parent_id", "id")]
            columns = "".join(f', x."{n}"' for n in theirs)
            kept, columns = [*kept, *theirs], columns
            own_kept = [n for n in kept if n not in theirs]
            columns += f", u.id AS level_{before.level}"
        else:
            own_kept = kept
        taken = {*kept, "id", *above}
        rest = "".join(f', u."{n}"' for n in self._columns(source) if n not in taken and not n.startswith("depends_"))
        mine = "".join(f', j."{n}"' for n in own_kept)
        levels = "".join(f", u.{n}" for n in above)
        self._create_view(f"u_{phase.name}", f"SELECT j.id{mine}{columns}{levels}{rest} FROM {verdict} j {joins}")

    def _columns(self, view: str) -> list[str]:
        return [name for name, *_ in self._execute(f"DESCRIBE FROM {view}").fetchall()]

    def _create_view(self, name: str, query: str) -> None:
        self._execute(f'CREATE OR REPLACE TEMP VIEW "{name}" AS {query}')

    def _add_rows(self, node: Node, repeated: bool) -> None:
        """Views of the parts that are there now: `n_<node>`, identity and standing, and `l_<node>`, the whole rows."""
        self._read[node.name] = node
        source = self.catalog.rows(self.sql, node.name, node.fingerprint)
        if source == NO_ROWS:
            source = f'"empty_{node.name}"'
            self.sql.register(f"empty_{node.name}", _empty(node))
        tried = survey_sql.again(node, self.retry, self.run_id)
        narrow = survey_sql.narrow(node, source, tried, repeated)
        latest = survey_sql.latest(source, tried, repeated)
        self.sql.execute(f'CREATE OR REPLACE TEMP VIEW "n_{node.name}" AS {narrow}')
        self.sql.execute(f'CREATE OR REPLACE TEMP VIEW "l_{node.name}" AS {latest}')
        self.sql.execute(f'CREATE OR REPLACE TEMP VIEW "i_{node.name}" AS {survey_sql.for_steps(node)}')

    def _add_standing(self, phase: Phase) -> None:
        """`s_<phase>`: one narrow row per unit.

        Tried first as if no input had two rows: then every unit comes out once.
        """
        kinds = {name: kind for name, kind, *_ in self._execute(f'DESCRIBE "u_{phase.name}"').fetchall()}
        keys = self._add_keys(phase, set(kinds))
        order = "u.position" if "position" in kinds else "u.id"
        query = survey_sql.Standing(self.plan, phase, kinds).query(order, keys)
        self._write_standing(phase, query)
        if self._has(f'count(*) > count(DISTINCT unit_id) FROM "s_{phase.name}"'):
            for node in phase.steps:
                if self._has(f'count(*) > count(DISTINCT id) FROM "n_{node.name}"'):
                    self._again(lambda node=node: self._add_rows(node, repeated=True))  # type: ignore[misc]
            self._write_standing(phase, query)

    def _write_standing(self, phase: Phase, query: str) -> None:
        self._execute(f'CREATE OR REPLACE TEMP TABLE "s_{phase.name}" AS {query}')

    def _add_keys(self, phase: Phase, have: set[str]) -> str:
        """A table with the digests of what the phase's steps depend on, "" where the units carry them already."""
        missing = [s for s in phase.depends if depends_key(s) not in have]
        if not missing:
            return ""
        names = sorted({c for s in phase.depends for c in s})
        columns = ", ".join(f'"{c}"' for c in names)
        values = self.query(f'SELECT id AS unit_id, {columns} FROM "u_{phase.name}"')
        table = with_depends(values, phase.depends)
        self.sql.register(f"k_{phase.name}", table.select(["unit_id", *(depends_key(s) for s in phase.depends)]))
        return f"k_{phase.name}"

    def _add_views(self, phase: Phase, node: Node) -> None:
        """`v_<node>`: its rows within this plan, each once, with the unit they belong to."""
        members = survey_sql.members(phase, node)
        self._create_view(
            f"v_{node.name}", f'SELECT unit_id, l.* FROM ({members}) m JOIN "l_{node.name}" l ON l.id = m.id'
        )
        if not node.fan_out:
            return
        self._create_view(
            f"x_{node.name}",
            f"SELECT unit_id, id AS parent_id, unnest(rows, max_depth := 2) FROM \"v_{node.name}\" WHERE status = 'ok'",
        )
        for later in self.plan.phases:  # whose units are child rows, which this node's child rows may name
            key = self.plan.node(later.units).child_key if later.units not in ("", OWN_UNITS) else ""
            if key and key in self._columns(f'"x_{node.name}"'):
                self._create_view(f"c_{node.name}", f'SELECT "{key}" AS child_of, * FROM "x_{node.name}"')

    # -- asking ------------------------------------------------------------------------------------------------------

    def query(self, query: str, values: Sequence[Any] = ()) -> pa.Table:
        """The answer to SQL over the survey's views; values: those of its question marks. Use this and not `sql` for
        whole rows: parts that were compacted away since the survey was made are looked for again."""
        return self._again(lambda: self.sql.sql(query, params=list(values)).to_arrow_table())

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


def _empty(node: Node) -> pa.Table:
    """No rows, with the columns that they would have."""
    return ledger_schema(load_class(node.use, node.name).writes, node.fan_out).empty_table()
