"""What each take of a render cost, stage by stage: the table `costs`."""

from __future__ import annotations

import json

import pyarrow as pa

from flows.run.settings import PricesConfig
from stages.core.ledger.catalog import NO_ROWS
from stages.core.planning.plan import Node
from stages.core.planning.survey import Survey
from stages.core.running.runs import runs_table

SPENT = ("core_seconds", "gpu_seconds")


def costs(survey: Survey) -> pa.Table:
    """One row per take and stage: campaign, prompt, take_id, stage, core_seconds, gpu_seconds, money.

    All attempts at a row count. A row that several takes share is divided among them, so that the sums over takes are
    what was spent. money is null where the run has no prices.
    """
    prices = _prices(survey)
    parts = list[str]()
    for phase in (p for p in survey.plan.phases if p.level == 0 and survey.units_known(p)):
        for node in phase.steps:
            _add_spent(survey, node)
            row = f'"id_{node.name}"'
            parts.append(
                f"""SELECT unit.campaign AS campaign, unit.prompt AS prompt, unit_id AS take_id, '{node.name}' AS stage,
                spent.core_seconds / count(*) OVER (PARTITION BY {row}) AS core_seconds,
                spent.gpu_seconds / count(*) OVER (PARTITION BY {row}) AS gpu_seconds,
                unit.position AS position, {len(parts)} AS nth
                FROM "p_{phase.name}" JOIN "spent_{node.name}" spent ON spent.id = {row}"""
            )
    money = f"(core_seconds * {prices.core_hour!r} + gpu_seconds * {prices.gpu_hour!r}) / 3600"
    return survey.query(
        f"""SELECT * EXCLUDE (position, nth), {money if prices.known else "NULL::DOUBLE"} AS money
        FROM ({" UNION ALL ".join(parts)}) ORDER BY position, nth"""
    )


def _add_spent(survey: Survey, node: Node) -> None:
    """A table of what all attempts at each row of a step cost."""

    def read(source: str) -> pa.Table:
        names = ", ".join(f"coalesce(sum({name}), 0)::DOUBLE AS {name}" for name in SPENT)
        if source == NO_ROWS:
            source = "(SELECT NULL::VARCHAR AS id, 0.0 AS core_seconds, 0.0 AS gpu_seconds WHERE false)"
        return survey.sql.sql(f"SELECT id, {names} FROM {source} GROUP BY id").to_arrow_table()

    survey.sql.register(f"spent_{node.name}", survey.catalog.with_rows(survey.sql, node.name, node.fingerprint, read))


def _prices(survey: Survey) -> PricesConfig:
    """The prices of the newest run of this plan that has any."""
    plan = survey.plan.to_json()
    for row in reversed(runs_table(survey.catalog).to_pylist()):
        if row["plan"] == plan and (said := json.loads(row["config"] or "{}").get("prices")):
            return PricesConfig(**said)
    return PricesConfig()
