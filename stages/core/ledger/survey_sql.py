"""The SQL of a survey, as text. Names: see `Survey`."""

from __future__ import annotations

from collections.abc import Sequence

from stages.core.ledger.catalog import BOOKKEEPING
from stages.core.ledger.plan import Node, Phase

STATUSES = ("ok", "rejected", "skipped", "error", "error")
OK, ERROR = 0, 3

_CODE = (
    "(CASE status WHEN 'ok' THEN 0 WHEN 'rejected' THEN 1 WHEN 'skipped' THEN 2 "
    "ELSE CASE error_kind WHEN 'transient' THEN 3 ELSE 4 END END)::UTINYINT"
)
RETRY = ("none", "transient", "all")
"""Which errors are to be tried again: none, as for a job that takes things as they are; transient ones, as many times
as their step allows; or all."""

_BEST = "(status = 'ok') DESC, attempt DESC, started"


def again(node: Node, retry: str) -> str:
    """Whether a ledger row is to be tried again, where `retry` is one of RETRY."""
    tries = {"none": "false", "transient": f"(error_kind = 'transient' AND attempt < {node.attempts})", "all": "true"}
    return f"(status = 'error' AND {tries[retry]})"


def narrow(node: Node, source: str, retry: str, repeated: bool) -> str:
    """Identity and standing of each row; where rows are repeated, of the best attempt: an ok one, else the last.

    Rows of one id are attempts at the same thing, so that grouping by the id alone is grouping by input and seed. Code
    and retry are packed below the order, so that one maximum finds all three.
    """
    code, tried = _CODE, again(node, retry)
    if not repeated:
        return f"SELECT id, input_id, seed, {code} AS code, {tried} AS retry FROM {source}"
    rank = f"(((status = 'ok')::BIGINT << 40) | (attempt::BIGINT << 8) | ({code}::BIGINT << 1) | {tried}::BIGINT)"
    return (
        "SELECT id, input_id, seed, ((rank >> 1) & 127)::UTINYINT AS code, (rank & 1) = 1 AS retry "
        f"FROM (SELECT id, any_value(input_id) AS input_id, any_value(seed) AS seed, max({rank}) AS rank "
        f"FROM {source} GROUP BY id)"
    )


def latest(node: Node, source: str, retry: str, repeated: bool) -> str:
    """The whole rows, each input once, with `retry`; the window costs, so it is left out where no id is repeated."""
    once = f" QUALIFY row_number() OVER (PARTITION BY id ORDER BY {_BEST}) = 1" if repeated else ""
    return f"SELECT *, {again(node, retry)} AS retry FROM {source}{once}"


def standing(phase: Phase, steps: Sequence[Node], order: str) -> str:
    """One narrow row per unit: per node its row's id, the code of its status, and what that means for the plan."""
    columns, joins = ["u.id AS unit_id", f"{order} AS unit_order"], []
    for node in steps:
        row, before = f'"n_{node.name}"', node.after[0] if node.after else ""
        key = f'"n_{before}".id' if before else f'u."{node.key}"'
        seed = "u.seed" if node.seeded else "0"
        joins.append(f"LEFT JOIN {row} ON {row}.input_id = {key} AND {row}.seed = {seed}")
        columns += _states(node, row)
        if group := _group(phase, node):
            columns.append(f'{group} AS "group_{node.name}"')
    return f'SELECT {", ".join(columns)} FROM "u_{phase.name}" u {" ".join(joins)}'


def _states(node: Node, row: str) -> list[str]:
    blocked = " OR ".join(f'"blocked_{a}" OR ("set_{a}" AND NOT "ok_{a}")' for a in node.after) or "false"
    ready = " AND ".join(f'"ok_{a}"' for a in node.after) or "true"
    return [
        f'{row}.id AS "id_{node.name}"',
        f'{row}.code AS "code_{node.name}"',
        f'coalesce({row}.code = {OK}, false) AS "ok_{node.name}"',
        f'coalesce(NOT {row}.retry, false) AS "set_{node.name}"',
        f'coalesce({row}.code >= {ERROR}, false) AS "bad_{node.name}"',
        f'({blocked}) AS "blocked_{node.name}"',
        f'(NOT "set_{node.name}" AND NOT "blocked_{node.name}" AND ({ready})) AS "todo_{node.name}"',
    ]


def _group(phase: Phase, node: Node) -> str:
    """What units must agree on to share a row of this node; "" where each has its own."""
    key, seeded = phase.shared_key(node.name)
    if key == "id":
        return ""
    return f"u.\"{key}\" || '/' || u.seed" if seeded else f'u."{key}"'


def counts(phase: Phase, steps: Sequence[Node]) -> str:
    """done, todo, waiting, failed of every node in one row; units that share a row count once."""
    columns = []
    for node in steps:
        name = node.name
        what = f'DISTINCT "group_{name}"' if phase.shared_key(name)[0] != "id" else "*"
        left = f'NOT "set_{name}" AND NOT "blocked_{name}"'
        columns += [
            f'count({what}) FILTER ("set_{name}" AND NOT "bad_{name}")',
            f'count({what}) FILTER ("todo_{name}")',
            f'count({what}) FILTER ({left} AND NOT "todo_{name}")',
            f'count({what}) FILTER ("set_{name}" AND "bad_{name}")',
        ]
    return f'SELECT {", ".join(columns)} FROM "s_{phase.name}"'


def for_steps(node: Node) -> str:
    """The rows as later steps are given them."""
    return f'SELECT * EXCLUDE ({", ".join(BOOKKEEPING)}) FROM "l_{node.name}"'


def units_with_rows(phase: Phase, steps: Sequence[Node], rows_of: str = "l") -> str:
    """One row per unit: its standing, the unit as a struct, and each node's whole row as a struct."""
    rows = "".join(f', "{rows_of}_{n.name}" AS "{n.name}"' for n in steps)
    joins = " ".join(f'LEFT JOIN "{rows_of}_{n.name}" ON "{rows_of}_{n.name}".id = s."id_{n.name}"' for n in steps)
    return f'SELECT s.*, u AS unit{rows} FROM "s_{phase.name}" s JOIN "u_{phase.name}" u ON u.id = s.unit_id {joins}'


def members(phase: Phase, node: Node) -> str:
    """(unit_id, id) of a node's rows within the plan, each row once."""
    name = f'"id_{node.name}"'
    if phase.shared_key(node.name)[0] == "id":
        return f'SELECT unit_id, {name} AS id FROM "s_{phase.name}" WHERE {name} IS NOT NULL'
    return (
        f'SELECT min(unit_id) AS unit_id, {name} AS id FROM "s_{phase.name}" WHERE {name} IS NOT NULL GROUP BY {name}'
    )


def set_hash(phase: Phase, node: Node) -> str:
    """A hash of a set of rows and their statuses that does not depend on their order."""
    status = " ".join(f"WHEN {code} THEN '{text}'" for code, text in enumerate(STATUSES))
    rows = (
        f'SELECT DISTINCT "id_{node.name}" || \'/\' || CASE "code_{node.name}" {status} END AS t '
        f'FROM "s_{phase.name}" WHERE "id_{node.name}" IS NOT NULL'
    )
    return f"SELECT count(*), sum(md5_number_lower(t)::HUGEINT), bit_xor(md5_number_upper(t)) FROM ({rows})"
