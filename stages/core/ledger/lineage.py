"""Where a thing came from and what was made of it: from a video back to its prompt, from a clip back to its source.

Any id is understood: of a row, of a child row, of a unit (a take, a source), of a job's row; or its first characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from stages.core.errors import BadInput
from stages.core.ledger.catalog import NO_ROWS, ROOTS, Catalog, connect
from stages.core.ledger.plan import ROOT_UNITS, Node, Phase, Plan
from stages.core.ledger.run import RUNS
from stages.core.ledger.runs import runs_table
from stages.core.step import Row

SHORTEST, MANY = 6, 50
CHILDREN = "(SELECT id AS parent_id, unnest(rows, max_depth := 2) FROM {} WHERE status = 'ok')"


@dataclass(frozen=True)
class Link:
    """One thing on the way. kind: `unit` (take, source), `row`, `child` (one of several rows) or `job`.

    attempts holds every attempt at a row, the best last; node is None for a unit of the run's roots.
    """

    kind: str
    name: str
    id: str
    row: Row
    node: Node | None = None
    attempts: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """above: from the root to the thing itself; below: what was made of it; run: the newest run that knows it."""

    id: str
    run: Row
    above: list[Link]
    below: list[Link] = field(default_factory=list)


def lineage(catalog: Catalog, wanted: str) -> Lineage:
    """The chain of an id, or of the one id that begins so (six characters at least). Raises BadInput."""
    found = _Finder(catalog).find(wanted)
    traced: dict[str, tuple[_Place, Lineage]] = {}  # flow -> what its newest run that knows the thing says
    started: dict[str, Lineage] = {}  # flow -> what its newest run made of the thing, where it started from it
    for run in reversed(runs_table(catalog).to_pylist()):
        plan = Plan.from_json(run["plan"])
        places = [p for p in found if _knows(plan, p)]
        if places and plan.flow not in traced:
            tracer = _Tracer(catalog, plan, json.loads(run["jobs"]))
            traced[plan.flow] = places[0], tracer.trace(places[0], run)
            if places[-1].kind == "unit":
                started[plan.flow] = tracer.trace(places[-1], run)
    if not traced:
        raise BadInput(f"{found[0].id} is in the store, but no run says how it was made")
    return _joined(traced, started)


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
        if not ids:
            hint = f"; give {SHORTEST} characters of it at least" if len(wanted) < SHORTEST else ""
            raise BadInput(f"nothing in {self.catalog.storage.url} has the id {wanted!r}{hint}")
        if len(ids) > 1:
            raise BadInput(f"{wanted!r} begins {len(ids)} ids ({', '.join(ids[:3])}, ...); give more of it")
        kinds = ("row", "child", "job", "unit")
        return sorted((p for p in places if p.id == ids[0]), key=lambda p: kinds.index(p.kind))

    def _in_roots(self, wanted: str) -> Iterator[_Place]:
        for info in self.catalog.storage.files(ROOTS):
            yield from self._ids("unit", wanted, self.catalog.scan(self.sql, [info.uri]), info.uri)

    def _in_folders(self, wanted: str) -> Iterator[_Place]:
        for step, fingerprint in self.catalog.steps():
            if step == RUNS:
                continue
            for path in self.catalog.parts(step, fingerprint, "job-"):
                yield from self._ids("job", wanted, self.catalog.scan(self.sql, [path]), step, fingerprint)
            look = partial(self._in_rows, wanted, step, fingerprint)
            yield from self.catalog.with_rows(self.sql, step, fingerprint, look)

    def _in_rows(self, wanted: str, step: str, fingerprint: str, source: str) -> list[_Place]:
        if source == NO_ROWS:
            return []
        found = self._ids("row", wanted, source, step, fingerprint)
        columns = [name for name, *_ in self.sql.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
        if "rows" in columns:
            found += self._ids("child", wanted, CHILDREN.format(source), step, fingerprint)
        return found

    def _ids(self, kind: str, wanted: str, source: str, step: str, fingerprint: str = "") -> list[_Place]:
        same = "starts_with(id, ?)" if len(wanted) >= SHORTEST else "id = ?"
        ids = self.sql.execute(f"SELECT DISTINCT id FROM {source} WHERE {same} LIMIT {MANY}", [wanted]).fetchall()
        return [_Place(kind, found, step, fingerprint) for (found,) in ids]


class _Tracer:
    def __init__(self, catalog: Catalog, plan: Plan, jobs: dict[str, str]) -> None:
        self.catalog, self.plan, self.jobs, self.sql = catalog, plan, jobs, connect()

    def trace(self, place: _Place, run: Row) -> Lineage:
        """Up to the root and down to all that was made of it."""
        if place.kind == "unit":
            here = self._unit_links("id", place.id, None, self._roots_phase())
        elif place.kind == "row":
            here = self._up_from_row(self.plan.node(place.step), place.id)
        else:
            here = self._up_from_unit(self.plan.node(place.step), "id", place.id, None)
        return Lineage(place.id, run, here, list(self._down(here[-1]))[:MANY] if here else [])

    # -- up ----------------------------------------------------------------------------------------------------------

    def _up_from_row(self, node: Node, row_id: str) -> list[Link]:
        """Through the nodes of its phase, then to the unit, and on to where the unit came from."""
        chain: list[Link] = []
        step: Node | None = node
        while step is not None:
            link = self._row(step, "id = ?", [row_id])
            if link is None:
                return chain
            chain.insert(0, link)
            row_id = link.row["input_id"]
            step = self.plan.node(step.after[0]) if step.after else None
        seed = next((link.row["seed"] for link in chain if link.node and link.node.seeded), None)
        first = chain[0].node
        assert first is not None
        return [*self._unit_links(first.key, row_id, seed, self.plan.phase_of(first.name)), *chain]

    def _unit_links(self, key: str, value: str, seed: int | None, phase: Phase) -> list[Link]:
        if phase.units != ROOT_UNITS:
            return self._up_from_unit(self.plan.node(phase.units), key, value, seed)
        source = self.catalog.scan(self.sql, [self.plan.roots])
        row = self._first(source, key, value, seed)
        return [Link("unit", phase.name, row["id"], row)] if row else []

    def _up_from_unit(self, node: Node, key: str, value: str, seed: int | None) -> list[Link]:
        """From a child row, a job's row or a plain row that was a unit, up to the root."""
        if node.job:
            return self._up_from_job(node, key, value, seed)
        if not node.fan_out:
            return self._up_from_row(node, value) if key == "id" else []
        row = self.catalog.with_rows(
            self.sql, *_folder(node), lambda source: self._first(CHILDREN.format(source), key, value, seed)
        )
        if row is None:
            return []
        return [*self._up_from_row(node, row.pop("parent_id")), Link("child", node.name, row["id"], row, node)]

    def _up_from_job(self, node: Node, key: str, value: str, seed: int | None) -> list[Link]:
        """A job's row, and above it the row of the same id that the job was given, if there is one."""
        row = None
        if mark := self.jobs.get(node.name):
            path = f"{self.catalog.folder(*_folder(node))}/job-{mark}.parquet"
            row = self._first(self.catalog.scan(self.sql, [path]), key, value, seed)
        if row is None:
            return []
        above = (self._up_from_input(name, row["id"]) for name in node.after)
        return [*next((links for links in above if links), []), Link("job", node.name, row["id"], row, node)]

    def _up_from_input(self, name: str, row_id: str) -> list[Link]:
        if name == ROOT_UNITS:
            return self._unit_links("id", row_id, None, self._roots_phase())
        return self._up_from_unit(self.plan.node(name), "id", row_id, None)

    # -- down --------------------------------------------------------------------------------------------------------

    def _down(self, link: Link, seed: int | None = None) -> Iterator[Link]:
        """What was made of a row in its phase, and of a unit in every phase that takes it. With a seed, only what
        carries it: a row that several units share leads to the rows of all of them."""
        if link.kind == "row" and link.node is not None:
            for row in link.row.get("rows") or []:
                yield Link("child", link.name, row["id"], row, link.node)
            for node in self.plan.phase_of(link.node.name).nodes:
                if not node.job and node.after[:1] == (link.node.name,):
                    yield from self._made_of(node, link.id, seed)
        for phase in self._phases_of(link):
            for node in phase.nodes:
                if not node.job and not node.after and node.key in link.row:
                    yield from self._made_of(node, link.row[node.key], link.row.get("seed"))

    def _made_of(self, node: Node, input_id: str, seed: int | None) -> Iterator[Link]:
        for link in self._rows(node, "input_id = ?", [input_id]):
            if seed is None or not node.seeded or link.row["seed"] == seed:
                yield link
                yield from self._down(link, seed)

    def _phases_of(self, link: Link) -> Iterator[Phase]:
        """The phases whose units this is one of."""
        return (phase for phase in self.plan.phases if self._is_unit_of(link, phase.units))

    def _is_unit_of(self, link: Link, units: str) -> bool:
        if link.node is None or units == ROOT_UNITS:
            return link.node is None and units == ROOT_UNITS
        if units == link.node.name:
            return link.kind != "row" or not link.node.fan_out
        return units in self.jobs and self._passed_on(link, self.plan.node(units))

    def _passed_on(self, link: Link, job: Node) -> bool:
        """Whether a job was given this thing and kept it."""
        return link.name in job.after and bool(self._up_from_job(job, "id", link.id, None))

    def _roots_phase(self) -> Phase:
        return next(p for p in self.plan.phases if p.units == ROOT_UNITS)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _row(self, node: Node, condition: str, values: Sequence[Any]) -> Link | None:
        return next(iter(self._rows(node, condition, values)), None)

    def _rows(self, node: Node, condition: str, values: Sequence[Any]) -> list[Link]:
        """The rows of a node that fit, each with all its attempts."""
        found = self.catalog.with_rows(self.sql, *_folder(node), lambda source: self._all(source, condition, values))
        by_id: dict[str, dict[tuple[Any, ...], Row]] = {}
        for row in found:  # rows computed twice agree in these
            by_id.setdefault(row["id"], {})[row["status"] == "ok", row["attempt"], row["error"]] = row
        links = []
        for key, rows in by_id.items():
            attempts = tuple(rows[k] for k in sorted(rows))
            links.append(Link("row", node.name, key, attempts[-1], node, attempts))
        return links[:MANY]

    def _all(self, source: str, condition: str, values: Sequence[Any]) -> list[Row]:
        if source == NO_ROWS:
            return []
        query = f"SELECT * FROM {source} WHERE {condition}"
        rows: list[Row] = self.sql.sql(query, params=list(values)).to_arrow_table().to_pylist()
        return rows

    def _first(self, source: str, key: str, value: str, seed: int | None) -> Row | None:
        if NO_ROWS in source:
            return None
        condition, values = (f'"{key}" = ?', [value]) if seed is None else (f'"{key}" = ? AND seed = ?', [value, seed])
        return next(iter(self._all(source, condition, values)), None)


def _folder(node: Node) -> tuple[str, str]:
    return node.name, node.fingerprint
