"""Work that is left after a stop, and work that is waited for. What hangs here is let go only after that."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator

import pytest

from stages.core.errors import Stopped
from stages.core.planning.survey import Survey
from stages.core.running import executor as executor_module
from stages.core.running import leaving
from stages.core.running import run as run_module
from stages.core.running.executor import LocalExecutor, Work
from stages.core.running.leaving import LeavableThread, Left, Stop, grace_of, left_at_work
from stages.core.running.run import Run
from tests import toys
from tests.toy_run import TAKES, run_all


class Gate:
    """Work that says when it has begun, and ends when it is told."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> str:
        self.begun.set()
        assert self.end.wait(600)
        return "done"

    def stop_once_begun(self, stop: threading.Event) -> None:
        """Set `stop` when the work has begun."""
        threading.Thread(target=lambda: (self.begun.wait(600), stop.set()), daemon=True).start()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    for module in (leaving, executor_module, run_module):
        monkeypatch.setattr(module, "GRACE_S", 0.2)
    made = Gate()
    yield made
    made.end.set()
    for thread in leaving._left:
        thread.join(600)
    assert not left_at_work()


def test_calls_are_made_on_one_thread_with_the_callers_context():
    thread, said = LeavableThread("t"), contextvars.ContextVar("said", default="")
    said.set("here")
    found = [thread.call(lambda: (threading.get_ident(), said.get()), threading.Event(), lambda: 0) for _ in range(3)]
    assert len(set(found)) == 1
    assert found[0][0] != threading.get_ident()
    assert found[0][1] == "here"
    with pytest.raises(TimeoutError, match="its own"):
        thread.call(lambda: _raise(TimeoutError("its own")), threading.Event(), lambda: 0)
    thread.close()
    assert thread.call(lambda: "again", threading.Event(), lambda: 0) == "again"


def _raise(error: Exception) -> None:
    raise error


def test_work_is_left_after_a_stop_or_waited_for(gate):
    stop, thread = threading.Event(), LeavableThread("t")
    gate.stop_once_begun(stop)
    with pytest.raises(Left):
        thread.call(gate, stop, lambda: 0.1)
    assert left_at_work()
    other = Gate()
    threading.Timer(0.5, other.end.set).start()
    assert thread.call(other, stop, lambda: None) == "done", "it is waited for, on another thread"


def test_a_draining_stop_finishes_rows_at_work_and_a_plain_one_after_it_does_not(local, gate, monkeypatch):
    step, work = toys.plan_of(toys.ref("odd", "Odd")).refs["odd"], [Work(str(i), "", 0, {}) for i in range(3)]
    plain, polls, stop = toys.Odd.process, [], Stop()

    def drained(self: toys.Odd, row: dict) -> dict:
        stop.drain()
        while len(polls) < 5:  # the executor has asked often how long it may wait
            gate.end.wait(0.01)
        return plain(self, row)

    monkeypatch.setattr(executor_module, "grace_of", lambda stop: polls.append(grace_of(stop)) or polls[-1])
    monkeypatch.setattr(leaving, "GRACE_S", 0.0)
    monkeypatch.setattr(toys.Odd, "process", drained)
    rows = [Work("0", "", 0, {"number": 1}), *work[1:]]
    assert len(list(LocalExecutor(local.storage).map(step, rows, stop))) == 1, "nothing new has begun"
    assert set(polls) == {None}
    monkeypatch.setattr(toys.Odd, "process", gate)
    late = Stop()
    threading.Thread(target=lambda: (gate.begun.wait(600), late.drain(), late.set()), daemon=True).start()
    assert list(LocalExecutor(local.storage).map(step, work, late)) == []
    assert left_at_work()
    late.drain()
    assert not late.drains, "it takes nothing back"


def test_a_row_is_left_and_an_error_of_the_stop_is_no_row(local, gate, monkeypatch):
    step, stop = toys.plan_of(toys.ref("odd", "Odd")).refs["odd"], threading.Event()
    work = [Work(str(i), "", 0, {}) for i in range(3)]
    monkeypatch.setattr(toys.Odd, "process", gate)
    gate.stop_once_begun(stop)
    executor = LocalExecutor(local.storage)
    assert list(executor.map(step, work, stop)) == []
    assert left_at_work()
    assert executor.awaited() == ""

    def fails(*_: object) -> None:
        broken.set()
        raise ConnectionError("its encoder was interrupted")

    broken = threading.Event()
    monkeypatch.setattr(toys.Odd, "process", fails)
    assert list(LocalExecutor(local.storage).map(step, work[:1], broken)) == []


def test_a_job_that_asks_is_waited_for_and_another_is_left(local, gate, monkeypatch):
    """What was left is done by the next run."""
    plan = toys.toy_plan(local, TAKES)
    run_all(local, plan, limit=len(TAKES))
    keep = toys.Keep.run
    monkeypatch.setattr(toys.Keep, "run", gate)
    run = Run(local, LocalExecutor(local.storage), plan)
    gate.stop_once_begun(run.stop)
    with pytest.raises(Stopped):
        run.do_job(plan.node("keep"))
    assert Survey(local, plan).count("keep").todo == 1

    def asks(job: toys.Keep, tables: object) -> object:
        assert not job.workspace.stop()
        run.ask_to_stop("enough")
        said.append(run.awaited())
        threading.Event().wait(0.5)
        return keep(job, tables)

    said: list[str] = []
    monkeypatch.setattr(toys.Keep, "run", asks)
    run = Run(local, LocalExecutor(local.storage), plan)
    run.do_job(plan.node("keep"))
    assert said == ["keep to keep what it has done"]
    assert Survey(local, plan).count("keep").done == 1
