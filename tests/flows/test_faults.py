"""The same campaign gives the same bytes wherever it runs, and however often it is killed on the way.

The short form, one kill on Ray, is in test_gates.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.run.session import existing_catalog
from flows.views.tables import read_table
from stages.core.ledger.upkeep import verify

RUSHES = [sys.executable, "-m", "flows.cli.main"]
KILL_LIMIT_S = 900
Contents = dict[tuple[str, str], tuple[str, str]]


def render(campaign: Path, store: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A render in a process group of its own, so that all of it can be killed at once."""
    command = [*RUSHES, "render", str(campaign), "--store", str(store), *words]
    return subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=KILL_LIMIT_S)
    assert process.returncode == 0, output
    return output


def contents(store: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """(take, stage) -> (row id, hash of the file): what must be equal."""
    rows = read_table(existing_catalog(str(store)), "artifacts").to_pylist()
    assert all(r["status"] == "ok" for r in rows), [r["error"] for r in rows if r["status"] != "ok"]
    return {(r["take_id"], r["stage"]): (r["artifact_id"], r["sha256"]) for r in rows}


def everything_below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL the driver alone, as the kernel would; what it started must go by itself."""
    family = everything_below(process)
    process.kill()
    process.communicate()
    gone_by = time.monotonic() + 900  # Ray's agents try to report to their dead head for about a minute
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family):
        assert time.monotonic() < gone_by, [p.cmdline() for p in family if p.is_running()]
        time.sleep(0.2)


def end_group(killed: subprocess.Popen[str]) -> None:
    """End what Ray has left behind of a killed driver: it goes by itself, but not at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(killed.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(
    campaign_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[str, str]]:
    """What the campaign gives in-process, never interrupted."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    finish(render(campaign_file, store, "--executor", "local"))
    return contents(store)


def assert_whole(store: Path, wanted: Contents) -> None:
    assert contents(store) == wanted
    report = verify(existing_catalog(str(store)))
    assert report.ok, report.faults


POINTS = ("before_move", "mid_move", "after_move", "before_commit", "after_commit")
WAYS = {
    "one worker, all rows at once": ("shard_rows=4", "base.resources.batch_rows=8"),
    "one shard a take": ("shard_rows=1",),
}
TWO_WORKERS = ("base.resources.workers=2", "decode.resources.workers=2", "base.resources.batch_rows=1", "shard_rows=1")
ROOM = ("--executor", "ray", "infra.ray.num_cpus=4")  # logical CPUs: room for second workers


def assert_ran_on_workers(store: Path) -> None:
    rows = read_table(existing_catalog(str(store)), "artifacts").to_pylist()
    assert all(r["setups"] == 1 for r in rows)
    assert len({r["worker"] for r in rows}) > 1
    assert not any(r["worker"].endswith(f"/{os.getpid()}") for r in rows)


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.parametrize("way", WAYS)
def test_ray_gives_the_same_bytes(way, campaign_file, undisturbed, tmp_path):
    finish(render(campaign_file, tmp_path / "store", *ROOM, *WAYS[way]))
    assert_whole(tmp_path / "store", undisturbed)
    assert_ran_on_workers(tmp_path / "store")


@pytest.mark.soak
def test_killed_before_and_after_each_move_and_commit(campaign_file, undisturbed, tmp_path):
    """In-process, where every file is moved by the process that is killed."""
    store = tmp_path / "store"
    for number, point in enumerate(POINTS):
        killed = render(campaign_file, store, "--executor", "local", env={"RUSHES_CRASH": f"{point}:{2 + number % 3}"})
        output, _ = killed.communicate(timeout=KILL_LIMIT_S)
        assert killed.returncode == -signal.SIGKILL, output
    finish(render(campaign_file, store, "--executor", "local"))
    assert_whole(store, undisturbed)


def random_kills(campaign_file: Path, store: Path, kills: int, seed: int) -> int:
    """Start the campaign on Ray again and again, killing it at a random moment or point. Returns the kills."""
    dice, done = random.Random(seed), 0
    for number in range(kills):
        point = f"{dice.choice(POINTS)}:{dice.randint(1, 6)}"
        # in turn: a worker at a point (the driver replaces it and is killed later), the driver at a point, the driver
        where = ({"RUSHES_CRASH_WORKER": point}, {"RUSHES_CRASH": point}, {})[number % 3]
        process = render(campaign_file, store, *ROOM, "shard_rows=1", env=where)
        try:
            process.communicate(timeout=dice.uniform(15, 60))
            done += process.returncode == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            kill(process)
            done += 1
    return done


@pytest.mark.soak
@pytest.mark.ray
def test_twenty_kills_on_ray(campaign_file, undisturbed, tmp_path):
    killed, stores = 0, 0
    while killed < 20:
        store = tmp_path / f"store{stores}"
        killed += random_kills(campaign_file, store, 4, seed=stores)
        finish(render(campaign_file, store, *ROOM))
        assert_whole(store, undisturbed)
        stores += 1
        print(json.dumps({"figure": "render_kills_survived", "kills": killed, "stores": stores}), flush=True)
        assert stores < 12, killed
