"""Workers that die, hang or never come up: the row at fault is found, the others are done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from stages.core.errors import UNWRITABLE
from stages.core.ledger.storage import Storage
from tests.infra.conftest import by_number, ref, works

pytestmark = pytest.mark.ray

Make = Callable[..., Any]
NEVER = threading.Event()
LIMIT_S = 20.0
"""Long enough for a row that does nothing, on a machine that is busy with other things."""


@pytest.mark.parametrize("batch_rows", [pytest.param(1, marks=pytest.mark.soak), 8])
def test_the_row_that_kills_is_found_and_the_others_are_done(
    executors: Make, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch waits in a worker behind another: else, where the driver has not yet seen that the one before is done,
    a loss is put down to that one, and the row at fault is tried once more."""
    monkeypatch.setattr("infra.ray.dispatch.QUICK_ROW_S", 0.0)
    executor = executors()
    step = ref(seconds=0.02, resources={"workers": 2, "batch_rows": batch_rows, "attempts": 2})
    rows = by_number(list(executor.map(step, works(9, {4: "kill"}), NEVER)))
    assert {n: row["status"] for n, row in rows.items() if row["status"] != "ok"} == {4: "error"}
    assert len(rows) == 9
    assert rows[4]["error"].startswith("worker lost: ActorDiedError: ")
    assert (rows[4]["error_kind"], rows[4]["attempt"]) == ("transient", 2)
    assert rows[4]["worker"]
    assert executor.stats["toy"].lost == 2


def test_tries_of_earlier_runs_count(executors: Make) -> None:
    executor = executors()
    work = [type(w)(w.parents, w.depends, 2, w.row) for w in works(1, {0: "kill"})]
    (row,) = executor.map(ref(resources={"attempts": 3}), work, NEVER)
    assert (row["status"], row["attempt"], executor.stats["toy"].lost) == ("error", 3, 1)


def test_a_row_past_its_time_limit_ends_alone(executors: Make) -> None:
    executor = executors()
    step = ref(setup_seconds=1.0, resources={"time_limit_s": LIMIT_S, "batch_rows": 8})
    rows = by_number(list(executor.map(step, works(5, {1: "hang"}), NEVER)))
    assert {n for n, row in rows.items() if row["status"] == "error"} == {1}
    assert rows[1]["error"] == "time limit: a row took longer than 20 s"
    assert (rows[1]["ended"] - rows[1]["started"]).total_seconds() >= LIMIT_S
    assert rows[2]["attempt"] == 1, "who only waited behind it was not tried"


def test_weights_that_do_not_load_are_the_error_of_every_row(executors: Make) -> None:
    executor = executors()
    rows = list(executor.map(ref(setup_do="raise"), works(6), NEVER))
    assert len(rows) == 6
    assert {row["error"].split(" (")[0] for row in rows} == {"RuntimeError: the model did not like it"}
    assert (executor.stats["toy"].started, executor.stats["toy"].set_ups) == (1, 0)


def test_a_worker_that_dies_in_its_set_up_is_tried_again_then_reported(executors: Make) -> None:
    executor = executors()
    rows = list(executor.map(ref(setup_do="kill", resources={"attempts": 2}), works(3), NEVER))
    assert [row["status"] for row in rows] == ["error"] * 3
    assert all(row["error"].startswith("no worker could be set up: worker lost: ") for row in rows)
    assert executor.stats["toy"].started == 2


def test_a_worker_that_is_not_ready_in_time_is_reported(executors: Make) -> None:
    executor = executors({"ready_s": 0.7})
    (row,) = executor.map(ref(setup_seconds=30, resources={"attempts": 1}), works(1), NEVER)
    assert row["error"] == (
        "no worker could be set up: time limit: not ready after 0.7 s (it asks for 0.5 CPU, 0 GPU, 0 GB of memory)"
    )


def test_a_class_that_the_worker_refuses_is_reported(executors: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    executor, step = executors(), ref(resources={"attempts": 1})
    monkeypatch.setattr("stages.core.config.PACKAGES", ("stages.", "data_prep."))
    (row,) = executor.map(step, works(1), NEVER)
    assert "toy.use: 'tests.infra.toys:Obey' must be" in row["error"]


@pytest.mark.parametrize("where", ["setup_do", "row"])
def test_a_full_disk_of_a_worker_is_why_the_run_stops(executors: Make, where: str) -> None:
    """Not the fault of a row, whatever its class says of errors."""
    step = ref(setup_do="full") if where == "setup_do" else ref()
    (row,) = executors().map(step, works(1, {0: "full"}), NEVER)
    assert row["error_kind"] == UNWRITABLE
    assert row["error"].startswith("cannot write to /")
    assert row["error"].endswith(": no space is left there; make room and run the same command again")


def test_a_result_that_cannot_travel_is_an_error_row(executors: Make) -> None:
    executor = executors()
    rows = list(executor.map(ref(use="ReturnsALock"), works(2), NEVER))
    assert [row["status"] for row in rows] == ["error"] * 2
    assert all("'_thread.lock' object" in row["error"] for row in rows)
    assert executor.stats["toy"].lost == 0


def test_a_kill_between_temporary_and_final_name_leaves_the_same_store(
    executors: Make, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker dies in the middle of its second file; what the driver was told to do is not handed down."""
    monkeypatch.setenv("RUSHES_CRASH_WORKER", "mid_move:2")
    executor = executors()
    rows = by_number(list(executor.map(ref(), works(4), NEVER)))
    assert [row["status"] for row in rows.values()] == ["ok"] * 4
    assert executor.stats["toy"].lost == 1
    assert len(storage.fs.find("media")) == 4
    assert len(storage.fs.find("tmp")) == 1
