"""The kept clips that a publication could not cut, each with the reason."""

from __future__ import annotations

import pyarrow as pa

from flows.words import cause_text, command, span_text, told_apart
from stages.core.planning.plan import ROOT_UNITS
from stages.core.planning.survey import Survey

MOST = 10
COLUMNS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)


def uncut(survey: Survey) -> pa.Table:
    """One row per clip that is not in the dataset: status is error, or rejected where it does not fit the common
    form."""
    node = survey.plan.of_kind("cut")[-1]
    rows = survey.query(
        f"""SELECT r.clip_id, r.uri, r.start_s, r.end_s, c.status, c.error, c.reasons
        FROM "v_{node.name}" c JOIN {ROOT_UNITS} r ON r.id = c.unit_id WHERE c.status <> 'ok' ORDER BY r.position"""
    ).to_pylist()
    return pa.Table.from_pylist([{**row, "reason": cause_text(row)} for row in rows], COLUMNS)


def said(table: pa.Table, store: str) -> list[str]:
    """The same for a terminal: how many, and the first of them by name; store: its URL."""
    if not table.num_rows:
        return []
    rows = table.slice(0, MOST).to_pylist()
    count = "1 clip was" if table.num_rows == 1 else f"{table.num_rows} clips were"
    lines = [f"{count} not cut:"]
    names = told_apart(table["uri"].to_pylist())
    lines += [f"  {names[r['uri']]} {span_text(r['start_s'], r['end_s'])}: {r['reason']}" for r in rows]
    more = [f"  and {table.num_rows - MOST} more"] if table.num_rows > MOST else []
    return [*lines, *more, f"{command('table uncut', store)} has all of them"]
