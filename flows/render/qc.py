"""What QC says of the takes of a render: the table `qc`, and the sentences about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from flows.words import command, counted, reason_text
from stages.core.config import load_class
from stages.core.measures.take_metrics import METRICS
from stages.core.planning.plan import Node
from stages.core.planning.survey import Survey
from stages.core.step import REASON, Row

KIND, MEASURES, FILE = "qc", "measures", "bad file"
PREVIEW = "preview_"
"""How the stage is called that a gate looks at, which is no finished video."""
SCHEMA = pa.schema(
    [
        ("take_id", pa.string()),
        ("stage", pa.string()),
        *((name, pa.float64()) for name in METRICS),
        ("status", pa.string()),
        ("reasons", pa.list_(REASON)),
        ("error", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
    ]
)


def qc(survey: Survey) -> pa.Table:
    """One row per take and video that QC has looked at: `ok`, `rejected` with reasons, or `error` where it could not be
    measured. stage: the one that made the video."""
    parts = [_sql(survey, node, i) for i, node in enumerate(_nodes(survey))]
    if not parts:
        return SCHEMA.empty_table()
    rows = survey.query(f"SELECT * EXCLUDE (position, nth) FROM ({' UNION ALL '.join(parts)}) ORDER BY position, nth")
    return rows.cast(SCHEMA)


def _nodes(survey: Survey) -> list[Node]:
    return [n for p in survey.plan.phases if p.level == 0 and survey.units_known(p) for n in p.steps if n.kind == KIND]


def _sql(survey: Survey, node: Node, nth: int) -> str:
    phase, measure = survey.plan.phase_of(node.name).name, survey.plan.node(node.ports[0].nodes[0])
    have = load_class(node.use, node.name).writes.names  # a check of one's own may measure something else
    columns = ", ".join(
        (f'"{node.name}"."{name}"' if name in have else "NULL::DOUBLE") + f' AS "{name}"' for name in METRICS
    )
    stage = measure.ports[0].nodes[0] if measure.kind == MEASURES else measure.name
    failed, error, there = "false", "''", f'"{node.name}".id IS NOT NULL'
    if survey.plan.phase_of(measure.name).name == phase:
        failed, error = f"""coalesce("{measure.name}".status = 'error', false)""", f'"{measure.name}".error'
        there = f"({there} OR {failed})"
    return f"""SELECT unit_id AS take_id, '{stage}' AS stage, {columns},
        CASE WHEN {failed} THEN 'error' ELSE "{node.name}".status END AS status,
        coalesce("{node.name}".reasons, []) AS reasons,
        CASE WHEN {failed} THEN {error} ELSE coalesce("{node.name}".error, '') END AS error,
        unit.prompt AS prompt, unit.seed AS seed, unit.position AS position, {nth} AS nth
        FROM "p_{phase}" WHERE {there}"""


def qc_lines(rows: Iterable[Row], store: str) -> list[str]:
    """`3 of 12 takes failed QC: flicker (2), frozen motion (1)`, for each stage by itself; none where all passed.

    rows: of the table `qc`
    """
    stages: dict[str, list[Row]] = {}
    for row in rows:
        stages.setdefault(row["stage"], []).append(row)
    lines, last = list[str](), [stage for stage in stages if not stage.startswith(PREVIEW)][-1:]
    for stage, looked_at in stages.items():
        failed = [r for r in looked_at if r["status"] == "rejected"]
        where = f" at {stage}" if [stage] != last else ""
        if failed:
            lines.append(f"{len(failed):,} of {counted(len(looked_at), 'take')} failed QC{where}: {_tally(failed)}")
        if errors := sum(r["status"] == "error" for r in looked_at):
            lines.append(f"QC could not measure {counted(errors, 'take')}{where}")
    there = "the videos are there all the same: " if last else "why: "
    return [*lines, f"  {there}{command('table qc', store)}"] if lines else []


def _tally(failed: Iterable[Row]) -> str:
    counts = Counter(name for row in failed for name in dict.fromkeys(fault_name(r) for r in row["reasons"]))
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common())


def fault_name(reason: Mapping[str, Any]) -> str:
    """What the field calls that which is wrong, such as `frozen motion`."""
    return METRICS.get(reason["metric"], FILE)


def marks(rows: Iterable[Row]) -> dict[str, list[str]]:
    """take_id -> what is wrong with its finished video, in sentences; rows: of the table `qc`."""
    found: dict[str, list[str]] = {}
    for row in rows:  # of several stages the last one counts
        found[row["take_id"]] = [f"{fault_name(r)}: {reason_text(r)}" for r in row["reasons"]]
    return {take: said for take, said in found.items() if said}
