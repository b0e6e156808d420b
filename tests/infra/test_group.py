"""Workers that train together: there must be room for all, they are one torch group, and they stop when asked to."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from infra.ray.capacity import Node
from infra.ray.train_group import check_capacity
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.running.executor import LocalExecutor

TWO = {"workers": 2, "cpus": 1.0, "gpus": 0.0}


@pytest.mark.parametrize(
    ("group", "nodes"),
    [
        (TWO, [Node(2, (), 1)]),
        (TWO, [Node(1, (), 1), Node(1.5, (), 1)]),
        ({**TWO, "gpus": 1.0}, [Node(4, (1.0, 1.0), 1)]),
        ({**TWO, "gpus": 0.5}, [Node(4, (1.0,), 1)]),
    ],
)
def test_a_group_that_fits_is_let_in(group, nodes):
    check_capacity(group, nodes)


@pytest.mark.parametrize(
    ("group", "nodes"),
    [(TWO, []), (TWO, [Node(1.9, (), 1)]), ({**TWO, "gpus": 1.0}, [Node(4, (1.0,), 1), Node(4, (), 1)])],
)
def test_a_group_that_does_not_fit_is_refused_with_both_figures(group, nodes):
    with pytest.raises(BadInput, match=r"2 of 1 CPU.* Ray has room for [01] "):
        check_capacity(group, nodes)


@pytest.mark.soak
@pytest.mark.ray
def test_workers_are_one_group_speak_and_stop(executors, tmp_path):
    said: list[str] = []
    began = time.monotonic()
    answer = executors().launch(
        "tests.infra.toys:meet", {"say": "hello"}, {**TWO, "folder": str(tmp_path)},
        lambda: bool(said) and time.monotonic() > began, said.append,
    )  # fmt: skip
    assert answer == {"world": 2, "sum": 3.0, "stopped": True, "folder": str(Path.cwd())}
    assert said == ["hello"]


@pytest.mark.soak
@pytest.mark.ray
def test_bad_input_of_workers_is_bad_input_here(executors, tmp_path):
    with pytest.raises(BadInput, match="no such thing"):
        executors().launch(
            "tests.infra.toys:refuse", {}, {**TWO, "folder": str(tmp_path)}, lambda: False, lambda text: None
        )


def test_in_process_a_group_of_one_runs_here_and_a_larger_one_is_refused(tmp_path):
    lines: list[str] = []
    executor = LocalExecutor(Storage(str(tmp_path)))
    one = {**TWO, "workers": 1, "folder": str(tmp_path)}
    assert executor.launch("tests.infra.toys:echo", {"say": "hello"}, one, lambda: True, lines.append) == {
        "settings": {"say": "hello"},
        "stopped": True,
        "pid": os.getpid(),
    }
    assert lines == ["hello"]
    with pytest.raises(BadInput, match=r"2 workers need Ray: set infra\.executor=ray, or workers=1"):
        executor.launch("tests.infra.toys:echo", {}, TWO, lambda: False, lines.append)


@pytest.mark.parametrize("entry", ["os:system", "tests.infra.toys:missing", "tests.infra.gone:f", "tests.infra.toys"])
def test_only_functions_of_our_packages_are_launched(entry, tmp_path):
    one = {**TWO, "workers": 1, "folder": str(tmp_path)}
    with pytest.raises(BadInput, match="`module:function` inside stages"):
        LocalExecutor(Storage(str(tmp_path))).launch(entry, {}, one, lambda: False, lambda text: None)
