"""A plan run as a Prefect flow run: its pieces are task runs, its logs and artifacts are in the UI.

Deployments call `run_tasks` from inside their flow; the command line makes the flow run itself, with `execute_as_flow`.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, get_run_context
from prefect.exceptions import Abort, CancelledRun, FailedRun, MissingContextError
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.prefect.artifacts import Watch, show_result
from flows.prefect.endings import ending_of
from flows.prefect.reporting import contact, reporting
from flows.prefect.server import run_link
from flows.prefect.submit import PrefectSubmit
from flows.render.decisions import waiting_text
from flows.run.progress import totals
from flows.run.schedule import TASKS_AT_ONCE
from flows.run.session import DONE, STOPPED, WAITING, Outcome, Prepared, execute
from flows.words import counted
from stages.core.errors import BadInput, Stopped
from stages.core.reach.secrets import bare_in, cleared
from stages.core.running.run import Listener
from stages.core.step import Row

log = logging.getLogger("rushes")
ENGINE_LOGS = [logging.getLogger(f"prefect.{name}") for name in ("engine", "flow_runs")]

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


@dataclass
class Form:
    """What a form asks for beside the run itself, and the checked config where its flow needs that at the end.

    export: the folder of finished videos; out: the file of figures
    """

    export: str = ""
    out: str = ""
    checked: Any = None


def run_form(prepare: Callable[[], Prepared], form: Form | None = None) -> State[None]:
    """The body of a deployment's flow: prepare, run, show; what is wrong with the form is the state's message."""
    asked = form or Form()
    for logger in ENGINE_LOGS:
        logger.addFilter(_no_ending)  # once, however often it is added
    try:
        with reporting(), stoppable():
            prepared = prepare()
            outcome = run_tasks(prepared, form=asked)
    except BadInput as bad:
        return refused(bad)
    except Stopped as stopped:
        return Cancelled(message=str(stopped))
    return closing_state(outcome)


def refused(bad: BadInput) -> State[None]:
    """The state of a run that bad input ends. Prefect logs how runs end as information; this is an error."""
    said = cleared(str(bad))
    with logs_shown():
        log.error("%s", said)
    return Failed(message=said)


def _no_ending(record: logging.LogRecord) -> bool:
    """Whether a record of the engine is worth showing: not the traceback of a run that has ended as failed or
    cancelled, whose state says why."""
    return not (record.exc_info and isinstance(record.exc_info[1], CancelledRun | FailedRun))


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped at once where a cancel comes while nothing is at work yet, as while Ray starts. A run at work has
    handlers of its own, which let rows end."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(f"cancelled by {signal.Signals(number).name}")

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever owns the signals stops the run
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_tasks(prepared: Prepared, listener: Listener | None = None, form: Form | None = None) -> Outcome:
    """Run a plan inside the flow run that is going on: tasks, logs, progress and result artifacts."""
    p, asked = prepared, form or Form()
    todo = totals(p.survey.counts())
    watch = Watch(p.plan.flow, todo)

    def both(node: str, row: Row) -> None:
        watch(node, row)
        if listener:
            listener(node, row)

    with logs_shown():
        if not p.idle:
            watch.begin()
            log.info("%s", beginning(p, todo))
        outcome = execute(p, submit=PrefectSubmit(), listener=both, on_start=lambda run: log.info("run %s", run.run_id))
        watch.end(complete=outcome.status in (DONE, WAITING))
        ending = ending_of(p, outcome, asked.checked, page=form is not None)
        fault: BadInput | None = None
        try:
            ending.places |= _handed_over(p, outcome, asked)
        except BadInput as bad:  # the results are in the store, and are shown
            fault = bad
        show_result(p.plan.flow, p.scope, p.store, outcome, watch.costs, ending)
        for line in (*ending.lines, *(f"{count} x {why}" if count > 1 else why for count, why in ending.reasons)):
            log.info("%s", line)
    if fault:
        raise fault
    return outcome


def beginning(prepared: Prepared, todo: Mapping[str, int]) -> str:
    """What a run is about to do, and where: the first line of its log."""
    rows = ", ".join(f"{name} {count}" for name, count in todo.items() if count) or "what the first step finds"
    infra = prepared.config.infra
    where = "in this process"
    if infra.executor == "ray":
        where = (
            "on a Ray of its own, which starts now"
            if infra.ray.address == "local"
            else f"on Ray at {infra.ray.address}"
        )
    return f"{prepared.plan.flow} {prepared.scope}: to do: {rows}; {where}; store {prepared.store}"


def _handed_over(prepared: Prepared, outcome: Outcome, form: Form) -> dict[str, str]:
    """What the form asked for outside the store, by name. Raises BadInput where it cannot be written."""
    if form.export:
        from flows.render.export import export
        from flows.render.provenance import described
        from flows.views.tables import read_table

        videos = read_table(prepared.catalog, "videos", run_id=outcome.run_id).to_pylist()
        delivery, about = form.checked.delivery, described(prepared.plan)
        metadata = delivery.config.metadata
        export(prepared.catalog.storage, videos, form.export, metadata=metadata, about=about, delivery=delivery)
        return {"export": form.export}
    if form.out:
        from flows.evaluate.report import write_report

        write_report(prepared.catalog, outcome.run_id, form.checked, Path(form.out).expanduser())
        return {"figures": form.out}
    return {}


def closing_state(outcome: Outcome) -> State[None]:
    """The state that a flow run ends in."""
    if outcome.status == STOPPED:
        return Cancelled(message=outcome.reason)
    if outcome.status == WAITING:  # nothing is at work, and nothing failed: automations and people tell it by its name
        message = f"{waiting_text(outcome.held)}: choose with `rushes choose`, then run it again"
        return Completed(name="WaitingForReview", message=message)
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
    url: str,
    prepared: Prepared,
    listener: Listener | None = None,
    say: Callable[[str], None] | None = None,
    warn: Callable[[str], None] = log.warning,
) -> Outcome:
    """Make a flow run on the server at `url`, run the plan in it, and return how that ended. `say` gets its link.

    How it ended is what the work came to. A server that goes away is told to `warn`, and changes nothing else; one that
    is gone before the work began is done without.
    """
    work = _Work(prepared, listener)

    def run(of: str, store: str) -> State[None]:
        context = FlowRunContext.get()
        if say and context and context.flow_run:
            say(run_link(url, context.flow_run.id))
        outcome = work.do()
        if not contact.is_back():
            raise Abort("the server is gone: there is nobody to tell how the run ended")
        return closing_state(outcome)

    name = bare_in(prepared.scope)[:60] or prepared.plan.flow
    flow = Flow(run, name=prepared.plan.flow, flow_run_name=lambda: name, task_runner=task_runner(), **FLOW_OPTIONS)
    with temporary_settings(_without_keys_for(url)), reporting(warn, url):
        try:
            flow(bare_in(prepared.scope), prepared.store, return_state=True)
        except (Exception, Abort) as error:  # the work's own errors are kept in `work`
            if work.error is None:
                contact.lose(error)
    if work.error is not None:
        raise work.error
    return work.outcome or execute(prepared, listener=listener)


class _Work:
    """The work of a flow run, and how it ended, whatever becomes of the flow run."""

    def __init__(self, prepared: Prepared, listener: Listener | None) -> None:
        self._prepared, self._listener = prepared, listener
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None

    def do(self) -> Outcome:
        try:
            self.outcome = run_tasks(self._prepared, self._listener)
        except BaseException as error:
            self.error = error
            raise
        return self.outcome
