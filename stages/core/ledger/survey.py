"""Reading a plan against a catalog: what is done, what is to do, and the tables that people see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from stages.core.config import load_class
from stages.core.identity import depends_key, digest
from stages.core.ledger import survey_sql
from stages.core.ledger.catalog import (
    LISTINGS,
    NO_ROWS,
    Catalog,
    connect,
    has_vanished,
    ledger_schema,
    with_depends,
)
from stages.core.ledger.groups import Group, Groups, ended_sql, key_sql, within_groups_before
from stages.core.ledger.plan import OWN_UNITS, ROOT_UNITS, Binding, Node, Phase, Plan

T = TypeVar("T")
STORE_TABLE = "all"
"""The fingerprint of tables that no node makes, `runs` among them."""
Jobs = Mapping[str, str]
Item = dict[str, Any]
"""One unit on its way through a phase: {"unit": {...}, "<node>": its ledger row or None, ...}; with the rows of earlier
phases that its steps are handed."""


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
    errors count as still to do: `none`, `transient` or `all`; never those of the run `run_id`, which has tried them.

    What is there is read once, narrowly, when the survey is made; whole rows are read when they are asked for. SQL for
    `query` may use, for a node and a phase: "v_<node>" its rows within the plan; "x_<node>" its child rows; "l_<node>"
    its rows whatever the plan, each once; "u_<phase>" the units; "p_<phase>" the units with their rows and states.
    """

    def __init__(
        self, catalog: Catalog, plan: Plan, *, retry: str = "transient", jobs: Jobs | None = None, run_id: str = ""
    ) -> None:
        self.catalog, self.plan, self.retry, self.run_id = catalog, plan, retry, run_id
        self.sql = connect()
        self._recorded = dict(jobs or {})
        self.refresh()

    def refresh(self) -> None:
        """Read again what is there now."""
        self._jobs: dict[str, str] = {}
        self._groups: dict[str, Groups] = {}
        self._read: dict[str, Node] = {}
        self._results: dict[str, pa.Table] = {}
        self._phases: dict[str, Phase] = {}
        self._shared: dict[str, dict[str, bool]] = {}
        self._counts: dict[str, Count] = {}
        self._add_roots()
        for phase in self.plan.phases:
            if not self._add_phase(phase):
                break

    # -- building the views ------------------------------------------------------------------------------------------

    def _add_roots(self) -> None:
        if not self.catalog.storage.exists(self.plan.roots):
            raise FileNotFoundError(f"{self.plan.roots} is missing from {self.catalog.storage.url}")
        self._create_view(ROOT_UNITS, f"SELECT * FROM {self.catalog.scan(self.sql, [self.plan.roots])}")

    def _add_phase(self, phase: Phase) -> bool:
        """Tables and views for one phase; False where its units are not known yet, as a job before it has not run."""
        if phase.name != ROOT_UNITS and not self._known(phase.name):
            return False
        self._add_units(phase)
        for node in phase.steps:
            self._again(lambda node=node: self._add_rows(node, repeated=False))  # type: ignore[misc]
        self._add_standing(phase)
        self._create_view(f"p_{phase.name}", survey_sql.units_with_rows(phase))
        self._phases[phase.name] = phase
        for node in phase.steps:
            self._add_views(phase, node)
        for node in phase.jobs:
            self._add_job(node)
        return True

    def _add_units(self, phase: Phase) -> None:
        """`u_<phase>`: the units with all their columns, and the ids of the units that they came from by level."""
        if phase.name == ROOT_UNITS:
            self._create_view(f"u_{ROOT_UNITS}", "SELECT * FROM roots")
            return
        before = self.plan.phase_of(phase.name)
        source, own = f'"u_{before.name}"', f'"v_{phase.name}"'
        names = self._columns(own)
        kept = [n for n in names if n not in ("id", "status", "reasons", "mark")]
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

        Tried first as if no input had two rows: then as many rows come out as there are units.
        """
        kinds = {name: kind for name, kind, *_ in self._execute(f'DESCRIBE "u_{phase.name}"').fetchall()}
        keys = self._add_keys(phase, set(kinds))
        order = "u.position" if "position" in kinds else "u.id"
        query = survey_sql.Standing(self.plan, phase, kinds).query(order, keys)
        self._write_standing(phase, query)
        if self._has(f'count(*) > (SELECT count(*) FROM "u_{phase.name}") FROM "s_{phase.name}"'):
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

    # -- jobs --------------------------------------------------------------------------------------------------------

    def _add_job(self, node: Node) -> None:
        if node.per:
            self._add_groups(node)
            return
        mark = self._recorded.get(node.name) or self.job_digest(node)
        path = f"{self.catalog.folder(node.name, node.fingerprint)}/job-{mark}.parquet"
        if mark and self.catalog.storage.exists(path):
            self._jobs[node.name] = mark
            self._create_view(f"v_{node.name}", f"SELECT * FROM {self.catalog.scan(self.sql, [path])}")
        else:
            self._jobs.pop(node.name, None)

    def _add_groups(self, node: Node) -> None:
        """`v_<job>`: the rows of those groups that are decided as they are now."""
        known = all(self._known(name) for name in node.sources)
        groups = self._read_groups(node) if known else Groups(node, ())
        self._groups[node.name] = groups
        paths = self.catalog.parts(node.name, node.fingerprint, "groups-")
        self.sql.register(f"marks_{node.name}", pa.table({"mark": pa.array([g.mark for g in groups.all], pa.string())}))
        if paths:
            rows = f'{self.catalog.scan(self.sql, paths)} WHERE mark IN (SELECT mark FROM "marks_{node.name}")'
            decided = {m for (m,) in self._execute(f"SELECT DISTINCT mark FROM {rows}").fetchall()}
            self._create_view(f"v_{node.name}", f"SELECT DISTINCT ON (id, mark) * FROM {rows} ORDER BY ALL")
        else:
            self.sql.register(f"empty_{node.name}", _empty_result(node))
            decided = set()
            self._create_view(f"v_{node.name}", f'SELECT * FROM "empty_{node.name}"')
        self._groups[node.name] = groups.with_decided(decided)

    def _read_groups(self, job: Node) -> Groups:
        """The groups of the units that are known, as they stand."""
        phase = self.plan.phase_of(job.name)
        ended = self._execute(ended_sql(job, phase)).fetchall()
        marks = self.group_digests(job, key_sql(job))
        whole = self.units_complete(phase) or within_groups_before(job, self.plan.by_name.get(phase.name))
        return Groups(job, tuple(Group(g, marks[g], bool(done) and whole) for g, done in ended))

    def groups(self, job: Node) -> Groups:
        """The groups that a job decides one by one."""
        return self._groups[job.name]

    def look_again(self, job: Node) -> None:
        """Take note of a job's result that was committed since this survey was made."""
        self._recorded.pop(job.name, None)
        self._add_job(job)

    def add_result(self, job: Node, mark: str, result: pa.Table) -> None:
        """Take note of a job's result that was committed just now, without reading it again."""
        self._jobs[job.name], self._results[job.name] = mark, result
        self._recorded[job.name] = mark
        self.sql.register(f"result_{job.name}", result)
        self._create_view(f"v_{job.name}", f'SELECT * FROM "result_{job.name}"')

    @property
    def jobs(self) -> dict[str, str]:
        """The jobs over whole tables whose results are there: node -> digest of the inputs."""
        return dict(self._jobs)

    def job_digest(self, node: Node) -> str:
        """The identity of a job's inputs, "" where they are not all known or some are still to do."""
        if not all(self._complete(name) for name in node.sources):
            return ""
        phase = self.plan.phase_of(node.name)
        if node.units and (phase.name not in self._phases or not self._ended(phase)):
            return ""
        return self.group_digests(node, "''").get("", "")

    def group_digests(self, node: Node, group: str) -> dict[str, str]:
        """group -> the identity of a job's inputs of that group; group is SQL over the units `u` of its phase."""
        found: dict[str, list[Any]] = {}

        def add(name: str, texts: str) -> None:
            for g, *sums in self._execute(survey_sql.set_hashes(texts)).fetchall():
                found.setdefault(g, []).append([name, *map(str, sums)])

        phase = self.plan.phase_of(node.name)
        for name in dict.fromkeys(node.sources):
            one = self.plan.node(name)
            if one.job:
                add(
                    name,
                    f"SELECT {group} AS g, '{one.fingerprint}/{self._job_mark(one)}' AS t FROM {self._units(phase)}",
                )
            else:
                of = self.plan.phase_of(name)
                mine = bool(node.per) and self._reaches(of, phase)
                texts = (of, one, group, phase) if mine else (of, one, "''", of)
                add(name, survey_sql.row_texts(*texts))
        if node.units or node.per:
            values = ", ".join(f'"{c}" := u."{c}"' for c in ("id", *(c for c in node.units if c != "id")))
            add("units", f"SELECT {group} AS g, to_json(struct_pack({values}))::VARCHAR AS t FROM {self._units(phase)}")
        for table, column in node.tables:
            add(f"table:{table}", self._table_texts(table, column, group, phase))
        if not node.per and not found:
            found[""] = []
        return {g: digest(sorted(parts)) for g, parts in found.items()}

    def _table_texts(self, table: str, column: str, group: str, phase: Phase) -> str:
        """(group, text) of the rows of a table of the store: of each group its own, where a column names the unit."""
        source = self.catalog.rows(self.sql, table, STORE_TABLE)
        if source == NO_ROWS:
            return "SELECT '' AS g, '' AS t WHERE false"
        if column:
            rows = f'(SELECT "{column}" AS of_unit, to_json(r)::VARCHAR AS t FROM {source} r)'
            return f"SELECT {group} AS g, t FROM {self._units(phase)} JOIN {rows} ON of_unit = u.id"
        hashed = survey_sql.set_hashes(f"SELECT '' AS g, to_json(r)::VARCHAR AS t FROM {source} r")
        return f"SELECT {group} AS g, to_json(h)::VARCHAR AS t FROM {self._units(phase)}, ({hashed}) h"

    def _units(self, phase: Phase) -> str:
        return f'"u_{phase.name}" u'

    def _job_mark(self, job: Node) -> str:
        return self._jobs.get(job.name) or digest(sorted(g.mark for g in self._groups[job.name].all))

    # -- questions ---------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> bool:
        """Whether there is something to read of a node; of a job that decides by group, what it has decided so far."""
        if name == ROOT_UNITS:
            return True
        node = self.plan.node(name)
        if node.per:
            return name in self._groups
        return name in self._jobs if node.job else self.plan.phase_of(name).name in self._phases

    def _complete(self, name: str) -> bool:
        """Whether all rows of a node are there that this plan will ever have."""
        node = self.plan.node(name)
        if node.per:
            return name in self._groups and self._groups[name].complete and self._ended(self.plan.phase_of(name))
        if node.job:
            return name in self._jobs
        phase = self.plan.phase_of(name)
        if phase.name not in self._phases or not self.units_complete(phase):
            return False
        count = self.count(name)
        return not (count.todo or count.waiting)

    def _ended(self, phase: Phase) -> bool:
        return self.units_complete(phase) and not any(
            c.todo or c.waiting for n in phase.steps if (c := self.count(n.name))
        )

    def units_known(self, phase: Phase) -> bool:
        """Whether some units of a phase can be listed already."""
        return phase.name in self._phases

    def units_complete(self, phase: Phase) -> bool:
        """Whether all units of a phase are known."""
        return phase.name in self._phases and (phase.name == ROOT_UNITS or self._complete(phase.name))

    def shared(self, phase: Phase) -> dict[str, bool]:
        """Of each step of a phase, whether some units share a row of it."""
        if phase.name not in self._shared:
            columns = ", ".join(f'count(DISTINCT "share_{n.name}") < count(*)' for n in phase.steps)
            row = self._one(f'SELECT {columns} FROM "s_{phase.name}"') if phase.steps else ()
            self._shared[phase.name] = {n.name: bool(v) for n, v in zip(phase.steps, row, strict=True)}
        return self._shared[phase.name]

    def count(self, name: str) -> Count:
        """How one node stands. Units that share a row count once; a job counts its groups, or itself."""
        node, phase = self.plan.node(name), self.plan.phase_of(name)
        if node.per:
            groups = self._groups.get(name) or Groups(node, ())
            decided = sum(g.decided for g in groups.all)
            ready = sum(g.ended and not g.decided for g in groups.all)
            return Count(decided, ready, len(groups.all) - decided - ready, 0)
        if node.job:
            return Count(*((1, 0, 0, 0) if name in self._jobs else (0, 1, 0, 0)))
        if name not in self._counts and phase.name in self._phases:
            row = self._one(survey_sql.counts(phase, self.shared(phase)))
            self._counts |= {n.name: Count(*row[4 * i : 4 * i + 4]) for i, n in enumerate(phase.steps)}
        return self._counts.get(name, Count(0, 0, 0, 0))

    def counts(self) -> dict[str, Count]:
        """How every node stands, in the plan's order."""
        return {node.name: self.count(node.name) for node in self.plan.nodes}

    def items(self, phase: Phase, *, unsettled: bool = True) -> list[Item]:
        """The units of a phase with the rows they have (all columns but BOOKKEEPING) and those of earlier phases that
        they are handed, in order; only those with work left, or all. Of a unit come the columns that steps declare."""
        extra = self._earlier(phase)
        names = ", ".join(["unit", *(f'"{n.name}"' for n in phase.steps), *(f'"{name}"' for name, *_ in extra)])
        condition = survey_sql.left(phase) if unsettled else "true"
        rows = survey_sql.units_with_rows(phase, "i", extra)
        columns = self._columns(f'"u_{phase.name}"')
        keys = [depends_key(s) for s in phase.depends]
        wanted = [c for c in dict.fromkeys(("id", "position", *phase.columns)) if c in columns]
        unit = ", ".join(f'"{c}" := unit."{c}"' for c in wanted)
        held = {c for c in keys if c in columns}
        digests = "".join(f', "{c}" := ' + (f'unit."{c}"' if c in held else f'k."{c}"') for c in keys)
        join = "" if len(held) == len(keys) else f' LEFT JOIN "k_{phase.name}" k USING (unit_id)'
        query = (
            f"SELECT * REPLACE (struct_pack({unit}{digests}) AS unit) FROM (SELECT {names}, unit_id, unit_order "
            f"FROM ({rows}) WHERE {condition}){join} ORDER BY unit_order, unit_id"
        )
        found = self.query(query).drop_columns(["unit_order", "unit_id", *(keys if join else [])]).to_pylist()
        return [{k: _row_or_none(v) for k, v in item.items()} for item in found]

    def _earlier(self, phase: Phase) -> list[tuple[str, str, str]]:
        """(node, view, condition) of the rows of earlier phases that fill ports of this one."""
        found: list[tuple[str, str, str]] = []
        for binding in (b for n in phase.steps for b in n.ports):
            for name in binding.nodes:
                of = self.plan.phase_of(name)
                if of.name == phase.name or any(name == f[0] for f in found):
                    continue
                unit = survey_sql.unit_in(of, phase, "s.unit_id", "s")
                if binding.child:
                    rows = (
                        f'SELECT s.unit_id AS of_unit, z."applies_{name}" AND NOT z."ok_{name}" AS of_applies, r.* '
                        f'FROM "s_{phase.name}" s JOIN "s_{of.name}" z ON z.unit_id = {unit} '
                        f'LEFT JOIN "c_{name}" r ON r.child_of = s.unit_id'
                    )
                    unit = "s.unit_id"
                else:
                    rows = (
                        f'SELECT z.unit_id AS of_unit, z."applies_{name}" AS of_applies, r.* FROM "s_{of.name}" z '
                        f'LEFT JOIN "i_{name}" r ON r.id = z."id_{name}"'
                    )
                self._create_view(f"h_{name}", rows)
                found.append((name, f'"h_{name}"', f'"h_{name}".of_unit = {unit}'))
        return found

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
        there = [c for c in self._columns(view) if c in columns]
        names = ", ".join('"' + c + '"' for c in there)
        return self.query(f"SELECT {names or '*'} FROM {view}")

    def units(self, phase: Phase, columns: Sequence[str] = ()) -> pa.Table:
        """The units of a phase: `id`, and these columns of them, or all."""
        names = ", ".join(f'"{c}"' for c in dict.fromkeys(("id", *columns))) if columns else "*"
        return self.query(f'SELECT {names} FROM "u_{phase.name}" ORDER BY id')

    def group_keys(self, job: Node) -> dict[str, list[str]]:
        """group -> the ids of its units."""
        phase = self.plan.phase_of(job.name)
        rows = self._execute(f"SELECT {key_sql(job)}, list(u.id) FROM {self._units(phase)} GROUP BY 1").fetchall()
        return {key: ids for key, ids in rows}

    def inputs(self, job: Node, columns: Callable[[str], Sequence[str]]) -> dict[str, pa.Table]:
        """The tables that a job is handed, whole. columns: what it looks at of each, () for all.

        A job that decides on units or reads them gets a row for every unit, also where several share it; others get
        each row once.
        """
        phase, tables = self.plan.phase_of(job.name), dict[str, pa.Table]()
        for binding in job.ports:
            parts = [Binding(n, (n,)) for n in binding.nodes] if binding.many else [binding] if binding.nodes else []
            for part in parts:
                node = self.plan.node(part.nodes[0])
                mine = job.passes == "" or job.units or job.per
                if mine and not (node.job or node.fan_out) and self._reaches(self.plan.phase_of(node.name), phase):
                    tables[part.port] = self._rows_of_units(phase, part, columns(part.port))
                else:
                    tables[part.port] = self.table(part.nodes[0], columns(part.port))
        for name, _ in job.tables:
            tables[name] = self.catalog.with_rows(
                self.sql, name, STORE_TABLE, lambda source: self.sql.sql(f"SELECT * FROM {source}").to_arrow_table()
            )
        if job.units or job.per:
            tables["units"] = self.units(phase, (*job.units, *job.per))
        return tables

    def _rows_of_units(self, phase: Phase, binding: Binding, columns: Sequence[str]) -> pa.Table:
        """(unit_id, columns) of what fills a port, for the units of a phase: the row of the first of the binding's
        nodes that applies to a unit, or to the unit that it came from."""
        parts, before = list[str](), "true"
        earlier = {self.plan.phase_of(name).name: self.plan.phase_of(name) for name in binding.nodes}
        joins = " ".join(
            f'JOIN "s_{n}" "z_{n}" ON "z_{n}".unit_id = {survey_sql.unit_in(of, phase)}' for n, of in earlier.items()
        )
        for name in binding.nodes:
            standing = f'"z_{self.plan.phase_of(name).name}"'
            there = [c for c in self._columns(f'"l_{name}"') if c in columns] if columns else []
            chosen = ", ".join(f'l."{c}"' for c in there) or "l.*"
            parts.append(
                f"SELECT u.id AS unit_id, {chosen} FROM {self._units(phase)} {joins} "
                f'JOIN "l_{name}" l ON l.id = {standing}."id_{name}" WHERE {before}'
            )
            before += f' AND NOT {standing}."applies_{name}"'
        return self.query(" UNION ALL BY NAME ".join(parts))

    def _reaches(self, earlier: Phase, phase: Phase) -> bool:
        """Whether units of a phase are, or came from, units of an earlier one: no new units were made in between."""
        between = self.plan.phases[self.plan.phases.index(earlier) + 1 : self.plan.phases.index(phase) + 1]
        return all(p.units != OWN_UNITS for p in between)

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


def _row_or_none(row: Any) -> Any:
    """A struct that a join made, None where there was nothing to join. Of an earlier step that applies to a unit and
    has no row of it, a row without id stays: it is waited for in vain, and not passed over."""
    return row if row and (row.get("id") is not None or row.get("of_applies")) else None


def _empty(node: Node) -> pa.Table:
    """No rows, with the columns that they would have."""
    return ledger_schema(load_class(node.use, node.name).writes, node.fan_out).empty_table()


def _empty_result(node: Node) -> pa.Table:
    writes = load_class(node.use, node.name).writes
    return pa.schema([*writes, ("mark", pa.string())]).empty_table()


__all__ = ["Count", "Group", "Groups", "Item", "Survey"]
