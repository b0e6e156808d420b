"""How fast a curation went: per step, hours of footage in an hour and frames a second of a core."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from stages.core.planning.plan import Node, Phase
from stages.core.planning.survey import Survey
from stages.core.step import Row


def throughput(survey: Survey, run_id: str) -> list[Row]:
    """One row per step that did something in this run.

    step, rows; seconds on the clock from its first row's start to its last row's end; core_seconds; footage_s and
    frames that it went through (a step over clips: those of the clips); hours_per_hour of footage on the clock, and
    frames_per_core_second. Steps run beside each other, so that clocks overlap.
    """
    found = []
    for phase in survey.plan.phases:
        if not survey.units_known(phase):
            break
        for node in phase.steps:
            row = survey.query(_query(survey, phase, node, run_id)).to_pylist()[0]
            if row["rows"]:
                found.append({"step": node.name, **row, **_rates(row)})
    return found


def _query(survey: Survey, phase: Phase, node: Node, run_id: str) -> str:
    """Of clips their own seconds and frames count, of sources theirs, of files what was found in them."""
    units, rows = f'"u_{phase.name}"', f'"v_{node.name}"'
    have = {name for name, *_ in survey.sql.execute(f"DESCRIBE {units}").fetchall()}
    if "start_s" in have:
        seconds, frames = "(u.end_s - u.start_s)", "u.n_frames"
    elif "duration_s" in have:
        seconds, frames = "u.duration_s", "u.n_frames"
    else:
        own = {name for name, *_ in survey.sql.execute(f"DESCRIBE {rows}").fetchall()}
        seconds, frames = (f"r.{name}" if name in own else "0" for name in ("duration_s", "n_frames"))
    source = f"{rows} r JOIN {units} u ON u.id = r.unit_id"
    safe = "".join(c for c in run_id if c.isalnum() or c == "-")
    return f"""SELECT count(*) AS rows, coalesce(epoch(max(r.ended) - min(r.started)), 0)::DOUBLE AS seconds,
        coalesce(sum(r.core_seconds), 0)::DOUBLE AS core_seconds, coalesce(sum({seconds}), 0)::DOUBLE AS footage_s,
        coalesce(sum({frames}), 0)::BIGINT AS frames FROM {source} WHERE r.run_id = '{safe}' AND r.status = 'ok'"""


def _rates(row: Row) -> dict[str, Any]:
    return {
        "hours_per_hour": row["footage_s"] / max(row["seconds"], 1e-6),
        "frames_per_core_second": row["frames"] / max(row["core_seconds"], 1e-6),
    }


def throughput_table(survey: Survey, run_id: str) -> Table | None:
    """The same for a terminal; None where a run did no step."""
    rows = throughput(survey, run_id)
    if not rows:
        return None
    table = Table(title="speed of each step on this machine", title_justify="left", box=None, pad_edge=False)
    for name in ("step", "rows", "core-seconds", "hours of footage per hour", "frames per core-second"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for r in rows:
        rates = (f"{r['core_seconds']:.1f}", f"{r['hours_per_hour']:,.1f}", f"{r['frames_per_core_second']:,.0f}")
        table.add_row(r["step"], f"{r['rows']:,}", *rates)
    return table
