"""Whether workers fit on nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ray.capacity import GB, Need, Node, fit_together, fits_somewhere
from stages.core.step import Resources

SMALL = Node.of({"CPU": 4.0, "memory": 8.0 * GB, "node:192.0.2.1": 1.0})
CARDS = Node.of({"CPU": 16.0, "GPU": 2.0, "memory": 64.0 * GB})


def test_a_need_reads_as_people_write_it() -> None:
    need = Need.of(Resources(cpus=0.5, gpus=0.25, memory_gb=1.5))
    assert str(need) == "0.5 CPU, 0.25 GPU, 1.5 GB of memory"
    assert str(CARDS) == "16 CPU, 2 GPU, 64 GB of memory"


@pytest.mark.parametrize(
    ("need", "fits"),
    [
        (Need(16, 2, 64 * GB), True),
        (Need(17), False),
        (Need(1, 3), False),
        (Need(1, 0, 65 * GB), False),
        (Need(0, 0, 0), True),
    ],
)
def test_one_worker_must_fit_on_one_node(need: Need, fits: bool) -> None:
    assert fits_somewhere(need, [SMALL, CARDS]) is fits


@pytest.mark.parametrize(
    ("shares", "fits"),
    [([0.6, 0.6], True), ([0.6, 0.6, 0.6], False), ([0.5] * 4, True), ([1, 0.5, 0.5], True), ([2, 0.1], False)],
)
def test_a_share_lies_on_one_card(shares: list[float], fits: bool) -> None:
    assert fit_together([Need(1, share) for share in shares], [CARDS]) is fits


def test_tenths_add_up() -> None:
    assert fit_together([Need(0.1, 0.1)] * 20, [Node.of({"CPU": 2.0, "GPU": 2.0})])


@given(st.lists(st.floats(0.1, 4), max_size=12), st.lists(st.floats(0.5, 8), min_size=1, max_size=3))
def test_what_fits_together_is_no_more_than_there_is(cpus: list[float], nodes: list[float]) -> None:
    if fit_together([Need(c) for c in cpus], [Node(n, (), 0) for n in nodes]):
        assert sum(cpus) <= sum(nodes) + 1e-4
        assert fit_together([Need(c) for c in cpus[1:]], [Node(n, (), 0) for n in nodes])
