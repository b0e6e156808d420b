"""The Ray executor where all goes well: same results, warm workers, shared room, logs, stop."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.ray.executor import RayExecutor
from infra.ray.settings import RaySettings
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.running.executor import LocalExecutor, Work
from stages.core.running.leaving import Stop
from tests.infra.conftest import by_number, ref, works

pytestmark = pytest.mark.ray

VOLATILE = ("worker", "started", "ended", "core_seconds", "gpu_seconds", "peak_memory_mb", "attempt", "threads")
Make = Callable[..., Any]
NEVER = threading.Event()
WAIT_S = 300


def stable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]
    return sorted(kept, key=lambda row: row["parents"])


@pytest.mark.parametrize(
    ("workers", "batch_rows"), [*(pytest.param(1, n, marks=pytest.mark.soak) for n in (1, 100)), (2, 3)]
)
def test_rows_and_files_equal_those_made_in_process(
    executors: Make, storage: Storage, workers: int, batch_rows: int
) -> None:
    work = works(11, {2: "raise", 5: "reject", 6: "bad", 7: "memory"})
    step = ref(resources={"workers": workers, "batch_rows": batch_rows})
    here = list(LocalExecutor(storage).map(step, work, NEVER))
    files = {uri: storage.read(uri) for uri in storage.fs.find("media")}
    storage.fs.rm("media", recursive=True)
    there = list(executors().map(step, work, NEVER))
    assert stable(there) == stable(here)
    assert [row["status"] for row in stable(there)].count("error") == 3
    assert {uri: storage.read(uri) for uri in storage.fs.find("media")} == files


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    """A folder in which workers leave marks for each other."""
    folder = tmp_path / "meeting"
    folder.mkdir()
    return folder


def test_every_worker_sets_up_once_and_threads_are_pinned(executors: Make, meeting: Path) -> None:
    """No row ends before both workers have one."""
    executor = executors()
    step = ref(resources={"workers": 2})
    together = dict.fromkeys(range(8), f"meet:{meeting}")
    rows = [row for _ in range(2) for row in executor.map(step, works(8, together), NEVER)]
    stats = executor.stats["toy"]
    assert {row["worker"] for row in rows} == set(stats.workers)
    assert (stats.started, stats.set_ups, stats.lost) == (2, 2, 0)
    assert {row["threads"] for row in rows} == {"1"}
    assert all(not row["worker"].endswith(f"/{os.getpid()}") for row in rows)


def test_keys_reach_the_workers_and_neither_rays_logs_nor_its_list_of_processes(ray_up: None, tmp_path: Path) -> None:
    """On a cluster: what a worker is handed stands nowhere that others can read."""
    store = Storage(str(tmp_path / "store"), {"secret": "kanari-option"})
    executor = RayExecutor(store, RaySettings(address="auto", env={"OMP_NUM_THREADS": "kanari-env"}))
    try:
        rows = list(executor.map(ref(), works(2, {1: "raise"}), NEVER))
        family = psutil.Process().children(recursive=True)
        shown = [" ".join(p.cmdline()) for p in family if p.is_running()]
    finally:
        executor.release(ref())
    assert {row["threads"] for row in rows if row["status"] == "ok"} == {"kanari-env"}
    folders = {found[1] for line in shown if (found := re.search(r"--session[_-]dir=(\S+)", line))}
    assert folders
    logs = [p for folder in folders for p in Path(folder, "logs").rglob("*") if p.is_file()]
    assert len(logs) > 3
    assert not [line for line in shown if "kanari" in line]
    assert not [p for p in logs if b"kanari" in p.read_bytes()]


def test_workers_start_only_as_there_is_work(executors: Make) -> None:
    executor = executors()
    assert len(list(executor.map(ref(resources={"workers": 3}), works(1), NEVER))) == 1
    assert executor.stats["toy"].started == 1


def test_shards_of_two_stages_overlap_and_share_their_workers(executors: Make, meeting: Path) -> None:
    """Three shards, each through both stages. The last row of the first stage waits for a row of the second."""
    executor = executors()
    first, second = ref("first"), ref("second", "Sibling")
    executor.check([first, second])
    for step in (first, second):  # their workers are up before anything is measured
        assert len(list(executor.map(step, [Work("up", 7, 0, {"n": -1})], NEVER))) == 1
    rows: dict[str, list[dict[str, Any]]] = {"first": [], "second": []}

    def some(numbers: range, what: str) -> list[Work]:
        return [work for work in works(12, dict.fromkeys(range(12), what)) if work.row["n"] in numbers]

    def shard(numbers: range) -> None:
        rows["first"] += executor.map(first, some(numbers, f"last:{meeting}"), NEVER)
        rows["second"] += executor.map(second, some(numbers, f"mark:{meeting}"), NEVER)

    threads = [threading.Thread(target=shard, args=(range(i, i + 4),)) for i in (0, 4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stage in rows.values():
        assert [row["status"] for row in by_number(stage).values()] == ["ok"] * 12
    assert {name: pool.started for name, pool in executor.stats.items()} == {"first": 1, "second": 1}


def test_two_workers_share_one_gpu(executors: Make, meeting: Path) -> None:
    step = ref(seconds=0.2, resources={"gpus": 0.5, "workers": 3})
    rows = list(executors().map(step, works(8, dict.fromkeys(range(8), f"meet:{meeting}")), NEVER))
    assert len({row["worker"] for row in rows}) == 2, "a third half does not fit"
    for row in rows:
        held = (row["ended"] - row["started"]).total_seconds()
        assert 0.1 <= row["gpu_seconds"] <= 0.5 * held + 0.01, "half a GPU, as long as the row took"


def test_a_step_that_no_node_can_host_is_refused_with_both_figures(executors: Make) -> None:
    with pytest.raises(BadInput, match=r"^huge\.resources.*64 CPU, 2 GPU.*no node.*4 CPU, 1 GPU"):
        executors().check([ref(), ref("huge", resources={"cpus": 64, "gpus": 2})])
    with pytest.raises(BadInput, match="must be a fraction of one GPU or a whole number"):
        executors().check([ref("odd", resources={"gpus": 1.5})])
    executors({"autoscaling": True}).check([ref("huge", resources={"cpus": 64})])


def test_steps_that_do_not_fit_together_run_one_after_the_other(executors: Make) -> None:
    executor = executors()
    steps = [ref(name, salt=name, resources={"cpus": 3}) for name in ("one", "two")]
    executor.check(steps)
    assert not executor.fits_together(steps)
    assert executor.fits_together(steps[:1])
    for step in steps:
        assert len(list(executor.map(step, works(2), NEVER))) == 2
        executor.release(step)
    # without the release, the idle worker of the one makes room for the other
    for step in steps:
        assert len(list(executor.map(step, works(1), NEVER))) == 1
    assert [executor.stats[name].started for name in ("one", "two")] == [2, 2]


def test_a_second_worker_leaves_room_for_a_step_that_has_none(executors: Make) -> None:
    executor = executors()
    one, two = (ref(name, salt=name, resources={"cpus": 2, "workers": 2}) for name in ("one", "two"))
    executor.check([one, two])
    assert len(list(executor.map(one, works(4), NEVER))) == 4
    assert executor.stats["one"].started == 1


def test_a_draining_stop_finishes_the_batch_at_work(executors: Make) -> None:
    stop, executor = Stop(), executors()
    rows = executor.map(ref(resources={"batch_rows": 4}), works(12), stop)
    first = next(rows)
    stop.drain()
    assert set(by_number([first, *rows])) == {0, 1, 2, 3}
    assert len(list(executor.map(ref(resources={"batch_rows": 4}), works(12), NEVER))) == 12, "the worker lives on"


def test_stop_ends_the_worker_at_work(executors: Make, meeting: Path) -> None:
    """Its row would take far longer than this waits for the worker's end."""
    stop, executor = threading.Event(), executors()
    rows = executor.map(ref(resources={"batch_rows": 1}), works(4, {2: f"hang:{meeting}"}), stop)
    assert set(by_number([next(rows), next(rows)])) == {0, 1}

    def stop_once_it_hangs() -> None:
        _until(lambda: any(meeting.iterdir()))
        stop.set()

    threading.Thread(target=stop_once_it_hangs, daemon=True).start()
    assert list(rows) == []
    (mark,) = meeting.iterdir()
    _until(lambda: not _alive(int(mark.name)))


def _until(true: Callable[[], bool]) -> None:
    """Wait for something to hold."""
    limit = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_rows_not_taken_end_with_the_reader(executors: Make) -> None:
    executor = executors()
    rows = executor.map(ref(seconds=0.1), works(50), NEVER)
    next(rows)
    rows.close()
    assert len(list(executor.map(ref(), works(2), NEVER))) == 2


def test_logs_of_workers_come_with_the_rows(executors: Make, caplog: pytest.LogCaptureFixture) -> None:
    records: list[tuple[str, dict[str, Any]]] = []
    executor = executors(on_log=lambda step, record: records.append((step, record)))
    (row,) = executor.map(ref(), works(1, {0: "talk"}), NEVER)
    assert [(step, record["name"]) for step, record in records] == [("toy", "rushes.toys"), ("toy", "py.warnings")]
    assert records[0][1]["message"] == "about to work"
    assert "a library warns" in records[1][1]["message"]
    assert {record["worker"] for _, record in records} == {row["worker"]}
    with caplog.at_level(logging.INFO, "rushes"):
        list(executors().map(ref(), works(1, {0: "talk"}), NEVER))
    assert "toy: about to work" in caplog.text


def test_a_store_in_memory_is_refused() -> None:
    from infra.ray.executor import RayExecutor

    with pytest.raises(BadInput, match="lives in one process; use --executor local"):
        RayExecutor(Storage("memory://x"))
