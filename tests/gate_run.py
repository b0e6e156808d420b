"""A campaign with a gate for each text, as a script on a store, to be killed by fault tests. Goes text by text: what a
gate lets pass is finished before the takes of the next text are scored."""

from __future__ import annotations

import sys

from stages.core import config
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.storage import Storage
from stages.core.planning.plan import Plan
from stages.core.running import run as run_module
from stages.core.running.executor import LocalExecutor
from stages.core.running.run import Run
from tests import toys
from tests.toy_plans import ROOTS, ref, shots

TEXTS = {"red ball": 3, "blue box": 2, "green cone": 2}


def plan_of(catalog: Catalog, texts: dict[str, int] = TEXTS, **gate: object) -> Plan:
    """score, then the best of each text | finish."""
    steps = {"score": ref("score", "Score"), "gate": ref("gate", "Gate", **gate), "finish": ref("finish", "Finish")}
    return toys.planned(catalog, shots(texts), steps, ROOTS)


def run_by_text(catalog: Catalog, plan: Plan, texts: int | None = None) -> Run:
    """Take in the texts one after another, only the first so many; each with all that can be done for it."""
    run = Run(catalog, LocalExecutor(catalog.storage), plan)
    run.begin()
    items = run.survey.items(plan.phases[0])
    for text in list(dict.fromkeys(i["unit"]["text"] for i in items))[:texts]:
        run.do(plan.node("score"), [i for i in items if i["unit"]["text"] == text])
        go_on(run)
    go_on(run)
    run.look()
    run.finish("done")
    return run


def go_on(run: Run) -> None:
    """Everything behind the first steps: every gate, then what it let pass, phase after phase."""
    for phase in run.plan.phases:
        survey = run.look()
        if phase is not run.plan.phases[0] and survey.units_known(phase):
            items = survey.items(phase)
            for node in phase.steps:
                items = run.do(node, items)
        for node in phase.jobs if survey.units_known(phase) else ():
            if node.per or run.look().job_digest(node):
                run.do_job(node)


if __name__ == "__main__":
    config.PACKAGES = (*config.PACKAGES, "tests.")
    run_module.COMMIT_ROWS = 1  # many parts, so that kills meet many commits
    store = Catalog(Storage(sys.argv[1]))
    run_by_text(store, plan_of(store))
