"""What a step is handed for one unit: the declared columns, and the rows that fill its ports.

The same rules stand as SQL in `stages.core.planning.survey_sql.Standing`, which plans millions of units at once; tests
hold one against the other.
"""

from __future__ import annotations

from typing import Any

from stages.core.identity import depends_key, join_parents
from stages.core.planning.plan import Binding, Node, Plan
from stages.core.running.executor import Work
from stages.core.step import Row

Item = dict[str, Any]


def is_there(value: Any) -> bool:
    """Whether a value of a unit counts for `when`: neither null nor empty; 0 and false do count."""
    return value is not None and (not isinstance(value, str | list | tuple | dict) or len(value) > 0)


def applies(plan: Plan, node: Node, item: Item) -> bool:
    """Whether a node makes a row of this unit."""
    if node.when and not any(is_there(item["unit"][c]) for c in node.when):
        return False
    return all(node_for_port(plan, node, b, item) is not None for b in node.ports if b.required)


def node_for_port(plan: Plan, node: Node, binding: Binding, item: Item) -> str | None:
    """The node whose row fills a port for this unit, None where none applies."""
    here = plan.phase_of(node.name).name
    for name in binding.nodes:
        if plan.phase_of(name).name == here:
            if applies(plan, plan.node(name), item):
                return name
        elif (row := item.get(name)) is not None and (binding.required or _is_ok(row)):
            return name  # what was let pass without a row that it can do without, goes on without it
    return None


def work_for(plan: Plan, node: Node, item: Item) -> Work | None:
    """What a step is to do for one unit; None where it does not apply, or a row that it needs is not there and ok."""
    if not applies(plan, node, item):
        return None
    rows: dict[str, Row | None] = {}
    for binding in node.ports:
        name = node_for_port(plan, node, binding, item)
        row = item.get(name) if name else None
        if name and not _is_ok(row):
            return None
        rows[binding.port] = row
    unit = item["unit"]
    parents = join_parents(row["id"] if row else None for row in rows.values())
    depends = unit[depends_key(node.depends)] if node.depends else ""
    columns = {c: unit[c] for c in (*node.depends, *node.carries)}
    return Work(parents, depends, 0, {**columns, **rows})


def _is_ok(row: Row | None) -> bool:
    """Child rows have no status: they are there because their parent is ok. A row without id never came."""
    return row is not None and row["id"] is not None and row.get("status", "ok") == "ok"
