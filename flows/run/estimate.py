"""What a run will cost, before it runs: from the rows that the store has of the same steps.

A row of a step costs a fixed part and a part that grows with the size of its take. Both are fitted to the rows that
the store has; where these are all of one size, the whole cost is taken to grow with the size. The first row of each
worker, which is a slow one, is counted apart. Of a step that was never run nothing is known, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import pyarrow as pa
from rich.table import Table

from flows.run.settings import PricesConfig
from flows.words import counted, duration_text
from stages.core.ledger.catalog import Catalog
from stages.core.planning.plan import Node, Phase, Plan
from stages.core.planning.survey import Survey
from stages.core.running.runs import find_run, runs_table

MOST_RUNS = 5
"""How many earlier runs are looked at for what rows cost."""
MOST_ROWS = 5_000
"""How many rows of a step, the newest, a cost is fitted to."""
SIZE = ("width", "height", "frames", "longer")
"""Columns of a take with which the cost of its rows grows, in proportion."""
MEASURED, SCALED, UNKNOWN = "measured", "scaled", "unknown"


@dataclass(frozen=True)
class Costs:
    """What rows of one step cost in seconds of one resource: fixed + slope * size, and further `first` for the first
    row of each worker. sizes: the least and the greatest that it was fitted to."""

    fixed: float = 0.0
    slope: float = 0.0
    first: float = 0.0
    sizes: tuple[float, float] = (0.0, 0.0)

    def of(self, sizes: Sequence[float], workers: int = 1) -> float:
        """Seconds for rows of these sizes, made by so many workers."""
        return len(sizes) * self.fixed + self.slope * float(sum(sizes)) + self.first * min(workers, len(sizes))


def fit(sizes: Sequence[float], seconds: Sequence[float], first: Sequence[bool]) -> Costs:
    """What rows cost, from rows of these sizes that took so many seconds; first: which were the first of a worker.

    Nonnegative least squares over the means of each size, weighted by their rows: Lawson and Hanson, Solving Least
    Squares Problems, 1974. Relative errors count, so that small rows are as well fitted as large ones.
    """
    from scipy.optimize import nnls

    later = [not f for f in first]
    kept = later if any(later) else [True] * len(first)
    means: dict[float, list[float]] = {}
    for size, took, keep in zip(sizes, seconds, kept, strict=True):
        if keep:
            means.setdefault(size, []).append(took)
    points = sorted((size, fmean(took), len(took)) for size, took in means.items())
    x, y, n = (np.array(column, float) for column in zip(*points, strict=True))
    if len(points) == 1:
        fixed, slope = 0.0, float(y[0] / x[0])
    else:
        weight = np.sqrt(n) / np.maximum(y, 1e-9)
        (fixed, slope), _ = nnls(np.stack([np.ones_like(x), x / x.max()], 1) * weight[:, None], y * weight)
        fixed, slope = float(fixed), float(slope / x.max())
    more = [took - fixed - slope * size for size, took, f in zip(sizes, seconds, first, strict=True) if f]
    extra = max(0.0, fmean(more)) if more and any(later) else 0.0
    return Costs(fixed, slope, extra, (float(x[0]), float(x[-1])))


@dataclass(frozen=True)
class StepEstimate:
    """What a step has to do, and what that costs.

    rows      rows that it will make
    at_most   whether fewer may come to it, as a gate before it has not decided yet
    sureness  `measured`: rows of such sizes are in the store; `scaled`: of other sizes; `unknown`: none
    known     rows that this was estimated from
    """

    step: str
    rows: int
    at_most: bool = False
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    sureness: str = UNKNOWN
    known: int = 0


@dataclass(frozen=True)
class Estimate:
    """What a run will cost, step by step."""

    steps: Sequence[StepEstimate]

    @property
    def core_seconds(self) -> float:
        """Of the steps of which something is known."""
        return sum(s.core_seconds for s in self.steps)

    @property
    def gpu_seconds(self) -> float:
        """Of the steps of which something is known."""
        return sum(s.gpu_seconds for s in self.steps)

    @property
    def unknown(self) -> list[str]:
        """The steps with work of which nothing is known."""
        return [s.step for s in self.steps if s.rows and s.sureness == UNKNOWN]


@dataclass
class _History:
    """Rows of one step: their sizes, seconds of a core and of a GPU, and which were the first of a worker."""

    sizes: list[float] = field(default_factory=list)
    core: list[float] = field(default_factory=list)
    gpu: list[float] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def add(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            if row["id"] not in self.ids:
                self.ids.add(row["id"])
                self.sizes.append(float(row["size"]))
                self.core.append(row["core_seconds"] or 0.0)
                self.gpu.append(row["gpu_seconds"] or 0.0)
                self.first.append(row["first"])


def estimate(catalog: Catalog, survey: Survey) -> Estimate:
    """What the work that a plan has left will cost. Of units that a gate has still to let pass all are counted."""
    plan = survey.plan
    work = {n.name: _work(survey, plan, n) for n in plan.nodes if not n.job}
    history = _histories(catalog, survey, [n for n in plan.nodes if not n.job and work[n.name][0]])
    found = []
    for node in (n for n in plan.nodes if not n.job):
        sizes, at_most = work[node.name]
        rows = history.get(node.name)
        if not sizes or rows is None or not rows.sizes:
            found.append(StepEstimate(node.name, len(sizes), at_most))
            continue
        workers = plan.refs[node.name].resources.workers if node.name in plan.refs else 1
        core, gpu = (fit(rows.sizes, seconds, rows.first) for seconds in (rows.core, rows.gpu))
        lowest, highest = core.sizes
        sure = MEASURED if lowest <= min(sizes) and max(sizes) <= highest else SCALED
        cost = core.of(sizes, workers), gpu.of(sizes, workers)
        found.append(StepEstimate(node.name, len(sizes), at_most, *cost, sure, len(rows.sizes)))
    return Estimate(found)


def _work(survey: Survey, plan: Plan, node: Node) -> tuple[list[float], bool]:
    """The sizes of the rows that a step has still to make, and whether they may be fewer."""
    phase = plan.phase_of(node.name)
    if survey.units_known(phase):
        query = f"""SELECT any_value({size_of(survey, plan, node, phase)})::DOUBLE AS size FROM "p_{phase.name}"
            WHERE "left_{node.name}" GROUP BY "share_{node.name}" """
        return survey.query(query)["size"].to_pylist(), not survey.units_complete(phase)
    before = next(p for p in reversed(plan.phases[: plan.phases.index(phase)]) if survey.units_known(p))
    query = f'SELECT ({size_of(survey, plan, node, before)})::DOUBLE AS size FROM "p_{before.name}"'
    return survey.query(query)["size"].to_pylist(), True


def size_of(survey: Survey, plan: Plan, node: Node, phase: Phase) -> str:
    """SQL for what the cost of a row grows with: 1 where no size decides it, else pixels of all frames; doubled where
    classifier-free guidance runs the model twice."""
    kinds = {name for name, *_ in survey.sql.execute(f'DESCRIBE "u_{phase.name}"').fetchall()}
    reads = _reads(plan, node)
    factors = [f"coalesce(unit.{name}, 1)" for name in SIZE if name in reads and name in kinds]
    if "guidance" in node.depends and "guidance" in kinds:
        factors.append("CASE WHEN unit.guidance > 1 THEN 2 ELSE 1 END")
    return " * ".join(f"({f})::DOUBLE" for f in factors) or "1"


def _reads(plan: Plan, node: Node) -> set[str]:
    """The columns of a unit that decide a row of this step, also by the rows that it is made of."""
    columns, left, seen = set[str](), [node.name], set[str]()
    while left:
        name = left.pop()
        if name not in seen and not plan.node(name).job:
            seen.add(name)
            columns |= set(plan.node(name).depends)
            left += plan.node(name).sources
    return columns


def _histories(catalog: Catalog, survey: Survey, nodes: Sequence[Node]) -> dict[str, _History]:
    """Rows of these steps, of this plan and of earlier runs of the same steps."""
    found = {node.name: _History() for node in nodes}
    _read(survey, survey.plan, nodes, found)
    wanted = {n.fingerprint: n for n in nodes}
    read = {survey.plan.to_json()}
    for row in reversed(runs_table(catalog).to_pylist()):
        if row["flow"] != survey.plan.flow or row["plan"] in read or len(read) > MOST_RUNS:
            continue
        earlier = Plan.from_json(row["plan"])
        same = [n for n in earlier.nodes if n.fingerprint in wanted and n.name == wanted[n.fingerprint].name]
        if same:
            read.add(row["plan"])
            _read(find_run(catalog, run_id=row["run_id"]).survey(catalog), earlier, same, found)
    return found


def _read(survey: Survey, plan: Plan, nodes: Sequence[Node], found: Mapping[str, _History]) -> None:
    for node in nodes:
        phase = plan.phase_of(node.name)
        if not survey.units_known(phase):
            continue
        row = f'"{node.name}"'
        found[node.name].add(
            survey.query(
                f"""SELECT id, size, core_seconds, gpu_seconds,
                row_number() OVER (PARTITION BY run_id, worker ORDER BY started, id) = 1 AS first FROM (
                  SELECT DISTINCT ON ({row}.id) {row}.id AS id, {size_of(survey, plan, node, phase)} AS size,
                  {row}.core_seconds AS core_seconds, {row}.gpu_seconds AS gpu_seconds, {row}.run_id AS run_id,
                  {row}.worker AS worker, {row}.started AS started
                  FROM "p_{phase.name}" WHERE {row}.status IN ('ok', 'rejected') ORDER BY {row}.id)
                ORDER BY started DESC LIMIT {MOST_ROWS}"""
            )
        )


def estimate_table(found: Estimate, prices: PricesConfig) -> Table:
    """A line a step that has work: rows, core time, GPU time, money where there are prices, and how sure that is."""
    table = Table(box=None, pad_edge=False)
    names = ["estimate", "rows", "core time", "GPU time", *(["money"] if prices.known else []), "from"]
    for name in names:
        table.add_column(name, justify="left" if name in ("estimate", "from") else "right")
    for step in (s for s in found.steps if s.rows):
        rows = f"{'up to ' if step.at_most else ''}{step.rows:,}"
        if step.sureness == UNKNOWN:
            table.add_row(step.step, rows, *["unknown"] * (len(names) - 3), "never run in this store")
            continue
        times = [duration_text(s) if s else "-" for s in (step.core_seconds, step.gpu_seconds)]
        money = [prices.text(prices.money(step.core_seconds, step.gpu_seconds))] if prices.known else []
        basis = counted(step.known, "row") + (" of other sizes" if step.sureness == SCALED else "")
        table.add_row(step.step, rows, *times, *money, basis)
    return table


def estimate_text(found: Estimate, prices: PricesConfig) -> str:
    """One line with the sum; "" where there is nothing to do."""
    if not any(s.rows for s in found.steps):
        return ""
    if not (found.core_seconds or found.gpu_seconds):
        return "estimate: unknown, as none of these steps was run in this store yet"
    parts = [f"{duration_text(found.core_seconds)} of core time"]
    parts += [f"{duration_text(found.gpu_seconds)} of GPU time"] if found.gpu_seconds else []
    parts += [prices.text(prices.money(found.core_seconds, found.gpu_seconds))] if prices.known else []
    words = "at least" if found.unknown else "up to" if any(s.at_most for s in found.steps) else "about"
    without = f", without {', '.join(found.unknown)}, never run in this store" if found.unknown else ""
    return f"estimate: {words} {', '.join(parts)}{without}"
