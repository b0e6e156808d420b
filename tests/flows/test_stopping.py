"""Ctrl-C and SIGTERM on the command line: one word about what is waited for, an end in any case, and a sound store."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from flows.cli.main import main
from flows.run.stopping import Interrupted, StopOnSignal
from stages.core.config_files import ROOT
from stages.core.ledger.catalog import connect

WAIT_S = 600
SITE = str(Path(__file__).parent / "site")
TOYS = {
    "text": {"use": "tests.flows.toys:Letters"},
    "draw": {"use": "tests.flows.toys:Hang"},
    "gate": {"use": "tests.flows.toys:Slow"},
    "finish": {"use": "tests.flows.toys:Finish"},
}
ROW = "rushes: stopping; waiting for a row of draw (at most 5 s); {} to end at once"
AGAIN = {signal.SIGTERM: "send SIGTERM again", signal.SIGINT: "press Ctrl-C again"}
JOB = "rushes: stopping; waiting for gate to keep what it has done; press Ctrl-C again to end at once"
ON_RAY = "rushes: stopping; waiting for Ray to end its workers; press Ctrl-C again to end at once"


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """One prompt, two seeds; the row of the second hangs, and the job behind."""
    (tmp_path / "cascade.yaml").write_text(
        yaml.safe_dump({"steps": TOYS, "infra": {"executor": "local"}}, sort_keys=False)
    )
    path = tmp_path / "toys.yaml"
    values = {"name": "toys", "prompts": ["one"], "seeds": 2, "cascade": str(tmp_path / "cascade.yaml")}
    path.write_text(yaml.safe_dump(values))
    return path


class Stuck:
    """The command in a group of processes of its own, as in a terminal, in which a `row` or a `job` hangs."""

    def __init__(self, what: str, campaign: Path, *words: str) -> None:
        self.hanging = campaign.parent / f"hanging.{what}"
        self.hanging.touch()
        path = os.pathsep.join([str(ROOT), SITE])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", "render", str(campaign), *words],
            env={**os.environ, "PYTHONPATH": path, "RUSHES_TOY_HANG": str(self.hanging)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Until it hangs."""
        limit = time.monotonic() + WAIT_S
        while not self.hanging.with_suffix(".begun").exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < limit
            time.sleep(0.05)

    def send(self, number: int) -> None:
        """To all processes of the group."""
        os.killpg(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """(exit status, what it wrote as errors)."""
        try:
            _, errors = self.process.communicate(timeout=WAIT_S)
            return self.process.returncode, errors
        finally:
            self.kill()

    def kill(self) -> None:
        """End all of it, where that has not come by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def rushes(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


def check_and_run_again(campaign: Path, store: Path) -> None:
    """The store is sound, and the same command makes what is missing."""
    verified = rushes("catalog", "verify", "--store", store)
    assert verified.exit_code == 0, verified.output
    done = rushes("render", campaign, "--store", store)
    assert done.exit_code == 0, done.output
    assert "2 rows" in rushes("table", "videos", "--store", store).output
    assert rushes("catalog", "verify", "--store", store).exit_code == 0


@pytest.mark.parametrize("number", AGAIN)
def test_one_signal_leaves_the_row_at_work(number, campaign, tmp_path):
    """The row would hang for ever. What was done before it is stored, and nothing is exported."""
    store, out = tmp_path / "store", tmp_path / "out"
    stuck = Stuck("row", campaign, "--store", str(store), "--export", str(out))
    try:
        stuck.wait()
        stuck.send(number)
        status, errors = stuck.end()
    finally:
        stuck.kill()
    assert status == 3, errors
    assert [line for line in errors.splitlines() if "stopping" in line] == [ROW.format(AGAIN[number])]
    assert "Traceback" not in errors
    assert f"stopped (cancelled by {number.name})" in errors
    assert not out.exists()
    stuck.hanging.unlink()
    shown = rushes("status", "--store", store).output
    assert f"cancelled by {number.name}" in shown
    check_and_run_again(campaign, store)


def test_a_second_signal_ends_at_once_what_is_waited_for(campaign, tmp_path):
    """A job that keeps what it has done is waited for, however long that takes; the second Ctrl-C waits for nothing."""
    store = tmp_path / "store"
    stuck = Stuck("job", campaign, "--store", str(store))
    try:
        stuck.wait()
        stuck.send(signal.SIGINT)
        assert stuck.process.stderr
        errors = iter(stuck.process.stderr.readline, "")
        assert any(line.strip() == JOB for line in errors)
        stuck.send(signal.SIGINT)
        assert stuck.end() == (130, "")
    finally:
        stuck.kill()
    stuck.hanging.unlink()
    assert "lost" in rushes("status", "--store", store).output
    check_and_run_again(campaign, store)


@pytest.mark.soak
@pytest.mark.ray
def test_one_signal_ends_the_workers_of_ray(campaign, tmp_path):
    store = tmp_path / "store"
    stuck = Stuck("row", campaign, "--store", str(store), "--executor", "ray", "infra.ray.num_cpus=4")
    try:
        stuck.wait()
        stuck.send(signal.SIGINT)
        status, errors = stuck.end()
    finally:
        stuck.kill()
    assert status == 3, errors
    assert [line for line in errors.splitlines() if "stopping" in line] == [ON_RAY]
    stuck.hanging.unlink()
    check_and_run_again(campaign, store)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_no_run_goes_on_the_command_is_left(number, capsys):
    """While a campaign is read, say; and the handlers of before are back then."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as caught, StopOnSignal():  # noqa: PT012
        os.kill(os.getpid(), number)
        time.sleep(WAIT_S)
    assert caught.value.exit_status == 128 + number
    assert capsys.readouterr().err.startswith("rushes: stopping; ")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_query_that_is_interrupted_is_no_error_of_its_own(number, tmp_path, monkeypatch):
    """DuckDB looks for signals while it works, and puts an error of its own in the place of what a handler raises."""
    monkeypatch.setattr("flows.run.stopping.GRACE_S", WAIT_S)
    sent = threading.Timer(0.1, os.kill, (os.getpid(), number))

    def reads(*_: object) -> int:
        sent.start()
        return len(connect().execute("SELECT sum(range % 7) FROM range(100000000)").fetchall())

    monkeypatch.setattr("flows.cli.store.show_status", reads)
    result = rushes("status", "--store", tmp_path)
    assert sent.finished.is_set()
    assert result.exit_code == 128 + number, result.exception
    assert "Query interrupted" not in result.output


def test_ctrl_c_before_the_command_has_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.cli.main.be_quiet", lambda: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind `&` ignores it
    try:
        result = rushes("status", "--store", tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.exit_code, result.output) == (130, "")


def test_what_an_inner_one_has_heard_counts_outside(capsys):
    """So that the next signal ends the process, also where the run has ended in the meantime."""
    asked: list[int] = []
    with StopOnSignal() as outer:
        with StopOnSignal(lambda number: asked.append(number) or "to say") as inner:
            os.kill(os.getpid(), signal.SIGINT)
            limit = time.monotonic() + WAIT_S
            while not inner.heard and time.monotonic() < limit:
                time.sleep(0.01)
        assert outer.heard == 1
    assert asked == [signal.SIGINT]
    assert capsys.readouterr().err == "rushes: to say\n"
