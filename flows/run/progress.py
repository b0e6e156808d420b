"""What a person sees while a run goes on: a bar a stage with the time that is left, or plain lines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Set

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows.run.estimate import Estimate
from flows.run.forecast import Forecast
from flows.run.schedule import shard_size
from flows.words import duration_text
from stages.core.planning.plan import Plan
from stages.core.planning.survey import Count, Survey
from stages.core.step import Row

LINE_SECONDS, LONGEST_PAUSE, PAUSES, POLL_S, REPEATED = 5.0, 60.0, 20, 0.5, 6
"""Where the console is no terminal: seconds from one line to the next at first, and later; between these a pause is as
long as the run has gone on by a part in PAUSES. A line that would say the same again comes after REPEATED pauses."""
LOGGED = "rushes.progress"
"""What executors log here while they get ready (Ray starts, a worker loads its weights) is shown."""


class Bars(logging.Handler):
    """A listener that counts rows per node, and shows what goes on before there are any. Safe to call from several
    threads. Where the console is no terminal, a line is printed at the start, when something else begins, and every few
    seconds, less often the longer the run goes on.

    jobs: nodes that decide all rows at once, of which there is nothing to count.
    """

    def __init__(
        self,
        console: Console,
        totals: Mapping[str, int],
        forecast: Forecast | None = None,
        jobs: Set[str] = frozenset(),
    ) -> None:
        super().__init__(logging.INFO)
        self.poll_s, self._jobs = POLL_S, jobs
        self._console, self._guard = console, threading.Lock()
        self._totals, self._done, self._bad = dict(totals), dict.fromkeys(totals, 0), dict.fromkeys(totals, 0)
        self._forecast, self._began = forecast or Forecast(totals), time.monotonic()
        self._doing, self._ended = "", threading.Event()
        self._progress = _progress(console) if console.is_terminal else None
        self._ids = (
            {n: self._progress.add_task(n, total=t or None, left="") for n, t in totals.items()}
            if self._progress
            else {}
        )
        self._lines = threading.Thread(target=self._print_lines, name="progress", daemon=True)

    def __enter__(self) -> Bars:
        logger = logging.getLogger(LOGGED)
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        if self._progress:
            self._progress.start()
        self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger(LOGGED).removeHandler(self)
        self._ended.set()
        self._lines.join()
        if self._progress:
            self._progress.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """Show what an executor says that it does."""
        with self._guard:
            if (expects := getattr(record, "expects", None)) is not None:
                self._expect(expects)
                return
            self._doing = record.getMessage()
            if step := getattr(record, "starts", ""):
                self._forecast.start(step, record.created)
            if getattr(record, "one_by_one", False):
                self._forecast.run_one_by_one()

    def _expect(self, left: Mapping[str, int]) -> None:
        """So many rows are to be made, as is known from now on."""
        self._forecast.expect(left)
        for node, rows in left.items():
            self._totals[node] = self._done.get(node, 0) + rows
            if self._progress and node in self._ids:
                self._progress.update(self._ids[node], total=self._totals[node])

    def __call__(self, node: str, row: Row) -> None:
        """One more row of a node."""
        with self._guard:
            self._doing = ""
            self._forecast.add(node, row)
            self._done[node] = self._done.get(node, 0) + 1
            self._bad[node] = self._bad.get(node, 0) + (row.get("status") == "error")
            if self._progress:
                if node not in self._ids:
                    self._ids[node] = self._progress.add_task(node, total=None, left="")
                self._progress.update(self._ids[node], completed=self._done[node], description=self._label(node))

    def _print_lines(self) -> None:
        said, shown, last = None, "", -LONGEST_PAUSE
        while not self._ended.wait(self.poll_s):
            spent = time.monotonic() - self._began
            with self._guard:
                doing, left, line = self._doing, self._left(), self._line()
                tasks = list(self._ids.values())
            if self._progress:
                for task in tasks:
                    self._progress.update(task, left=doing or left)
            elif spent - last >= _pause_before(line == shown, spent) or (doing and doing != said):
                said, shown, last = doing, line, spent
                self._console.print(f"  {spent:.0f} s: {line}", highlight=False, soft_wrap=True, markup=False)

    def _label(self, node: str) -> str:
        return f"{node} [red]({self._bad[node]} failed)[/red]" if self._bad[node] else node

    def _line(self) -> str:
        parts = [
            (f"{n} done" if n in self._jobs else f"{n} {d}/{self._totals.get(n) or '?'}")
            + (f" ({bad} failed)" if (bad := self._bad[n]) else "")
            for n, d in self._done.items()
            if d
        ]
        return "; ".join(p for p in (", ".join(parts), self._doing, self._left()) if p) or "starting"

    def _left(self) -> str:
        seconds = self._forecast.seconds_left()
        if not seconds or not self._forecast.knows_enough:
            return ""
        return f"{self._forecast.sureness} {duration_text(seconds)} left"


def pause(spent: float) -> float:
    """Seconds from one line to the next, of a run that has gone on for so many."""
    return max(LINE_SECONDS, min(LONGEST_PAUSE, spent / PAUSES))


def _pause_before(same: bool, spent: float) -> float:
    """Seconds from the last line to one that says the same, or something else."""
    return min(LONGEST_PAUSE, REPEATED * pause(spent)) if same else pause(spent)


def make_forecast(survey: Survey, plan: Plan, slots: float, estimate: Estimate) -> Forecast:
    """What the counts of a survey, and what its rows are estimated to cost, say of a run; slots: how many rows can be
    at work at a time. Steps whose units are not known yet are taken to have as many as the others."""
    earlier, workers, counts = {}, {}, totals(survey.counts())
    for step in estimate.steps:
        resources = plan.refs[step.step].resources
        workers[step.step] = resources.workers
        seconds = step.core_seconds / resources.cpus if resources.cpus else step.gpu_seconds / (resources.gpus or 1)
        earlier[step.step] = seconds / step.rows if step.rows else 0.0
    jobs = {n.name for n in plan.nodes if n.job and not n.per}
    supposed = {n.name for p in plan.phases if not survey.units_complete(p) for n in p.steps}
    unknown = {n.name for p in plan.phases if not survey.units_known(p) for n in p.steps}
    light = {n.name for n in plan.nodes if not n.weights}
    units = max((rows for name, rows in counts.items() if name not in jobs), default=0)
    expected = {name: 1 if name in jobs else units if name in unknown else rows for name, rows in counts.items()}
    for node in plan.nodes:
        if node.per:
            del expected[node.name]
    return Forecast(
        expected, earlier, workers, slots, jobs=jobs, supposed=supposed, light=light, shard=shard_size(units)
    )


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[left]}"), console=console)


def totals(counts: Mapping[str, Count]) -> dict[str, int]:
    """How many rows each node is expected to make."""
    return {name: c.todo + c.waiting for name, c in counts.items()}


def counts_notes(counts: Mapping[str, Count], plan: Plan) -> list[str]:
    """What the words and figures under `counts_table` mean, as far as they occur."""
    jobs = [n.name for n in plan.nodes if n.job and not n.per and n.name in counts]
    zeros = [name for name, c in counts.items() if not (c.done or c.todo or c.waiting or c.failed)]
    lines = ["waiting: an earlier step comes first"] if any(c.waiting for c in counts.values()) else []
    lines += [f"only zeros: the step does not apply to anything here ({', '.join(zeros)})"] if zeros else []
    return lines + ([f"jobs look at all rows at once and count as 1: {', '.join(jobs)}"] if jobs else [])


def counts_table(counts: Mapping[str, Count], unknown: Set[str]) -> Table:
    """How every step of a plan stands; unknown: the steps whose units are only known once an earlier one has run."""
    table = Table(box=None, pad_edge=False)
    for name in ("step", "done", "to do", "waiting", "failed"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for name, c in counts.items():
        todo, waiting = ("?", "?") if name in unknown else (f"{c.todo:,}", f"{c.waiting:,}")
        table.add_row(name, f"{c.done:,}", todo, waiting, f"{c.failed:,}")
    return table
