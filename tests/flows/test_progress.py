"""The time that is left, told from the rows so far: of simulated runs, whose end is known, and on the console."""

from __future__ import annotations

import heapq
import io
import itertools
import logging
import math
import random
import time
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from flows.run.forecast import Forecast
from flows.run.progress import LOGGED, Bars, duration_text

Made = tuple[float, float, str, str]
"""When a row began and ended, in seconds; its step; its worker."""


def simulate(
    rng: random.Random, units: int, steps: dict[str, tuple[float, int]], shard: int, serial: bool
) -> list[Made]:
    """A run of shards that go through steps of (seconds a row, workers), as the schedule does it; rows by their end.

    serial: one process does everything, one row at a time.
    """
    free = {name: [(0.0, f"{name}{i}") for i in range(n)] for name, (_, n) in steps.items()}
    one = [(0.0, "here")]
    ready = [(0.0, first, 0) for first in range(0, units, shard)]
    heapq.heapify(ready)
    rows: list[Made] = []
    names = list(steps)
    while ready:
        at, first, nth = heapq.heappop(ready)
        name, ends = names[nth], []
        for _ in range(min(shard, units - first)):
            idle, worker = heapq.heappop(one if serial else free[name])
            began = max(at, idle)
            ended = began + steps[name][0] * rng.uniform(0.7, 1.3)
            heapq.heappush(one if serial else free[name], (ended, worker))
            rows.append((began, ended, name, worker))
            ends.append(ended)
        if nth + 1 < len(names):
            heapq.heappush(ready, (max(ends), first, nth + 1))
    return sorted(rows, key=lambda r: r[1])


def told_after(rows: list[Made], share: float, forecast: Forecast) -> tuple[float, float, bool]:
    """(seconds left as told, as it was, whether told as a lower bound) once a share of the work is done."""
    work, done = sum(r[1] - r[0] for r in rows), 0.0
    for began, ended, step, worker in rows:
        times = {k: datetime.fromtimestamp(v + 1e9, UTC) for k, v in (("started", began), ("ended", ended))}
        forecast.add(step, {**times, "worker": worker})
        done += ended - began
        if done >= share * work:
            return forecast.seconds_left() or 0.0, rows[-1][1] - ended, bool(forecast.unknown)
    raise AssertionError("a run ends")


@pytest.mark.parametrize("serial", [True, False], ids=["one process", "workers"])
def test_a_tenth_of_the_work_tells_the_rest_within_a_factor_of_two(serial):
    """Of 200 runs that differ in everything; a store that knows the steps from before tells it for nearly all."""
    known, new = [], []
    for seed in range(200):
        rng = random.Random(seed)
        units, names = rng.randint(10, 80), [f"s{i}" for i in range(rng.randint(2, 6))]
        steps = {n: (10 ** rng.uniform(-1, 1), rng.choice([1, 1, 2, 4])) for n in names}
        rows = simulate(rng, units, steps, max(1, min(32, -(-units // 6))), serial)
        before = {n: s * rng.uniform(0.8, 1.25) for n, (s, _) in steps.items()}
        totals, workers = dict.fromkeys(names, units), {n: w for n, (_, w) in steps.items()}
        for earlier, outcomes in ((before, known), ({}, new)):
            forecast = Forecast(totals, earlier, workers, slots=1 if serial else math.inf)
            outcomes.append(told_after(rows, 0.1, forecast))
    ratios = [told / was for told, was, _ in known]
    assert sum(0.5 <= r <= 2 for r in ratios) >= 0.98 * len(ratios), sorted(ratios)
    ratios = [told / was for told, was, bound in new if not bound]
    assert sum(0.5 <= r <= 2 for r in ratios) >= 0.95 * len(ratios), sorted(ratios)
    assert all(told <= 2 * was for told, was, bound in new if bound), "a lower bound is one"


@pytest.mark.parametrize("set_up", [0.0, 5.0, 40.0])
def test_workers_that_are_still_to_start_count(set_up):
    """A run whose steps load their weights one after another, each as soon as the step before has its first row."""
    rng, units, names = random.Random(0), 12, [f"s{i}" for i in range(5)]
    seconds = {n: rng.uniform(1, 4) for n in names}
    ready, rows, starts = [1e9] * units, [], {}
    for n in names:
        starts[n] = ready[0]
        free = starts[n] + set_up
        for i in range(units):
            began = max(free, ready[i])
            free = ready[i] = began + seconds[n] * rng.uniform(0.8, 1.2)
            rows.append((ready[i], began, n))
    rows.sort()
    forecast = Forecast(dict.fromkeys(names, units), seconds)
    for nth, (ended, began, step) in enumerate(rows[:-1]):
        for name in (n for n in names if starts[n] <= began):
            forecast.start(name, starts[name])
        forecast.add(step, {"started": datetime.fromtimestamp(began, UTC), "ended": datetime.fromtimestamp(ended, UTC)})
        left = rows[-1][0] - ended
        if nth >= len(rows) / 10 and left > max(seconds.values()):
            assert 0.5 <= (forecast.seconds_left(now=ended) or 0) / left <= 2, (nth, step)


def test_what_happens_before_the_first_row_is_said(monkeypatch):
    """The console is no terminal: lines, each only once it differs."""
    out = io.StringIO()
    monkeypatch.setattr("flows.run.progress.LINE_SECONDS", 0)
    with Bars(Console(file=out, width=200), {"base": 2}, jobs={"copies"}) as bars:
        bars.poll_s = 0.01
        wait_for(lambda: "starting\n" in out.getvalue())
        logging.getLogger(LOGGED).info("starting a worker for %s", "base")
        wait_for(lambda: "starting a worker for base" in out.getvalue())
        began = datetime(2026, 1, 1, tzinfo=UTC)
        bars("base", {"status": "error", "started": began, "ended": began + timedelta(seconds=40)})
        wait_for(lambda: "base 1/2 (1 failed); about 40 s left" in out.getvalue())
        for node in ("copies", "clips"):
            bars(node, {"status": "ok", "started": began, "ended": began})
        wait_for(lambda: "base 1/2 (1 failed), copies done, clips 1/?" in out.getvalue())
    logging.getLogger(LOGGED).info("after the end")
    assert "after the end" not in out.getvalue()


def test_a_line_that_says_only_that_it_goes_on_comes_every_few_seconds(monkeypatch):
    """The time that is left differs at every look while a worker starts."""
    out, looks = io.StringIO(), itertools.count()
    monkeypatch.setattr("flows.run.progress.LINE_SECONDS", math.inf)
    monkeypatch.setattr(Bars, "_left", lambda bars: f"about {next(looks)} s left")
    with Bars(Console(file=out, width=200), {"base": 2}) as bars:
        bars.poll_s = 0.01
        logging.getLogger(LOGGED).info("starting a worker for %s", "base")
        wait_for(lambda: "a worker for base" in out.getvalue() and next(looks) > 20)
    assert out.getvalue().count("starting a worker for base") == 1, out.getvalue()


def wait_for(seen) -> None:
    while not seen():  # the time limit of the test ends it
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (59.6, "60 s"), (130, "2 min"), (5900, "98 min"), (12000, "3 h 20 min")]
)
def test_a_duration_is_said_as_people_say_it(seconds, text):
    assert duration_text(seconds) == text
