"""The SQL of a survey, as text. Names: see `Survey`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.core.errors import ABSENT, TRANSIENT
from stages.core.identity import depends_key
from stages.core.ledger.catalog import BOOKKEEPING
from stages.core.planning.plan import Binding, Node, Phase, Plan

STATUSES = ("ok", "rejected", "skipped", "error", "error")
OK, ERROR = 0, 3
ONE_GROUP = "''"
"""The group of all units, as SQL: of a job that does not decide by group."""

_CODE = (
    "(CASE status WHEN 'ok' THEN 0 WHEN 'rejected' THEN 1 WHEN 'skipped' THEN 2 "
    "ELSE CASE error_kind WHEN 'permanent' THEN 4 ELSE 3 END END)::UTINYINT"
)
RETRY = ("none", "transient", "all")
"""Which errors are to be tried again: none, as for a job that takes things as they are; transient ones, as many times
as their step allows, and files that were absent, in every run; or all."""

_BEST = "(status = 'ok') DESC, attempt DESC, started"


def again(node: Node, retry: str, run_id: str = "") -> str:
    """Whether a ledger row is to be tried again, where `retry` is one of RETRY: what failed in the run `run_id` is not,
    while that run goes on."""
    transient = f"(error_kind = '{TRANSIENT}' AND attempt < {node.attempts} OR error_kind = '{ABSENT}')"
    tries = {"none": "false", "transient": transient, "all": "true"}
    other = f" AND run_id <> '{run_id}'" if run_id else ""
    return f"(status = 'error' AND {tries[retry]}{other})"


def narrow(node: Node, source: str, tried: str, repeated: bool) -> str:
    """Identity and standing of each row; where rows are repeated, of the best attempt: an ok one, else the last.
    tried: as `again` says.

    Rows of one id are attempts at the same thing, so that grouping by the id alone is grouping by what they are made
    of. Code and retry are packed below the order, so that one maximum finds all three.
    """
    code = _CODE
    if not repeated:
        return f"SELECT id, parents, depends, {code} AS code, {tried} AS retry FROM {source}"
    rank = f"(((status = 'ok')::BIGINT << 40) | (attempt::BIGINT << 8) | ({code}::BIGINT << 1) | {tried}::BIGINT)"
    return (
        "SELECT id, parents, depends, ((rank >> 1) & 127)::UTINYINT AS code, (rank & 1) = 1 AS retry "
        f"FROM (SELECT id, any_value(parents) AS parents, any_value(depends) AS depends, max({rank}) AS rank "
        f"FROM {source} GROUP BY id)"
    )


def latest(source: str, tried: str, repeated: bool) -> str:
    """The whole rows, each once, with `retry`; the window costs, so it is left out where no id is repeated."""
    once = f" QUALIFY row_number() OVER (PARTITION BY id ORDER BY {_BEST}) = 1" if repeated else ""
    return f"SELECT *, {tried} AS retry FROM {source}{once}"


@dataclass(frozen=True)
class _Fill:
    """One node that may fill a port, as SQL over what is joined. ok: whether its row is there and ok; "" for a node of
    the phase itself, whose standing has names."""

    applies: str
    id: str
    ok: str = ""


def _first(conditions: Sequence[str], values: Sequence[str], otherwise: str) -> str:
    """The value of the first node that applies, as SQL."""
    if conditions[0] == "true":
        return values[0]
    cases = " ".join(f"WHEN {condition} THEN {value}" for condition, value in zip(conditions, values, strict=True))
    return f"(CASE {cases} ELSE {otherwise} END)"


class Standing:
    """The query that says how every unit of a phase stands: per node its row's id, the code of its status, and what
    that means for the plan.

    kinds: the SQL type of each column of the units.
    """

    def __init__(self, plan: Plan, phase: Phase, kinds: Mapping[str, str]) -> None:
        self.plan, self.phase, self.kinds = plan, phase, kinds
        self.joins: list[str] = []
        self._joined: set[str] = set()
        self._of_earlier: dict[str, str] = {}

    def query(self, order: str, keys: str = "") -> str:
        """One narrow row per unit. keys: a table with the digests of the units' columns, where they lack them.

        What is joined gets its names in an inner query, for DuckDB puts the whole text of a name in its place, over and
        over where names stand on names.
        """
        columns = ["u.id AS unit_id", f"{order} AS unit_order"]
        columns += [f"u.level_{i} AS level_{i}" for i in range(self.phase.level)]
        if keys:
            self.joins.append(f'LEFT JOIN "{keys}" k ON k.unit_id = u.id')
        source = "k" if keys else "u"
        for node in self.phase.steps:
            row = f'"n_{node.name}"'
            conditions = []
            if node.ports:
                conditions.append(f"{row}.parents = {self.parents(node)}")
            if node.depends:
                conditions.append(f'{row}.depends = {source}."{depends_key(node.depends)}"')
            if (applies := self.applies(node)) != "true":
                conditions.append(applies)
            self.joins.append(f"LEFT JOIN {row} ON {' AND '.join(conditions) or 'true'}")
            columns += self._joined_states(node, row)
            columns.append(f'{self._share(node, source)} AS "share_{node.name}"')
        states = [state for node in self.phase.steps for state in self._states(node)]
        columns += [f"{value} AS {name}" for value, name in self._of_earlier.items()]
        inner = f'SELECT {", ".join(columns)} FROM "u_{self.phase.name}" u {" ".join(self.joins)}'
        without = f" EXCLUDE ({', '.join(names)})" if (names := list(self._of_earlier.values())) else ""
        return f"SELECT *{without}{''.join(f', {state}' for state in states)} FROM ({inner})"

    def applies(self, node: Node) -> str:
        """Whether a node of this phase makes a row of a unit."""
        conditions = []
        if node.when:
            conditions.append("(" + " OR ".join(self._there(c) for c in node.when) + ")")
        for binding in node.ports:
            if binding.required:
                any_of = [self._fill(name, binding).applies for name in binding.nodes]
                if "true" not in any_of:
                    conditions.append("(" + " OR ".join(any_of) + ")")
        return " AND ".join(dict.fromkeys(conditions)) or "true"

    def _there(self, column: str) -> str:
        """Whether a value is neither null nor empty."""
        name = f'u."{column}"'
        if self.kinds[column].endswith("[]"):
            return f"coalesce(len({name}) > 0, false)"
        return f"coalesce({name} <> '', false)" if self.kinds[column] == "VARCHAR" else f"{name} IS NOT NULL"

    def parents(self, node: Node) -> str:
        """The ids of the rows that fill a node's ports, joined as `stages.core.identity.join_parents` does; null while
        one of them is not there."""
        parts = [self._parent(b) for b in node.ports]
        while len(parts) > 1 and parts[-1] == "''":
            parts.pop()
        if len(parts) == 1:
            return parts[0]
        joined = " || '/' || ".join(parts)
        return f"rtrim({joined}, '/')"

    def _parent(self, binding: Binding) -> str:
        fills = [self._fill(name, binding) for name in binding.nodes]
        if not fills:
            return "''"
        return _first([f.applies for f in fills], [f.id for f in fills], "''")

    def _fill(self, name: str, binding: Binding) -> _Fill:
        node = self.plan.node(name)
        phase = self.plan.phase_of(name)
        if phase.name == self.phase.name:
            return _Fill(self.applies(node), f'"n_{name}".id')
        return self._earlier(node, phase, binding)

    def _earlier(self, node: Node, phase: Phase, binding: Binding) -> _Fill:
        """A row of an earlier phase: the unit's own, or that of the unit that it came from. What was let pass without a
        row that it can do without, goes on without it."""
        stand = f'"e_{phase.name}"'
        if phase.name not in self._joined:
            self._joined.add(phase.name)
            unit = unit_in(phase, self.phase)
            self.joins.insert(0, f'LEFT JOIN "s_{phase.name}" {stand} ON {stand}.unit_id = {unit}')
        applies, ok, row = (f'{stand}."{what}_{node.name}"' for what in ("applies", "ok", "id"))
        if binding.child:
            child = f'"c_{node.name}"'
            if node.name not in self._joined:
                self._joined.add(node.name)
                self.joins.append(f"LEFT JOIN {child} ON {child}.child_of = u.id AND {child}.parent_id = {row}")
            ok, row = f"({ok} AND {child}.id IS NOT NULL)", f"{child}.id"
            applies = f'({applies} AND ({child}.id IS NOT NULL OR NOT {stand}."ok_{node.name}"))'
        if not binding.required:
            applies = f"({applies} AND {ok})"
        return _Fill(applies, row, f"coalesce({ok}, false)")

    def _joined_states(self, node: Node, row: str) -> list[str]:
        name = node.name
        return [
            f'({self.applies(node)}) AS "applies_{name}"',
            f'{row}.id AS "id_{name}"',
            f'{row}.code AS "code_{name}"',
            f'coalesce({row}.code = {OK}, false) AS "ok_{name}"',
            f'coalesce(NOT {row}.retry, false) AS "set_{name}"',
            f'coalesce({row}.code >= {ERROR}, false) AS "bad_{name}"',
        ]

    def _states(self, node: Node) -> list[str]:
        """What follows from the names of what was joined."""
        name, blocked, ready = node.name, list[str](), list[str]()
        for binding in node.ports:
            if binding.nodes:
                applies, oks, blocks = zip(*(self._filled(n, binding) for n in binding.nodes), strict=True)
                blocked.append(_first(applies, blocks, "false"))
                ready.append(_first(applies, oks, "true"))
        return [
            f'({" OR ".join(blocked) or "false"}) AS "blocked_{name}"',
            f'("applies_{name}" AND NOT "set_{name}" AND NOT "blocked_{name}") AS "left_{name}"',
            f'("left_{name}" AND {" AND ".join(ready) or "true"}) AS "todo_{name}"',
        ]

    def _filled(self, name: str, binding: Binding) -> tuple[str, str, str]:
        """Whether a node fills a port, whether its row is ok, and whether no such row will come, by name."""
        fill = self._fill(name, binding)
        if not fill.ok:
            applies = fill.applies if fill.applies == "true" else f'"applies_{name}"'
            return applies, f'"ok_{name}"', f'("blocked_{name}" OR ("set_{name}" AND NOT "ok_{name}"))'
        applies, ok = (
            self._of_earlier.setdefault(value, f"earlier_{len(self._of_earlier)}") for value in (fill.applies, fill.ok)
        )
        return applies, ok, f"NOT {ok}"

    def _share(self, node: Node, source: str) -> str:
        """A number on which units agree that share a row of this node, or will: a hash of all that decides it. What a
        node depends on decides nothing where it does not apply, or where another node fills the port in its place."""
        parts, used = list[str](), {node.name: ["true"]}
        for one in reversed(self.phase.steps[: self.phase.steps.index(node) + 1]):  # what is read stands before
            if one.name not in used:
                continue
            in_use = _any(used[one.name]) if one is node else _all([_any(used[one.name]), self.applies(one)])
            parts.append(_where(in_use, f'{source}."{depends_key(one.depends)}"' if one.depends else "1"))
            for binding in one.ports:
                before = list[str]()
                for name in binding.nodes:
                    fill = self._fill(name, binding)
                    takes = _all([in_use, *(f"NOT {_any([b])}" for b in before)])
                    if fill.ok:
                        parts.append(_where(_all([takes, fill.applies]), fill.id))
                    else:
                        used.setdefault(name, []).append(takes)
                    before.append(fill.applies)
                    if fill.applies == "true":
                        break
        return f"hash({', '.join(dict.fromkeys(p for p in parts if p != '1')) or '0'})"


def _all(conditions: Sequence[str]) -> str:
    left = [c for c in dict.fromkeys(conditions) if c != "true"]
    return " AND ".join(f"({c})" if len(left) > 1 else c for c in left) or "true"


def _any(conditions: Sequence[str]) -> str:
    left = list(dict.fromkeys(conditions))
    return "true" if "true" in left else " OR ".join(f"({c})" for c in left)


def _where(condition: str, value: str) -> str:
    """A value as SQL, null where the condition does not hold."""
    return value if condition == "true" else f"CASE WHEN {condition} THEN {value} END"


def unit_in(earlier: Phase, phase: Phase, unit: str = "u.id", levels: str = "u") -> str:
    """The id of the unit of an earlier phase that a unit of this one is, or came from."""
    return unit if earlier.level == phase.level else f"{levels}.level_{earlier.level}"


def left(phase: Phase) -> str:
    """Whether a unit has work left in a phase."""
    return " OR ".join(f'"left_{n.name}"' for n in phase.steps) or "false"


def counts(phase: Phase, shared: Mapping[str, bool]) -> str:
    """done, todo, waiting, failed of every node in one row; units that share a row count once."""
    columns = []
    for node in phase.steps:
        name = node.name
        what = f'DISTINCT "share_{name}"' if shared[name] else "*"
        columns += [
            f'count({what}) FILTER ("applies_{name}" AND "set_{name}" AND NOT "bad_{name}")',
            f'count({what}) FILTER ("todo_{name}")',
            f'count({what}) FILTER ("left_{name}" AND NOT "todo_{name}")',
            f'count({what}) FILTER ("applies_{name}" AND "set_{name}" AND "bad_{name}")',
        ]
    return f'SELECT {", ".join(columns)} FROM "s_{phase.name}"'


def for_steps(node: Node) -> str:
    """The rows as later steps are handed them."""
    return f'SELECT * EXCLUDE ({", ".join(BOOKKEEPING)}) FROM "l_{node.name}"'


def units_with_rows(phase: Phase, rows_of: str = "l", extra: Sequence[tuple[str, str, str]] = ()) -> str:
    """One row per unit: its standing, the unit as a struct, and each node's whole row as a struct. extra: (node, view,
    condition) of rows of earlier phases."""
    steps = phase.steps
    rows = "".join(f', "{rows_of}_{n.name}" AS "{n.name}"' for n in steps)
    rows += "".join(f', {view} AS "{name}"' for name, view, _ in extra)
    joins = " ".join(f'LEFT JOIN "{rows_of}_{n.name}" ON "{rows_of}_{n.name}".id = s."id_{n.name}"' for n in steps)
    joins += " ".join(f" LEFT JOIN {view} ON {condition}" for _, view, condition in extra)
    return f'SELECT s.*, u AS unit{rows} FROM "s_{phase.name}" s JOIN "u_{phase.name}" u ON u.id = s.unit_id {joins}'


def members(phase: Phase, node: Node) -> str:
    """(unit_id, id) of a node's rows within the plan, each row once: with the first of the units that share it."""
    name = f'"id_{node.name}"'
    return (
        f'SELECT min(unit_id) AS unit_id, {name} AS id FROM "s_{phase.name}" WHERE {name} IS NOT NULL GROUP BY {name}'
    )


def standings(of: Phase, group: str, phase: Phase) -> str:
    """What stands in the phase `of`; where groups are told apart, with the units `u` of `phase` that it belongs to."""
    units = "" if group == ONE_GROUP else f' JOIN "u_{phase.name}" u ON s.unit_id = {unit_in(of, phase)}'
    return f'"s_{of.name}" s{units}'


def row_texts(of: Phase, node: Node, group: str, phase: Phase) -> str:
    """(group, text) of the rows of a node of the phase `of` and their statuses, each once in a group: what a job's
    digest is made of."""
    status = " ".join(f"WHEN {code} THEN '{text}'" for code, text in enumerate(STATUSES))
    return (
        f'SELECT DISTINCT {group} AS g, "id_{node.name}" || \'/\' || CASE "code_{node.name}" {status} END AS t '
        f'FROM {standings(of, group, phase)} WHERE "id_{node.name}" IS NOT NULL'
    )


def set_hashes(texts: str) -> str:
    """A hash for each group of a set of texts, whatever their order."""
    sums = "count(*) AS n, sum(md5_number_lower(t)::HUGEINT) AS a, bit_xor(md5_number_upper(t)) AS b"
    return f"SELECT g, {sums} FROM ({texts}) GROUP BY g"
