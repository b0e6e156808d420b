"""How the campaigns of a store stand: what is done, what it has cost, how long it still takes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from flows.run.forecast import Forecast
from flows.words import duration_text
from stages.core.planning.survey import Survey
from stages.core.running.runs import RunRecord
from stages.core.step import Row

RECENT = 2000
"""So many of a run's last rows of each step say how fast it is."""


@dataclass(frozen=True)
class Standing:
    """How the plan of a run stands: a row per step, with what it has cost; the run's pace, None where it has ended."""

    record: RunRecord
    steps: list[Row]
    forecast: Forecast | None

    def shown(self, takes: int, done: int) -> Row:
        """What the page shows of a campaign: takes and done count its takes, and those of them with a video."""
        row = self.record.row
        return {
            "campaign": row["scope"],
            "run": row["run_id"],
            "status": row["status"],
            "error": row["error"] or "",
            "started": row["started"].isoformat(),
            "takes": takes,
            "done": done,
            "steps": self.steps,
            "core_seconds": sum(s["core_seconds"] for s in self.steps),
            "gpu_seconds": sum(s["gpu_seconds"] for s in self.steps),
            "left": _left(self.forecast),
        }


def standing(survey: Survey, record: RunRecord) -> Standing:
    """How a run stands now, by its plan."""
    running = record.row["status"] == "running"
    return Standing(record, _steps(survey), observed(survey, record.row["run_id"]) if running else None)


def _steps(survey: Survey) -> list[Row]:
    found, counts = [], survey.counts()
    for node in survey.plan.nodes:
        count = counts[node.name]
        known = survey.units_known(survey.plan.phase_of(node.name))
        cost: Row = {"core": 0.0, "gpu": 0.0}
        if known and not node.job:
            query = f'SELECT sum(core_seconds) AS core, sum(gpu_seconds) AS gpu FROM "v_{node.name}"'
            cost = survey.query(query).to_pylist()[0]
        found.append(
            {
                "step": node.name,
                "done": count.done,
                "todo": count.todo + count.waiting if known else None,
                "failed": count.failed,
                "core_seconds": cost["core"] or 0.0,
                "gpu_seconds": cost["gpu"] or 0.0,
            }
        )
    return found


def observed(survey: Survey, run_id: str) -> Forecast:
    """The pace of a run of another process, from the rows that it has written: as many workers as have made them."""
    plan, counts = survey.plan, survey.counts()
    rows: dict[str, list[Row]] = {}
    earlier: dict[str, float] = {}
    for node in (n for p in plan.phases if survey.units_known(p) for n in p.steps):
        columns = f"""SELECT started, ended, worker FROM "l_{node.name}" WHERE run_id = '{run_id}'"""
        rows[node.name] = survey.query(f"{columns} ORDER BY ended DESC LIMIT {RECENT}").to_pylist()
        mean = f"""SELECT avg(epoch(ended - started)) AS mean FROM "l_{node.name}" WHERE run_id <> '{run_id}'"""
        earlier[node.name] = float(survey.query(f"{mean} AND status = 'ok'")["mean"][0].as_py() or 0.0)
    left = {n.name: counts[n.name].todo + counts[n.name].waiting for n in plan.nodes if not n.per}
    unknown = {n.name for p in plan.phases if not survey.units_known(p) for n in p.steps}
    most = max(left.values(), default=0)
    found = Forecast(
        {name: (most if name in unknown else count) + len(rows.get(name, ())) for name, count in left.items()},
        earlier,
        {name: len({r["worker"] for r in made}) for name, made in rows.items()},
        jobs={n.name for n in plan.nodes if n.job and not n.per},
        supposed={n.name for p in plan.phases if not survey.units_complete(p) for n in p.steps},
        light={n.name for n in plan.nodes if not n.weights},
    )
    for name, made in rows.items():
        for row in reversed(made):
            found.add(name, row)
    return found


def _left(forecast: Forecast | None) -> str:
    """The time that is left, in words; "" where nothing tells."""
    seconds: Any = forecast.seconds_left(time.time()) if forecast else None
    return f"{forecast.sureness} {duration_text(seconds)} left" if forecast and seconds else ""
