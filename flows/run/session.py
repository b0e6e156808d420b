"""From a checked plan to a finished run: open the store, see what is to do, do it where the config says."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from flows.run.schedule import Submit, ThreadSubmit, nothing_to_do, run_plan
from flows.run.settings import FlowConfig
from infra.settings import LogRecord, make_executor
from stages.core.errors import BadInput, Stopped
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.executor import LocalExecutor
from stages.core.ledger.plan import Plan
from stages.core.ledger.run import Budget, Listener, Run
from stages.core.ledger.storage import Storage
from stages.core.ledger.survey import Count, Survey

log = logging.getLogger("rushes")

DONE, FAILED, STOPPED = "done", "failed", "stopped"
EXIT_STATUS = {DONE: 0, FAILED: 1, STOPPED: 3}


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its id, status, the sentence why it stopped, and how every node stands."""

    run_id: str
    status: str
    reason: str
    counts: dict[str, Count]
    did_nothing: bool = False

    @property
    def exit_status(self) -> int:
        """0 complete, 1 every row failed, 3 stopped by a budget or a cancel."""
        return EXIT_STATUS[self.status]


def open_catalog(url: str, options: Mapping[str, Any] | None = None) -> Catalog:
    """The catalog of a store, made where there is none. Raises BadInput where it cannot be written to."""
    storage = Storage(url, dict(options or {}))
    try:
        storage.write("store.json", b'{"format": 1}\n')
    except Exception as error:
        raise BadInput(f"cannot write to the store {url}: {error}") from None
    return Catalog(storage)


def existing_catalog(url: str, options: Mapping[str, Any] | None = None) -> Catalog:
    """The catalog of a store that is there already. Raises BadInput where it is not."""
    storage = Storage(url, dict(options or {}))
    try:
        found = storage.exists("store.json")
    except Exception as error:
        raise BadInput(f"cannot read the store {url}: {error}") from None
    if not found:
        raise BadInput(f"there is no store at {url}; `curate` or `render` with --store makes one")
    return Catalog(storage)


def survey(catalog: Catalog, plan: Plan, config: FlowConfig) -> Survey:
    """How the plan stands now."""
    return Survey(catalog, plan, retry=config.retry)


def execute(
    catalog: Catalog,
    plan: Plan,
    config: FlowConfig,
    *,
    scope: str = "",
    plain_config: Mapping[str, Any] | None = None,
    submit: Submit | None = None,
    listener: Listener | None = None,
    on_start: Callable[[Run], None] | None = None,
) -> Outcome:
    """Run a plan to its end, or to where it is stopped. Starts no executor where nothing is to do.

    SIGTERM and SIGINT (a cancel) set the run's stop event: rows at work are given up, what is done stays.
    """
    before = survey(catalog, plan, config)
    idle = nothing_to_do(before, plan)
    run = Run(
        catalog,
        LocalExecutor(catalog.storage) if idle else make_executor(config.infra, catalog.storage, to_log),
        plan,
        config=plain_config or asdict(config),
        scope=scope,
        budget=Budget(**asdict(config.budget)),
        listener=listener,
    )
    if idle:
        run.jobs = before.jobs
        return _finish(run, config, did_nothing=True)
    run.executor.check(list(plan.refs.values()))
    run.begin()
    if on_start:
        on_start(run)
    return _execute(run, config, submit)


def to_log(step: str, record: LogRecord) -> None:
    """Pass on what a worker logs, in the thread that reads its rows: there it belongs to the right task run."""
    log.log(record["level"], "%s: %s (%s)", step, record["message"], record["worker"])


def _execute(run: Run, config: FlowConfig, submit: Submit | None) -> Outcome:
    threads = None if submit else ThreadSubmit()
    status, reason = DONE, ""
    try:
        with _stop_on_signal(run):
            run_plan(
                run,
                submit or threads,  # type: ignore[arg-type]
                retry=config.retry,
                shard_rows=config.shard_rows,
                overlap=_fits_together(run),
            )
    except Stopped as stopped:
        status, reason = STOPPED, run.stopped_because or str(stopped)
    except BaseException as error:
        run.ask_to_stop(f"{type(error).__name__}: {error}")
        run.finish(FAILED, error=run.stopped_because)
        raise
    finally:
        run.stop.set()
        run.executor.close()
        if threads:
            threads.close()
    return _finish(run, config, status, reason)


def _fits_together(run: Run) -> bool:
    fits = getattr(run.executor, "fits_together", None)
    together = bool(fits(list(run.plan.refs.values()))) if fits else True
    if not together:
        log.warning("the stages do not fit together: running them one after another")
    return together


def _finish(run: Run, config: FlowConfig, status: str = DONE, reason: str = "", did_nothing: bool = False) -> Outcome:
    after = Survey(run.catalog, run.plan, retry="none", jobs=run.jobs)
    counts = after.counts()
    if status == DONE and _all_failed(run.plan, counts):
        status = FAILED
    run.finish(status, {name: asdict(c) for name, c in counts.items()}, reason)
    return Outcome(run.run_id, status, reason, counts, did_nothing)


def _all_failed(plan: Plan, counts: Mapping[str, Count]) -> bool:
    """Whether some phase had failures and nothing came out at its end."""
    phases = [[counts[n.name] for n in phase.nodes if not n.job] for phase in plan.phases]
    return any(steps and not steps[-1].done and any(c.failed for c in steps) for steps in phases)


@contextmanager
def _stop_on_signal(run: Run) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a stop while the run goes on; only the main thread may do so."""

    def stop(number: int, frame: Any) -> None:
        run.ask_to_stop(f"cancelled by {signal.Signals(number).name}")

    try:
        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns the signals stops the run
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
