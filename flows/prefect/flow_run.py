"""A plan run as a Prefect flow run: its pieces are task runs, its logs and artifacts are in the UI.

Deployments call `run_tasks` from inside their flow; the command line makes the flow run itself, with `execute_as_flow`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, get_run_context
from prefect.exceptions import MissingContextError
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.prefect.artifacts import Watch, show_result
from flows.prefect.server import run_link
from flows.prefect.submit import PrefectSubmit
from flows.run.progress import totals
from flows.run.schedule import TASKS_AT_ONCE
from flows.run.session import DONE, STOPPED, Outcome, Prepared, execute
from flows.words import counted
from stages.core.reach.secrets import bare_in
from stages.core.running.run import Listener
from stages.core.step import Row

FLOW_OPTIONS: dict[str, Any] = {"persist_result": False, "validate_parameters": True, "retries": 0}


def task_runner() -> TaskRunner[Any]:
    """Threads of the flow's process: a task waits there for its rows, which are made elsewhere."""
    return ThreadPoolTaskRunner(max_workers=TASKS_AT_ONCE)


class RunLogs(APILogHandler):
    """Sends records of the `rushes` logger to the task run whose thread they come from, else to the flow run."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        context = FlowRunContext.get()
        self._flow_run_id = context.flow_run.id if context and context.flow_run else None

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            get_run_context()
        except MissingContextError:
            record.flow_run_id = self._flow_run_id
        super().emit(record)


@contextmanager
def logs_shown() -> Iterator[None]:
    """While this lasts, what our code and the workers log is shown in the flow run."""
    logger, handler = logging.getLogger("rushes"), RunLogs()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.flush()


def run_tasks(prepared: Prepared, listener: Listener | None = None) -> Outcome:
    """Run a plan inside the flow run that is going on: tasks, logs, progress and result artifacts."""
    p = prepared
    watch = Watch(p.plan.flow, totals(p.survey.counts()))

    def both(node: str, row: Row) -> None:
        watch(node, row)
        if listener:
            listener(node, row)

    with logs_shown():
        outcome = execute(p, submit=PrefectSubmit(), listener=both, on_start=lambda run: watch.begin())
        watch.end(complete=outcome.status == DONE)
        show_result(p.plan.flow, p.scope, p.store, outcome, watch.costs)
    return outcome


def closing_state(outcome: Outcome) -> State[None]:
    """The state that a flow run ends in."""
    if outcome.status == STOPPED:
        return Cancelled(message=outcome.reason)
    if outcome.status == DONE:
        return Completed(message="nothing to do" if outcome.did_nothing else summary(outcome))
    return Failed(message=outcome.reason or "every row failed")


def summary(outcome: Outcome) -> str:
    """The run's id, and how many rows failed."""
    failed = sum(c.failed for c in outcome.counts.values())
    return f"run {outcome.run_id}" + (f"; {counted(failed, 'row')} failed" if failed else "")


def _without_keys_for(url: str) -> dict[Any, Any]:
    """What keeps Prefect's own keys from a server that a config names: they belong to the one of the environment."""
    own = (PREFECT_API_URL.value() or "").rstrip("/")
    return {} if url == own else {PREFECT_API_KEY: None, PREFECT_API_AUTH_STRING: None}


def execute_as_flow(
    url: str, prepared: Prepared, listener: Listener | None = None, say: Callable[[str], None] | None = None
) -> Outcome:
    """Make a flow run on the server at `url`, run the plan in it, and return how that ended. `say` gets its link."""
    outcomes: list[Outcome] = []

    def run(scope: str, store: str) -> State[None]:
        context = FlowRunContext.get()
        if say and context and context.flow_run:
            say(run_link(url, context.flow_run.id))
        outcomes.append(run_tasks(prepared, listener))
        return closing_state(outcomes[-1])

    name = bare_in(prepared.scope)[:60] or prepared.plan.flow
    flow = Flow(run, name=prepared.plan.flow, flow_run_name=lambda: name, task_runner=task_runner(), **FLOW_OPTIONS)
    with temporary_settings({PREFECT_API_URL: url, **_without_keys_for(url)}):
        state = cast("State[None]", flow(bare_in(prepared.scope), prepared.store, return_state=True))
    if not outcomes:
        state.result()  # raises what ended it
        raise RuntimeError(f"the flow run ended as {state.name}: {state.message}")
    return outcomes[-1]
