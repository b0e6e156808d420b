"""Where a thing came from and what was made of it: from a video back to its prompt, from a clip back to its source.

Any id is understood: of a row, of a child row, of a unit (a take, a source), of a job's row; or its first characters.
So is the sha256 of a file that a row has in the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from stages.core.errors import BadInput
from stages.core.ledger.catalog import NO_ROWS, RESULTS, ROOTS, Catalog, connect
from stages.core.ledger.records import RUNS
from stages.core.planning.plan import OWN_UNITS, ROOT_UNITS, Node, Phase, Plan
from stages.core.planning.survey import Survey
from stages.core.running.runs import runs_table
from stages.core.step import Row

SHORTEST, MANY = 6, 50
AMONG = "list_contains(string_split(parents, '/'), ?)"
CHILDREN = "(SELECT id AS parent_id, unnest(rows, max_depth := 2) FROM {} WHERE status = 'ok')"


@dataclass(frozen=True)
class Link:
    """One thing on the way. kind: `unit` (take, source), `row`, `child` (one of several rows) or `job`.

    attempts holds every attempt at a row, the best last; node is None for a unit of the run's roots. shared is how many
    units a row serves, where it serves several: the chain then begins at the first of them.
    """

    kind: str
    name: str
    id: str
    row: Row
    node: Node | None = None
    attempts: tuple[Row, ...] = ()
    shared: int = 1


@dataclass(frozen=True)
class Lineage:
    """above: from the root to the thing itself; below: what was made of it; run: the newest run that knows it."""

    id: str
    run: Row
    above: list[Link]
    below: list[Link] = field(default_factory=list)


def lineage(catalog: Catalog, wanted: str, unit: str = "") -> Lineage:
    """The chain of an id, or of the one id that begins so (six characters at least); else of the row that has a file
    with this sha256, which may be shortened in the same way. Raises BadInput.

    unit: the unit (a take) whose chain it is, where several share a row. Of each flow's runs the newest is read that
    knows the thing and a unit of it; later runs may know the step alone, with other units.
    """
    found = _Finder(catalog).find(wanted)
    traced: dict[str, tuple[_Place, Lineage]] = {}  # flow -> what its newest run that knows the thing says
    started: dict[str, Lineage] = {}  # flow -> what its newest run made of the thing, where it started from it
    for run in reversed(runs_table(catalog).to_pylist()):
        plan = Plan.from_json(run["plan"])
        places = [p for p in found if _knows(plan, p)]
        before = _closeness(traced.get(plan.flow), unit)
        if not places or before == _CLOSEST:
            continue
        tracer = _Tracer(catalog, Survey(catalog, plan, jobs=json.loads(run["jobs"])), unit)
        this = places[0], tracer.trace(places[0], run)
        if _closeness(this, unit) > before:
            traced[plan.flow] = this
        if places[-1].kind == "unit" and plan.flow not in started:
            started[plan.flow] = tracer.trace(places[-1], run)
    if not traced:
        raise BadInput(
            f"{found[0].id} is in the store, but no run there says how it was made; run the command that made it again"
        )
    return _joined(traced, started)


_CLOSEST = 3


def _closeness(found: tuple[_Place, Lineage] | None, unit: str) -> int:
    """How well a run knows a thing: not at all, its step alone, with a unit, with the unit that is meant. Of a job's
    row no run knows more than the newest: many a job has no units."""
    if found is None:
        return 0
    if found[0].kind == "job":
        return _CLOSEST
    first = next((link for link in found[1].above if link.kind == "unit"), None)
    if first is None:
        return 1
    return _CLOSEST if not unit or first.id == unit else 2


def _knows(plan: Plan, place: _Place) -> bool:
    return place.step == plan.roots or any((n.name, n.fingerprint) == place.key for n in plan.nodes)


def _joined(traced: Mapping[str, tuple[_Place, Lineage]], started: Mapping[str, Lineage]) -> Lineage:
    """What one flow made, another starts from: the chain of the flow that made the thing, then what all made of it."""
    flow = next((f for f, (place, _) in traced.items() if place.kind in ("row", "child")), next(iter(traced)))
    made = traced[flow][1]
    later = [link for other, found in started.items() if other != flow for link in found.below]
    return Lineage(made.id, made.run, made.above, [*made.below, *later])


@dataclass(frozen=True)
class _Place:
    """Where an id stands: in a step's folder, or in a file of roots (step is its path)."""

    kind: str
    id: str
    step: str
    fingerprint: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.step, self.fingerprint


class _Finder:
    def __init__(self, catalog: Catalog) -> None:
        self.catalog, self.sql = catalog, connect()

    def find(self, wanted: str) -> list[_Place]:
        """The places of one id, rows before children before results of jobs before units."""
        places = [*self._in_folders(wanted), *self._in_roots(wanted)]
        ids = sorted({p.id for p in places})
        if wanted in ids:
            ids = [wanted]
        if not ids and len(wanted) >= SHORTEST and (places := self._with_file(wanted)):
            ids = [places[0].id]
        if not ids:
            more = f"; give at least the first {SHORTEST} characters of an id that a table or a page shows"
            hint = more if len(wanted) < SHORTEST else ""
            raise BadInput(f"nothing in {self.catalog.storage.url} has the id {wanted!r}{hint}")
        if len(ids) > 1:
            raise BadInput(
                f"{wanted!r} is the beginning of {len(ids)} ids ({', '.join(ids[:3])}, ...); give more of it"
            )
        kinds = ("row", "child", "job", "unit")
        return sorted((p for p in places if p.id == ids[0]), key=lambda p: kinds.index(p.kind))

    def _in_roots(self, wanted: str) -> Iterator[_Place]:
        for info in self.catalog.storage.files(ROOTS):
            yield from self._ids("unit", wanted, self.catalog.scan(self.sql, [info.uri]), info.uri)

    def _with_file(self, wanted: str) -> list[_Place]:
        """The rows whose file in the store has this sha256: several, where they made the same bytes."""
        found: list[tuple[str, _Place]] = []
        for step, fingerprint in self.catalog.steps():
            look = partial(self._files_of, wanted, step, fingerprint)
            found += [] if step == RUNS else self.catalog.with_rows(self.sql, step, fingerprint, look)
        hashes = sorted({sha256 for sha256, _ in found})
        if len(hashes) > 1:
            raise BadInput(
                f"{wanted!r} is the beginning of the sha256 of {len(hashes)} files ({', '.join(hashes[:3])}, ...); "
                "give more of it"
            )
        return sorted((place for _, place in found), key=lambda p: p.id)

    def _files_of(self, wanted: str, step: str, fingerprint: str, source: str) -> list[tuple[str, _Place]]:
        if source == NO_ROWS or "sha256" not in self._columns(source) or "uri" not in self._columns(source):
            return []
        query = f"SELECT DISTINCT sha256, id FROM {source} WHERE status = 'ok' AND starts_with(sha256, ?) LIMIT {MANY}"
        return [(s, _Place("row", i, step, fingerprint)) for s, i in self.sql.execute(query, [wanted]).fetchall()]

    def _columns(self, source: str) -> list[str]:
        return [name for name, *_ in self.sql.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]

    def _in_folders(self, wanted: str) -> Iterator[_Place]:
        for step, fingerprint in self.catalog.steps():
            if step == RUNS:
                continue
            for path in (p for prefix in RESULTS for p in self.catalog.parts(step, fingerprint, prefix)):
                yield from self._ids("job", wanted, self.catalog.scan(self.sql, [path]), step, fingerprint)
            look = partial(self._in_rows, wanted, step, fingerprint)
            yield from self.catalog.with_rows(self.sql, step, fingerprint, look)

    def _in_rows(self, wanted: str, step: str, fingerprint: str, source: str) -> list[_Place]:
        if source == NO_ROWS:
            return []
        found = self._ids("row", wanted, source, step, fingerprint)
        if "rows" in self._columns(source):
            found += self._ids("child", wanted, CHILDREN.format(source), step, fingerprint)
        return found

    def _ids(self, kind: str, wanted: str, source: str, step: str, fingerprint: str = "") -> list[_Place]:
        same = "starts_with(id, ?)" if len(wanted) >= SHORTEST else "id = ?"
        ids = self.sql.execute(f"SELECT DISTINCT id FROM {source} WHERE {same} LIMIT {MANY}", [wanted]).fetchall()
        return [_Place(kind, found, step, fingerprint) for (found,) in ids]


class _Tracer:
    """Follows things through one run as its survey shows it; of a row that units share, up to `unit` if it is one."""

    def __init__(self, catalog: Catalog, survey: Survey, unit: str = "") -> None:
        self.catalog, self.survey, self.plan, self.unit = catalog, survey, survey.plan, unit

    def trace(self, place: _Place, run: Row) -> Lineage:
        """Up to the root and down to all that was made of it."""
        if place.kind == "unit":
            above = self._root(place.id)
        elif place.kind == "row":
            above = self._to_row(self.plan.node(place.step), place.id)
        elif place.kind == "child":
            above = self._to_child(self.plan.node(place.step), place.id)
        else:
            above = self._to_result(self.plan.node(place.step), place.id)
        above = list({(link.kind, link.name, link.id): link for link in above}.values())
        return Lineage(place.id, run, above, self._below(above[-1]) if above else [])

    # -- up ----------------------------------------------------------------------------------------------------------

    def _root(self, unit: str) -> list[Link]:
        rows = self._ask(f"SELECT * FROM {ROOT_UNITS} WHERE id = ?", unit)
        return [Link("unit", "start", unit, rows[0])] if rows else []

    def _to_row(self, node: Node, row_id: str) -> list[Link]:
        """The unit, the rows that fill the ports of the step and what these are made of, then the row itself."""
        link = self._row(node, row_id)
        if link is None:
            return []
        phase = self.plan.phase_of(node.name)
        links = list[Link]()
        if self.survey.units_known(phase):
            standing = f'FROM "s_{phase.name}" WHERE "id_{node.name}" = ?'
            order = "ORDER BY unit_id = ? DESC, unit_order, unit_id LIMIT 1"
            units = self._ask(f"SELECT unit_id {standing} {order}", row_id, self.unit)
            links = [link for u in units for link in self._to_unit(phase, u["unit_id"])]
            link = replace(link, shared=self._ask(f"SELECT count(*) AS n {standing}", row_id)[0]["n"])
        return [*links, *self._to_parents(node, link.row["parents"]), link]

    def _to_parents(self, node: Node, parents: str) -> list[Link]:
        links = list[Link]()
        for binding, parent in zip(node.ports, parents.split("/"), strict=False):
            for name in binding.nodes if parent else ():
                to = self._to_child if binding.child else self._to_row
                if found := to(self.plan.node(name), parent):
                    links += found
                    break
        return links

    def _to_unit(self, phase: Phase, unit: str) -> list[Link]:
        """From the root down to a unit of this phase."""
        return self._root(unit) if phase.name == ROOT_UNITS else self._to_result(self.plan.node(phase.name), unit)

    def _to_result(self, job: Node, row_id: str) -> list[Link]:
        """A job's row, and above it what it stands for: a unit, a child row, or a row of its id that it was given."""
        rows = self._ask(f'SELECT * FROM "v_{job.name}" WHERE id = ?', row_id) if self._has(job) else []
        if not rows:
            return []
        link = Link("job", job.name, row_id, rows[0], job)
        if job.passes == "":
            return [*self._to_unit(self.plan.phase_of(job.name), row_id), link]
        if job.passes and job.passes != OWN_UNITS:
            return [*self._to_child(self.plan.node(job.passes), row_id), link]
        for name in job.sources:
            source = self.plan.node(name)
            to = self._to_result if source.job else self._to_child if source.fan_out else self._to_row
            if above := to(source, row_id):
                return [*above, link]
        return [*self._to_unit(self.plan.phase_of(job.name), row_id), link] if job.units else [link]

    def _to_child(self, node: Node, child: str) -> list[Link]:
        row = self._child(node, child)
        if row is None:
            return []
        return [*self._to_row(node, row.pop("parent_id")), Link("child", node.name, child, row, node)]

    # -- down --------------------------------------------------------------------------------------------------------

    def _below(self, link: Link) -> list[Link]:
        """What was made of a thing, first things first, MANY at most. Of a unit, its own rows: other units may share
        some of them, and go on from there."""
        found: dict[tuple[str, str, str], Link] = {}
        own = link.kind == "unit"
        todo = list(self._next(link, own))
        while todo and len(found) < MANY:
            one = todo.pop(0)
            if (key := (one.kind, one.name, one.id)) not in found:
                found[key] = one
                todo = [*self._next(one, own), *todo]
        return list(found.values())

    def _next(self, link: Link, own: bool) -> Iterator[Link]:
        if link.kind == "row" and link.node is not None:
            for child in link.row.get("rows") or []:
                yield Link("child", link.name, child["id"], child, link.node)
            if not own:
                yield from self._made_of(link.node, link.id)
            return
        if link.kind == "child" and link.node is not None:
            yield from self._made_of(link.node, link.id)
        for phase in self.plan.phases:
            starts = link.node is None and phase.name == ROOT_UNITS
            passed = link.name == phase.name or (phase.units == link.name and link.kind == "child")
            if (starts or passed) and self.survey.units_known(phase):
                yield from self._made_for(phase, link.id)

    def _made_for(self, phase: Phase, unit: str) -> Iterator[Link]:
        """The rows of one unit of a phase, then what the job behind them said of it."""
        for node in phase.steps:
            for row in self._ask(f'SELECT "id_{node.name}" AS id FROM "s_{phase.name}" WHERE unit_id = ?', unit):
                yield from filter(None, [self._row(node, row["id"])]) if row["id"] else ()
        for job in phase.jobs:
            if job.passes == "" and self._has(job):
                for row in self._ask(f'SELECT * FROM "v_{job.name}" WHERE id = ?', unit):
                    yield Link("job", job.name, unit, row, job)

    def _made_of(self, node: Node, parent: str) -> Iterator[Link]:
        """The rows of those steps that were handed this row."""
        for later in (n for n in self.plan.nodes if not n.job and node.name in n.sources):
            if self.survey.units_known(self.plan.phase_of(later.name)):
                rows = self._ask(f'SELECT id FROM "n_{later.name}" WHERE {AMONG} LIMIT {MANY}', parent)
                yield from filter(None, (self._row(later, r["id"]) for r in rows))

    # -- reading -----------------------------------------------------------------------------------------------------

    def _has(self, job: Node) -> bool:
        phase = self.plan.phase_of(job.name)
        return self.survey.units_known(phase) and (bool(job.per) or job.name in self.survey.jobs)

    def _ask(self, query: str, *values: str) -> list[Row]:
        """The rows that answer SQL over the survey's views."""
        rows: list[Row] = self.survey.query(query, values).to_pylist()
        return rows

    def _row(self, node: Node, row_id: str) -> Link | None:
        """One row of a node with all its attempts, the best last; whatever the plan, as another unit may share it."""
        sql = connect()
        found: list[Row] = self.catalog.with_rows(
            sql,
            node.name,
            node.fingerprint,
            lambda source: (
                sql.sql(f"SELECT * FROM {source} WHERE id = ?", params=[row_id]).to_arrow_table().to_pylist()
            ),
        )
        if not found:
            return None
        once = {(row["status"] == "ok", row["attempt"], row["error"]): row for row in found}  # some are computed twice
        attempts = tuple(once[k] for k in sorted(once))
        return Link("row", node.name, row_id, attempts[-1], node, attempts)

    def _child(self, node: Node, child: str) -> Row | None:
        sql = connect()

        def first(source: str) -> list[Row]:
            if source == NO_ROWS:
                return []
            query = f"SELECT * FROM {CHILDREN.format(source)} WHERE id = ? ORDER BY parent_id LIMIT 1"
            rows: list[Row] = sql.sql(query, params=[child]).to_arrow_table().to_pylist()
            return rows

        return next(iter(self.catalog.with_rows(sql, node.name, node.fingerprint, first)), None)
