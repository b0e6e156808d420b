"""The results of jobs: found by the digest of what they read, whole or group by group; and what they are handed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from stages.core.config import load_class
from stages.core.identity import digest
from stages.core.ledger.catalog import NO_ROWS
from stages.core.ledger.records import STORE_TABLE
from stages.core.planning import survey_sql
from stages.core.planning.groups import Group, Groups, ended_sql, key_sql
from stages.core.planning.plan import OWN_UNITS, Binding, Node, Phase
from stages.core.planning.survey_standing import SurveyStanding
from stages.core.step import WAITING


class SurveyJobs(SurveyStanding):
    """What jobs have decided, and what they read; see `stages.core.planning.survey.Survey`."""

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
        waiting = f"SELECT DISTINCT mark FROM \"v_{node.name}\" WHERE status = '{WAITING}'"
        held = {m for (m,) in self._execute(waiting).fetchall()} if node.passes is not None and decided else set()
        self._groups[node.name] = groups.with_decided(decided, held)

    def _read_groups(self, job: Node) -> Groups:
        """The groups of the units that are known, as they stand."""
        phase = self.plan.phase_of(job.name)
        ended = self._execute(ended_sql(job, phase)).fetchall()
        marks = self.group_digests(job, key_sql(job))
        unfinished = self._open_groups(job, phase)
        whole = {g for g, _ in ended if unfinished is not None and g not in unfinished}
        return Groups(job, tuple(Group(g, marks[g], bool(done) and g in whole) for g, done in ended))

    def _open_groups(self, job: Node, phase: Phase) -> set[str] | None:
        """The groups that more units may join, as gates before have not decided on these, or wait for people; None
        where any group may grow."""
        found = set[str]()
        while not self.units_complete(phase):
            gate, before = self.plan.node(phase.name), self.plan.phase_of(phase.name)
            if not gate.per or gate.passes or not set(job.per) <= set(self._columns(f'"u_{before.name}"')):
                return None
            undecided = [g.key for g in self._groups[gate.name].all if not g.decided]
            self.sql.register(f"open_{gate.name}", pa.table({"g": pa.array(undecided, pa.string())}))
            held = f"SELECT id FROM \"v_{gate.name}\" WHERE status = '{WAITING}'"
            query = (
                f"SELECT DISTINCT {key_sql(job)} FROM {self._units(before)} "
                f'WHERE {key_sql(gate)} IN (SELECT g FROM "open_{gate.name}") OR u.id IN ({held})'
            )
            found |= {key for (key,) in self._execute(query).fetchall()}
            phase = before
        return found

    def groups(self, job: Node) -> Groups:
        """The groups that a job decides one by one."""
        return self._groups[job.name]

    def held(self) -> dict[str, int]:
        """job -> how many units wait for people before it decides on them."""
        found = {}
        for name in (n.name for n in self.plan.nodes if n.per and n.name in self._groups):
            if any(g.held for g in self._groups[name].all):
                query = f"SELECT count(DISTINCT id) FROM \"v_{name}\" WHERE status = '{WAITING}'"
                found[name] = int(self._one(query)[0])
        return found

    def earlier(self, job: Node) -> pa.Table:
        """The rows of all results that a job that decides by group has had in this store, with `mark` and `run_id`."""
        paths = self.catalog.parts(job.name, job.fingerprint, "groups-")
        return self.query(f"SELECT * FROM {self.catalog.scan(self.sql, paths)}") if paths else _empty_result(job)

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
        """The identity of a job's inputs, "" where they are not all known or some are still to do.

        As of the reading of the survey; tables of the store, which others write, are looked at each time.
        """
        if node.name in self._digests:
            return self._digests[node.name]
        if not all(self._complete(name) for name in node.sources):
            return ""
        phase = self.plan.phase_of(node.name)
        if node.units and (phase.name not in self._phases or not self._ended(phase)):
            return ""
        mark = self.group_digests(node, survey_sql.ONE_GROUP).get("", "")
        if mark and not node.tables:
            self._digests[node.name] = mark
        return mark

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
                text = f"'{one.fingerprint}/{self._job_mark(one)}'"
                add(name, f"SELECT {group} AS g, {text} AS t FROM {survey_sql.standings(phase, group, phase)}")
            else:
                of = self.plan.phase_of(name)
                mine = bool(node.per) and self._reaches(of, phase)
                add(name, survey_sql.row_texts(of, one, group if mine else survey_sql.ONE_GROUP, phase))
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

    # -- what jobs read ----------------------------------------------------------------------------------------------

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


def _empty_result(node: Node) -> pa.Table:
    writes = load_class(node.use, node.name).writes
    return pa.schema([*writes, ("mark", pa.string()), ("run_id", pa.string())]).empty_table()
