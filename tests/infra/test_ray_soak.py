"""The long forms: Ray's memory monitor, a killed driver, and many deaths in a row, each on a Ray of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages.core.config_files import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.soak]

SCRIPT = """
import json, sys, threading
import tests.conftest
from infra.ray.executor import RayExecutor
from infra.ray.settings import RaySettings
from stages.core.ledger.storage import Storage
from tests.infra.conftest import ref, works
store, do, resources = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
settings = {"address": sys.argv[5], "env": {"OMP_NUM_THREADS": "2"}} if sys.argv[5:] else {"num_cpus": 4}
executor = RayExecutor(Storage(store), RaySettings(object_store_mb=80, **settings))
step = ref(seconds=0.05, resources=resources)
for row in executor.map(step, works(int(sys.argv[4]), {int(k): v for k, v in do.items()}), threading.Event()):
    print(json.dumps({k: row.get(k) for k in ("parents", "status", "error", "threads")}), flush=True)
executor.close()
"""


def command(store: Path, do: dict[int, str], count: int, **resources: float) -> list[str]:
    return [sys.executable, "-c", SCRIPT, str(store), json.dumps(do), json.dumps(resources), str(count)]


def run(argv: list[str], environment: dict[str, str] | None = None) -> list[dict[str, Any]]:
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_rays_memory_monitor_is_told_apart_from_a_lost_worker(tmp_path: Path) -> None:
    """Ray is told to act at 7 GB above what is used now, which is more than tests beside this one take; one row takes
    11 GB."""
    memory = psutil.virtual_memory()
    if memory.available < 14 << 30:
        pytest.skip("needs 14 GB of free memory")
    threshold = (memory.total - memory.available + (7 << 30)) / memory.total
    limits = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    rows = run(command(tmp_path, {2: "allocate:11000"}, 6, batch_rows=4, attempts=2), limits)
    failed = [row for row in rows if row["status"] != "ok"]
    assert [row["parents"] for row in failed] == ["in2"]
    assert failed[0]["error"].startswith("out of memory: OutOfMemoryError: ")
    assert len(rows) == 6


def test_a_killed_driver_leaves_no_process(tmp_path: Path) -> None:
    driver = subprocess.Popen(command(tmp_path, {}, 2000, workers=2), cwd=ROOT, stdout=subprocess.PIPE)
    assert driver.stdout
    driver.stdout.readline()
    family = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in family if "ray::RemoteWorker" in " ".join(process.cmdline())]
    assert workers
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not psutil.wait_procs(workers, timeout=300)[1]
    assert not psutil.wait_procs(family, timeout=900)[1], "Ray's agents look for their parent every few seconds"


def test_many_killers_among_many_rows(tmp_path: Path) -> None:
    killers = {n: "kill" for n in range(5, 120, 10)}
    rows = run(command(tmp_path, killers, 120, workers=2, batch_rows=16, attempts=2))
    assert len(rows) == len({row["parents"] for row in rows}) == 120
    assert {int(row["parents"][2:]) for row in rows if row["status"] == "error"} == set(killers)


def test_a_cluster_is_joined_used_and_left_up(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="r")  # short: Ray puts sockets there
    options = ["--include-dashboard=false", "--num-cpus=2", "--object-store-memory=80000000", f"--temp-dir={folder}"]
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", *options]
    with psutil.Popen([*ray, "--node-ip-address=127.0.0.1"], stdout=subprocess.DEVNULL) as head:
        try:
            _wait_for(port)
            tokens = {"RAY_AUTH_MODE": "token"}  # `ray start` asks for them by itself
            for _ in range(2):
                rows = run([*command(tmp_path, {1: "raise"}, 3, attempts=1), f"127.0.0.1:{port}"], tokens)
                assert sorted(row["status"] for row in rows) == ["error", "ok", "ok"]
                assert {row["threads"] for row in rows} == {None, "2"}
        finally:
            family = head.children(recursive=True)
            head.terminate()
            psutil.wait_procs(family, timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.5)
    time.sleep(5)  # the head's own node registers a moment later
