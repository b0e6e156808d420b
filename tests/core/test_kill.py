"""Killed at every point and at any moment, then run again: the same rows and bytes as never killed, nothing twice."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time

import pytest

from stages.core.crash import POINTS
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.storage import Storage
from stages.core.ledger.upkeep import verify
from stages.core.planning.survey import Count, Survey
from tests import toys
from tests.core.test_survey import tables
from tests.toy_run import TAKES, run_all

RUN_POINTS = [p for p in POINTS if p != "before_delete"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run that nothing disturbs leaves: (rows of every table, media files)."""
    catalog = Catalog(Storage(str(tmp_path_factory.mktemp("whole"))))
    plan = toys.toy_plan(catalog, TAKES)
    run_all(catalog, plan)
    return tables(catalog, plan), toys.media(catalog.storage.local_root)


def start(store: str, **extra: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tests.toy_run", store], env=toys.environment(**extra))


def check_sound(catalog) -> None:
    """What holds at every moment, also right after a kill."""
    report = verify(catalog)
    assert report.faults == []
    assert report.twice == []


def check_end(catalog, whole) -> None:
    process = start(catalog.storage.url)
    assert process.wait(900) == 0
    plan = toys.toy_plan(catalog, TAKES)
    rows, files = whole
    assert tables(catalog, plan) == rows
    assert toys.media(catalog.storage.local_root) == files
    assert Survey(catalog, plan).counts() == {
        "words": Count(4, 0, 0, 0),
        "split": Count(8, 0, 0, 0),
        "keep": Count(1, 0, 0, 0),
        "mark": Count(8, 0, 0, 0),
    }
    report = verify(catalog)
    assert (report.faults, report.twice, report.orphans) == ([], [], [])


def kill_at(catalog, point: str) -> None:
    assert start(catalog.storage.url, RUSHES_CRASH=point).wait(900) == -signal.SIGKILL
    check_sound(catalog)


def kill_somewhen(catalog, seconds: float) -> None:
    process = start(catalog.storage.url)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait(600)
    check_sound(catalog)


def test_kills_at_every_point(local, whole):
    """Each later in the run than the one before; the run is taken up after each."""
    for point, times in zip(RUN_POINTS, (3, 4, 7, 3, 2), strict=True):
        kill_at(local, f"{point}:{times}")
    kill_somewhen(local, 0.6)
    check_end(local, whole)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_fifty_kills(tmp_path, whole, seed, capsys):
    """Ten kills a seed. A run that ends before its kill is checked, and the next begins on an empty store."""
    choose, died, stores = random.Random(seed), 0, 1
    local = Catalog(Storage(str(tmp_path / "1")))
    while died < 10:
        point, after = f"{choose.choice(RUN_POINTS)}:{choose.randint(1, 12)}", choose.uniform(0.2, 3)
        at_point = choose.random() < 0.5
        process = start(local.storage.url, **({"RUSHES_CRASH": point} if at_point else {}))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(None if at_point else after)
        process.kill()
        killed = process.wait(600) == -signal.SIGKILL
        died += killed
        check_sound(local)
        if not killed:
            check_end(local, whole)
            stores += 1
            local = Catalog(Storage(str(tmp_path / str(stores))))
    check_end(local, whole)
    with capsys.disabled():
        print(
            json.dumps({"figure": "core_kills", "seed": seed, "killed": died, "stores": stores, "lost": 0, "twice": 0})
        )
