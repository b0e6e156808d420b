"""From a checked plan to a finished run: open the store, see what is to do, do it where the config says."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from flows.run.schedule import Submit, ThreadSubmit, nothing_to_do, run_plan
from flows.run.settings import FlowConfig
from flows.run.stopping import StopOnSignal, again
from flows.words import command
from infra.settings import LogRecord, make_executor
from stages.core.config_files import nearest
from stages.core.errors import BadInput, Stopped
from stages.core.full_disk import CannotWrite
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.storage import Storage
from stages.core.planning.plan import Plan
from stages.core.planning.survey import Count, Survey
from stages.core.reach.policy import in_force
from stages.core.reach.secrets import cleared, guard_output, remember, secret_values
from stages.core.running.executor import LocalExecutor
from stages.core.running.leaving import GRACE_S, LeavableThread, Left
from stages.core.running.run import Budget, Listener, Run
from stages.core.step import StepRef

log = logging.getLogger("rushes")
progress = logging.getLogger("rushes.progress")

DONE, FAILED, STOPPED, WAITING = "done", "failed", "stopped", "waiting"
STORE, FORMAT = "store.json", 2
"""The file that makes a folder a store, and the format that it names."""
EXIT_STATUS = {DONE: 0, FAILED: 1, STOPPED: 3, WAITING: 4}


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its id, status, the sentence why it stopped, and how every node stands; held: gate -> how many
    takes wait there for people."""

    run_id: str
    status: str
    reason: str
    counts: dict[str, Count]
    did_nothing: bool = False
    cancelled: bool = False
    held: Mapping[str, int] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """0 complete, 1 every row failed, 3 stopped by a budget or a cancel, 4 takes wait for people."""
        return EXIT_STATUS[self.status]


def open_catalog(url: str, options: Mapping[str, Any] | None = None) -> Catalog:
    """The catalog of a store, made where there is none. Raises BadInput where it cannot be written to."""
    storage = Storage(url, dict(options or {}))
    _check_format(storage, (FORMAT,))
    try:
        storage.write(STORE, json.dumps({"format": FORMAT}).encode() + b"\n")
    except CannotWrite as error:
        raise BadInput(str(error)) from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(cleared(f"cannot write to the store {url}: {reason}")) from None
    return Catalog(storage)


def existing_catalog(url: str, options: Mapping[str, Any] | None = None, *, results: bool = False) -> Catalog:
    """The catalog of a store that is there already. Raises BadInput where it is not, or is of another format.

    results: only datasets and checkpoints will be read, and so those of older formats will do
    """
    storage = Storage(url, dict(options or {}))
    if not _check_format(storage, (1, FORMAT) if results else (FORMAT,)):
        raise BadInput(f"there is no store at {storage.url}; `curate` or `render` with --store makes one")
    return Catalog(storage)


def _check_format(storage: Storage, wanted: Sequence[int]) -> bool:
    """Whether there is a store. Raises BadInput where it cannot be read, or is of a format that is not wanted."""
    try:
        text = storage.read(STORE)
    except FileNotFoundError:
        return False
    except Exception as error:
        raise BadInput(cleared(f"cannot read the store {storage.url}: {error}")) from None
    try:
        found = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{storage.url}/{STORE} does not say the format of the store; give another --store") from None
    if found in wanted:
        return True
    if found == 1:
        raise BadInput(
            f"the store {storage.url} is of format 1, but this version of Rushes reads format {FORMAT}: give another "
            "--store and run curate or render again; datasets and checkpoints in the old one can still be read "
            f"({command('table datasets', storage.url)}, {command('table checkpoints', storage.url)}, "
            "promoted:NAME@STORE)"
        )
    raise BadInput(
        f"the store {storage.url} is of format {found!r}, but this version of Rushes reads format {FORMAT}: use the "
        "version that made it, or give another --store"
    )


class Checked(Protocol):
    """A checked config of a flow: what `load_campaign`, `load_curation` and their like return."""

    @property
    def config(self) -> Any:
        """The settings of the flow."""

    @property
    def scope(self) -> str:
        """What the run is about, in a few words."""

    def plan(self, catalog: Catalog) -> Plan:
        """The plan; keeps what it starts from as roots of the store."""

    def plain(self) -> dict[str, Any]:
        """The resolved config, as it is stored with the run and printed by --dry-run."""


@dataclass(frozen=True)
class Prepared:
    """A run that could start: the store, the plan, the config, and how the plan stands."""

    catalog: Catalog
    plan: Plan
    config: FlowConfig
    plain: Mapping[str, Any]
    scope: str
    survey: Survey

    @property
    def store(self) -> str:
        """The store's address."""
        return self.catalog.storage.url

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return nothing_to_do(self.survey, self.plan)


def prepare(checked: Checked, store: str, *, exists: bool = False, look_only: bool = False) -> Prepared:
    """From a checked config to a run that could start: the one way for the command line and for Prefect.

    exists: the store must be there already. look_only: nothing will run, so that no store is made where there is none.
    Raises BadInput before any work.
    """
    config: FlowConfig = checked.config
    guard_output()
    remember(secret_values(config.infra.ray.env))
    if look_only and not exists and not _check_format(Storage(store, dict(config.infra.storage or {})), (FORMAT,)):
        folder = tempfile.TemporaryDirectory(prefix="rushes-")
        atexit.register(folder.cleanup)
        store = folder.name
    catalog = (existing_catalog if exists else open_catalog)(store, config.infra.storage)
    in_force().allow_store(catalog.storage.address)
    plan = checked.plan(catalog)
    survey = Survey(catalog, plan, retry=config.retry)
    if config.only:
        _check_only(survey, config.only)
    return Prepared(catalog, plan, config, checked.plain(), checked.scope, survey)


def _check_only(survey: Survey, only: Sequence[str]) -> None:
    """Raises BadInput where `only` names what is no step, or one that waits for the work of one it does not name."""
    names = [n.name for n in survey.plan.nodes]
    for name in only:
        if name not in names:
            raise BadInput(f"only: there is no step {name!r}; {nearest(name, names)}")
    last = max(names.index(name) for name in only)
    for name in names[:last]:
        count = survey.count(name)
        if name not in only and (count.todo or count.waiting):
            raise BadInput(f"only: the step {name!r} before it has work left; list it too, or use `until` instead")


def execute(
    prepared: Prepared,
    *,
    submit: Submit | None = None,
    listener: Listener | None = None,
    on_start: Callable[[Run], None] | None = None,
) -> Outcome:
    """Run a plan to its end, or to where it is stopped. Starts no executor where there is nothing to do.

    The first SIGTERM or SIGINT (a cancel) sets the run's stop event: what is at work is given up after some seconds,
    what is done stays. A second one ends the process.
    """
    p, idle = prepared, prepared.idle
    run = Run(
        p.catalog,
        LocalExecutor(p.catalog.storage) if idle else make_executor(p.config.infra, p.catalog.storage, to_log),
        p.plan,
        config=p.plain,
        scope=p.scope,
        budget=Budget(**asdict(p.config.budget), price=p.config.prices.money, unit=p.config.prices.currency),
        listener=listener,
        survey=p.survey,
    )
    if idle:
        return _finish(run, did_nothing=True)
    with StopOnSignal(lambda number: _stop(run, number)) as signals:
        if _is_up(run):
            outcome = _execute(run, p.config, submit, on_start)
        else:
            outcome = _finish(run, STOPPED, run.stopped_because)
    return replace(outcome, cancelled=bool(signals.heard))


def _is_up(run: Run) -> bool:
    """Start the executor and let it refuse what it cannot host; False where that was left after a stop."""
    thread = LeavableThread("start")
    try:
        thread.call(lambda: run.executor.check(_with_work(run)), run.stop, lambda: GRACE_S)
    except Left:
        return False
    finally:
        thread.close()
    return True


def _stop(run: Run, number: int) -> str:
    """Ask a run to stop; the sentence that says what it waits for."""
    run.ask_to_stop(f"cancelled by {signal.Signals(number).name}")
    return f"stopping; waiting for {run.awaited()}; {again(number)}"


def to_log(step: str, record: LogRecord) -> None:
    """Pass on what a worker logs, in the thread that reads its rows: there it belongs to the right task run."""
    log.log(record["level"], "%s: %s (%s)", step, record["message"], record["worker"])


def _execute(
    run: Run, config: FlowConfig, submit: Submit | None, on_start: Callable[[Run], None] | None = None
) -> Outcome:
    threads = None if submit else ThreadSubmit()
    status, reason = DONE, ""
    try:
        run.begin()
        if on_start:
            on_start(run)
        overlap = run.executor.fits_together(_with_work(run))
        if not overlap:
            log.warning(
                "one worker of each step does not fit into this Ray at the same time: the steps run one after another"
            )
            progress.info("steps run one after another", extra={"one_by_one": True})
        run_plan(run, submit or threads, shard_rows=config.shard_rows, overlap=overlap, only=config.only)  # type: ignore[arg-type]
    except (Stopped, CannotWrite) as stopped:
        status, reason = STOPPED, run.stopped_because or str(stopped)
        with contextlib.suppress(CannotWrite):  # what ends Ray in the middle of its work may end this process with it
            run.finish(STOPPED, error=reason)
    except BaseException as error:
        run.ask_to_stop(f"{type(error).__name__}: {error}")
        with contextlib.suppress(CannotWrite):
            run.finish(FAILED, error=run.stopped_because)
        raise
    finally:
        run.stop.set()
        run.executor.close()
        if threads:
            threads.close()
    return _finish(run, status, reason)


def _with_work(run: Run) -> list[StepRef]:
    """The steps that have something to do, or may have: a step that applies to no unit needs no room."""
    known = {n.name for p in run.plan.phases if run.survey.units_complete(p) for n in p.nodes}
    counts = run.survey.counts()
    idle = {name for name in known if not (counts[name].todo or counts[name].waiting)}
    return [ref for name, ref in run.plan.refs.items() if name not in idle]


def _finish(run: Run, status: str = DONE, reason: str = "", did_nothing: bool = False) -> Outcome:
    survey = run.look()
    counts, held = survey.counts(), survey.held()
    if status == DONE and _all_failed(run.plan, counts):
        status = FAILED
    elif status == DONE and held:
        status = WAITING
    try:
        run.finish(status, {name: asdict(c) for name, c in counts.items()}, reason)
    except CannotWrite as error:
        status, reason = STOPPED, reason or str(error)
    return Outcome(run.run_id, status, reason, counts, did_nothing, held=held)


def _all_failed(plan: Plan, counts: Mapping[str, Count]) -> bool:
    """Whether some phase had failures and nothing came out at its end."""
    phases = [[counts[n.name] for n in phase.steps] for phase in plan.phases]
    return any(steps and not steps[-1].done and any(c.failed for c in steps) for steps in phases)
