"""Runs a plan to its end in this thread; as a script, the toy campaign on a store, to be killed by fault tests."""

from __future__ import annotations

import sys

from stages.core import config
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.storage import Storage
from stages.core.planning.plan import Plan
from stages.core.planning.survey import Survey
from stages.core.running import run as run_module
from stages.core.running.executor import LocalExecutor
from stages.core.running.run import Budget, Run
from tests import toys

TAKES = [(text, seed) for text in ("red ball", "blue box", "green cone", "grey disc") for seed in (0, 1)]


def run_all(
    catalog: Catalog, plan: Plan, *, retry_errors: bool = False, limit: int = 0, budget: Budget | None = None
) -> Run:
    """Every phase, node after node; with `limit`, only so many units of each phase, and no job."""
    survey = Survey(catalog, plan, retry="all" if retry_errors else "transient")
    run = Run(catalog, LocalExecutor(catalog.storage), plan, budget=budget, survey=survey)
    run.begin()
    for phase in plan.phases:
        survey = run.look()
        if not survey.units_known(phase):
            break
        items = survey.items(phase)[: limit or None]
        for node in phase.nodes:
            if node.job and not limit:
                run.do_job(node)
            elif not node.job:
                items = run.do(node, items)
    run.look()
    run.finish("done")
    return run


if __name__ == "__main__":
    config.PACKAGES = (*config.PACKAGES, "tests.")
    run_module.COMMIT_ROWS = 2  # many parts, so that kills meet many commits
    store = Catalog(Storage(sys.argv[1]))
    run_all(store, toys.toy_plan(store, TAKES))
