"""What gates have decided: the table `decisions`, what a person should know of it, and asking a gate to decide anew."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from flows.render.gates import gates_of
from flows.render.reviews import login_name
from flows.words import command, counted
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.records import STORE_TABLE
from stages.core.planning.groups import key_sql
from stages.core.planning.plan import Node
from stages.core.planning.survey import Survey
from stages.core.step import WAITING, Row, StepRef
from stages.gate import REDECISION_SCHEMA, REDECISIONS, Gate

DECISIONS = pa.schema(
    [
        ("gate", pa.string()),
        ("group", pa.string()),
        ("take_id", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("status", pa.string()),
        ("promoted", pa.bool_()),
        ("reason", pa.string()),
        ("rank", pa.int64()),
        ("score", pa.float64()),
        ("inputs", pa.string()),
        ("run", pa.string()),
    ]
)
"""group: the values of `per` on which its takes agree. status: ok, rejected or waiting. rank: place by score, null
where the gate does not rank. inputs: the metrics that the score was made from, and the score, as JSON. run: the run
that decided."""


def gate_nodes(survey: Survey) -> list[Node]:
    """The gates of a plan whose takes are known."""
    return [n for n in survey.plan.of_kind(Gate.kind) if n.per and survey.units_known(survey.plan.phase_of(n.name))]


def decisions(survey: Survey) -> pa.Table:
    """One row per gate and take on which it has decided, as things stand now."""
    found = [_of_gate(survey, node) for node in gate_nodes(survey)]
    return pa.concat_tables(found).cast(DECISIONS) if found else DECISIONS.empty_table()


def _of_gate(survey: Survey, node: Node) -> pa.Table:
    units = f'"u_{survey.plan.phase_of(node.name).name}"'
    rows = survey.query(
        f"""SELECT '{node.name}' AS gate, {key_sql(node)} AS "group", u.id AS take_id, u.prompt AS prompt,
        u.seed AS seed, g.status AS status, g.status = 'ok' AS promoted, g.why AS reason, nullif(g.place, 0) AS rank,
        g.score AS score, g.measured AS inputs, g.run_id AS run
        FROM "v_{node.name}" g JOIN {units} u ON u.id = g.id ORDER BY u.position"""
    )
    groups = pa.array([_group_text(text) for text in rows.column("group").to_pylist()], pa.string())
    return rows.set_column(rows.column_names.index("group"), "group", groups)


def _group_text(key: str) -> str:
    """The group as people read it: `prompt: a red ball, width: 640`; for takes that are decided alone, nothing."""
    values: Row = json.loads(key)
    return ", ".join(f"{name}: {value}" for name, value in values.items() if name != "id")


def gate_lines(survey: Survey, store: str) -> list[str]:
    """What a person should know: how many takes each gate has let pass, where more did than it says, and what waits."""
    return [line for node in gate_nodes(survey) for line in _lines(survey, node, store)]


def _lines(survey: Survey, node: Node, store: str) -> list[str]:
    rows = survey.query(f'SELECT status, kept FROM "v_{node.name}"').to_pylist()
    if not rows:
        return []
    passed, kept = sum(r["status"] == "ok" for r in rows), sum(bool(r["kept"]) for r in rows)
    lines = [f"{node.name}: {passed:,} of {counted(len(rows), 'take')} promoted"]
    if kept:
        top = json.loads(node.config).get("top")
        lines.append(
            f"{node.name}: {kept:,} more than it would promote now{f' (top {top})' if top else ''}: what was promoted "
            "by an earlier decision stays so; the same command with --redecide decides anew"
        )
    if waiting := sum(r["status"] == WAITING for r in rows):
        lines.append(
            f"{node.name}: {counted(waiting, 'take')} {'waits' if waiting == 1 else 'wait'} for a review: look with "
            f"{command('review', store)}, or choose with {command('choose TAKE approve', store)} "
            f"({command('table decisions', store)} shows the ids); then run the same render command again"
        )
    return lines


def waiting_text(held: Mapping[str, int]) -> str:
    """How many takes wait for people, in one clause."""
    count = sum(held.values())
    verb = "waits" if count == 1 else "wait"
    return f"{counted(count, 'take')} {verb} for a review (at {', '.join(held)})"


def redecide(catalog: Catalog, steps: Mapping[str, StepRef], take_ids: list[str], who: str = "") -> int:
    """Have the gates among these steps decide anew on these takes, as if they had never decided; returns how many
    gates there are. What was made of takes that do not go on then stays in the store."""
    gates = gates_of(steps)
    who, at = who or login_name(), datetime.now(UTC)
    marks = sorted({Gate.settings_mark(ref.config) for ref in gates.values()})
    rows: list[Row] = [
        {"id": uuid.uuid4().hex, "take_id": take, "gate": mark, "who": who, "at": at}
        for take in take_ids
        for mark in marks
    ]
    catalog.commit(REDECISIONS, STORE_TABLE, rows, REDECISION_SCHEMA)
    return len(gates)
