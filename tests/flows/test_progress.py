"""The time that is left, told from the rows so far: of simulated runs, whose end is known, and on the console."""

from __future__ import annotations

import heapq
import io
import itertools
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from rich.console import Console

from flows.run.forecast import Forecast
from flows.run.progress import LOGGED, Bars, counts_notes, pause
from flows.run.schedule import shard_size, shards
from flows.words import duration_text
from stages.core.planning.survey_views import Count

Made = tuple[float, float, str]
"""When a row began and ended, in seconds; its step."""
EPOCH, SHARES = 1e9, (0.1, 0.3, 0.5, 0.8)


def simulate(
    rng: random.Random, cut: list[int], steps: dict[str, tuple[float, int]], how: str, set_up: float, begun: int = 0
) -> tuple[list[Made], dict[str, float]]:
    """A run of shards of so many units (`cut`) that go through steps of (seconds a row, workers), as the schedule does
    it: its rows by their end, and when the first worker of each step was started; set_up: seconds that this takes;
    begun: shards whose first step is done already.

    how: `local` is one process with one row at a time, of whichever shard; `ray` workers for each step; `cramped` one
    step after another, each with its workers.
    """
    names, rows, starts = list(steps), list[Made](), dict[str, float]()

    def made(began: float, name: str) -> float:
        rows.append((began, began + steps[name][0] * rng.uniform(0.7, 1.3), name))
        return rows[-1][1]

    if how == "local":
        at, todo = 0.0, [[n for n in names[i < begun :] for _ in range(units)] for i, units in enumerate(cut)]
        while left := [rows for rows in todo if rows]:
            at = made(at, (rng.choice(left) if at else left[0]).pop(0))
        return rows, starts
    ready = [(0.0, i, int(i < begun), units) for i, units in enumerate([sum(cut)] if how == "cramped" else cut)]
    free = dict[str, list[float]]()
    while ready:
        at, nth, step, units = heapq.heappop(ready)
        name, ends = names[step], []
        starts.setdefault(name, at)
        workers = free.setdefault(name, [at + set_up] * steps[name][1])
        for _ in range(units):
            ends.append(made(max(at, heapq.heappop(workers)), name))
            heapq.heappush(workers, ends[-1])
        if step + 1 < len(names):
            heapq.heappush(ready, (max(ends), nth, step + 1, units))
    return sorted(rows, key=lambda r: r[1]), starts


def told(rows: list[Made], starts: dict[str, float], forecast: Forecast) -> dict[float, float]:
    """Share of the work that is done -> seconds left as told, as a multiple of what was left."""
    work, done, ratios, waiting = sum(r[1] - r[0] for r in rows), 0.0, {}, dict(starts)
    for began, ended, step in rows:
        for name in [n for n, at in waiting.items() if at <= ended]:
            forecast.start(name, EPOCH + waiting.pop(name))
        times = {k: datetime.fromtimestamp(EPOCH + v, UTC) for k, v in (("started", began), ("ended", ended))}
        forecast.add(step, times)
        done, left = done + ended - began, rows[-1][1] - ended
        for share in SHARES:
            if share not in ratios and done >= share * work and left > 0.02 * rows[-1][1]:
                ratios[share] = (forecast.seconds_left(EPOCH + ended) or 0.0) / left
    return ratios


def campaigns(how: str, known: bool, resumed: bool = False) -> Iterator[dict[float, float]]:
    """Of 150 campaigns that differ in everything: units, steps that cost from 0.1 s to 10 s a row, workers, set-up.

    known: the store has rows of these steps from before. resumed: a run before has made some rows of the first step.
    """
    for seed in range(150):
        rng = random.Random(seed)
        units = rng.choice([4, 10, 20, 40, 80])
        steps = {f"s{i}": (10 ** rng.uniform(-1, 1), rng.choice([1, 1, 2])) for i in range(rng.randint(2, 6))}
        set_up = 0.0 if how == "local" else rng.choice([0.0, 5.0, 20.0])
        cut = [len(s) for s in shards([{"unit": {}}] * units)]
        begun = rng.randint(1, len(cut)) if resumed else 0
        rows, starts = simulate(rng, cut, steps, how, set_up, begun)
        before = {n: s * rng.uniform(0.8, 1.25) for n, (s, _) in steps.items()} if known else {}
        workers, made = {n: w for n, (_, w) in steps.items()}, Counter(name for *_, name in rows)
        totals = {n: made[n] for n in steps}
        forecast = Forecast(totals, before, workers, 1 if how == "local" else math.inf, shard=shard_size(units))
        if how == "cramped":
            forecast.run_one_by_one()
        yield told(rows, starts, forecast)


def share_right(found: list[dict[float, float]], share: float) -> float:
    """How many are told within a factor of two."""
    ratios = [f[share] for f in found if share in f]
    assert len(ratios) > 50
    return sum(0.5 <= r <= 2 for r in ratios) / len(ratios)


@pytest.mark.parametrize("how", ["local", "ray", "cramped"])
def test_a_store_that_knows_the_steps_tells_the_rest_within_a_factor_of_two(how):
    """Also of a campaign that goes on after a stop."""
    for resumed in (False, True):
        found = list(campaigns(how, known=True, resumed=resumed))
        right = {share: share_right(found, share) for share in SHARES}
        assert min(right.values()) >= 0.97, (resumed, right)


@pytest.mark.parametrize("how", ["local", "ray", "cramped"])
def test_a_new_store_tells_it_as_soon_as_each_step_has_made_a_row(how):
    """Before that a step is taken to cost what the slowest other does, which is wrong for some of these campaigns: one
    in which the last step costs a hundred times the first, or a hundredth."""
    found = list(campaigns(how, known=False))
    right = [share_right(found, share) for share in SHARES]
    least = {"local": (0.7, 0.8, 0.88, 0.94), "ray": (0.75, 0.85, 0.9, 0.9), "cramped": (0.5, 0.5, 0.5, 0.5)}[how]
    assert all(r >= bound for r, bound in zip(right, least, strict=True)), right


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("set_up", [0.0, 12.0])
def test_four_stages_of_unequal_cost(known, workers, set_up):
    steps = {"text": (1.0, 1), "base": (8.0, workers), "refine": (3.0, workers), "decode": (0.5, 1)}
    for units in (8, 30) if known else (40, 100):
        cut = [len(s) for s in shards([{"unit": {}}] * units)]
        rows, starts = simulate(random.Random(units), cut, steps, "ray", set_up)
        before = {n: 1.1 * s for n, (s, _) in steps.items()} if known else {}
        forecast = Forecast(
            dict.fromkeys(steps, units), before, {n: w for n, (_, w) in steps.items()}, shard=shard_size(units)
        )
        ratios = told(rows, starts, forecast)
        assert set(SHARES) == set(ratios)
        if not known:  # at a tenth a step may not have made a row yet
            assert 0.4 <= ratios.pop(0.1) <= 2.5
        assert all(0.5 <= r <= 2 for r in ratios.values()), (units, ratios)


def test_a_step_without_a_model_is_not_taken_to_be_as_slow_as_the_slowest():
    """A curation: one step decodes, and those after it, which nothing is known of yet, only compute."""
    names = ("probe", "decode", "cuts", "scores")
    forecast = Forecast(dict.fromkeys(names, 4), slots=1, light=set(names))
    at = datetime.fromtimestamp(EPOCH, UTC)
    for name, seconds in (*[("probe", 0.1)] * 4, *[("decode", 10.0)] * 2):
        forecast.add(name, {"started": at, "ended": (at := at + timedelta(seconds=seconds))})
    assert forecast.seconds_left(at.timestamp()) == pytest.approx(2 * 10 + 2 * 4 * 1.0)


def test_a_row_at_work_counts_and_how_sure_it_is_is_said():
    forecast = Forecast({"base": 3, "decode": 3}, {"base": 10.0, "decode": 1.0}, slots=1)
    at = datetime.fromtimestamp(EPOCH, UTC)
    forecast.add("base", {"started": at, "ended": at + timedelta(seconds=10)})
    assert forecast.seconds_left(EPOCH + 10) == pytest.approx(23)
    assert forecast.seconds_left(EPOCH + 16) == pytest.approx(17)
    assert forecast.seconds_left(EPOCH + 100) == pytest.approx(14), "a late row is nearly done"
    assert forecast.sureness == "about"
    assert Forecast({"base": 3}).sureness == "roughly"
    gated = Forecast({"base": 1, "decode": 0}, {"base": 1.0}, supposed={"decode"})
    assert gated.sureness == "at least"
    gated.expect({"decode": 2})
    assert gated.sureness == "roughly", "what a row takes is not known"


def test_what_happens_before_the_first_row_is_said(monkeypatch):
    """The console is no terminal: a line when something else begins, and again while it goes on."""
    out = io.StringIO()
    monkeypatch.setattr("flows.run.progress.pause", lambda spent: 0)
    with Bars(Console(file=out, width=200), {"base": 2}, jobs={"copies"}) as bars:
        bars.poll_s = 0.01
        wait_for(lambda: "starting\n" in out.getvalue())
        logging.getLogger(LOGGED).info("starting a worker for %s", "base")
        wait_for(lambda: out.getvalue().count("starting a worker for base") > 1)
        began = datetime(2999, 1, 1, tzinfo=UTC)  # no time has gone by since
        bars("base", {"status": "error", "started": began, "ended": began + timedelta(seconds=40)})
        wait_for(lambda: "base 1/2 (1 failed); about 40 s left" in out.getvalue())
        for node in ("copies", "clips"):
            bars(node, {"status": "ok", "started": began, "ended": began})
        wait_for(lambda: "base 1/2 (1 failed), copies done, clips 1/?" in out.getvalue())
        logging.getLogger(LOGGED).info("to do: clips 6", extra={"expects": {"clips": 6}})
        wait_for(lambda: "copies done, clips 1/7" in out.getvalue())
    logging.getLogger(LOGGED).info("after the end")
    assert "after the end" not in out.getvalue()


def test_a_line_that_says_only_that_it_goes_on_comes_every_few_seconds(monkeypatch):
    """The time that is left differs at every look while a worker starts."""
    out, looks = io.StringIO(), itertools.count()
    monkeypatch.setattr("flows.run.progress.pause", lambda spent: math.inf)
    monkeypatch.setattr(Bars, "_left", lambda bars: f"about {next(looks)} s left")
    with Bars(Console(file=out, width=200), {"base": 2}) as bars:
        bars.poll_s = 0.01
        logging.getLogger(LOGGED).info("starting a worker for %s", "base")
        wait_for(lambda: "a worker for base" in out.getvalue() and next(looks) > 20)
    assert out.getvalue().count("starting a worker for base") == 1, out.getvalue()


def test_a_line_that_would_say_the_same_again_comes_less_often(monkeypatch):
    """A start of Ray that takes minutes is no ticker."""
    out = io.StringIO()
    monkeypatch.setattr("flows.run.progress.pause", lambda spent: 0.2)
    with Bars(Console(file=out, width=200), {"base": 2}) as bars:
        bars.poll_s = 0.01
        logging.getLogger(LOGGED).info("starting Ray")
        wait_for(lambda: "starting Ray" in out.getvalue())
        time.sleep(0.7)
    assert out.getvalue().count("starting Ray") == 1, out.getvalue()


def test_no_time_is_told_while_only_a_first_quick_step_is_known():
    at = datetime.fromtimestamp(EPOCH, UTC)
    forecast = Forecast({"ingest": 2, "sources": 1, "analyse": 2, "cuts": 2}, jobs={"sources"})
    for row in range(2):
        forecast.add("ingest", {"started": at, "ended": at + timedelta(seconds=0.1 + row)})
        assert not forecast.knows_enough
    forecast.add("analyse", {"started": at, "ended": at + timedelta(seconds=9)})
    assert forecast.knows_enough, "two steps say what the others may take"
    assert Forecast({"base": 3}, {"base": 1.0}).knows_enough, "all are known from earlier runs"


def test_a_line_without_enough_knowledge_tells_no_time(monkeypatch):
    out, at = io.StringIO(), datetime.fromtimestamp(EPOCH, UTC)
    monkeypatch.setattr("flows.run.progress.pause", lambda spent: 0)
    with Bars(Console(file=out, width=200), {"ingest": 2, "analyse": 2}) as bars:
        bars.poll_s = 0.01
        bars("ingest", {"status": "ok", "started": at, "ended": at + timedelta(seconds=1)})
        wait_for(lambda: "ingest 1/2\n" in out.getvalue())
    assert "left" not in out.getvalue()


def test_figures_under_a_plan_are_explained_as_far_as_they_occur():
    plan = SimpleNamespace(nodes=[SimpleNamespace(name="select", job="select", per=())])
    counts = {"see": Count(0, 0, 0, 0), "base": Count(1, 0, 2, 0), "select": Count(1, 0, 0, 0)}
    assert counts_notes(counts, plan) == [
        "waiting: an earlier step comes first",
        "only zeros: the step does not apply to anything here (see)",
        "jobs look at all rows at once and count as 1: select",
    ]
    assert counts_notes({"base": Count(1, 0, 0, 0)}, plan) == []


def test_lines_come_every_few_seconds_and_less_often_in_a_long_run():
    assert [pause(spent) for spent in (0, 30, 100, 600, 36000)] == [5, 5, 5, 30, 60]


def wait_for(seen) -> None:
    while not seen():  # the time limit of the test ends it
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (59.6, "60 s"), (130, "2 min"), (5900, "98 min"), (12000, "3 h 20 min")]
)
def test_a_duration_is_said_as_people_say_it(seconds, text):
    assert duration_text(seconds) == text
