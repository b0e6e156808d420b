"""What is handed out, and what becomes of it: no row is lost, none goes round for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ray.batches import Backlog, Cause, WorkerLoss, plan_retries
from stages.core.running.executor import Work

LOST, MEMORY, TIME = (WorkerLoss(cause, "why") for cause in Cause)


def batch(*attempts: int) -> tuple[Work, ...]:
    return tuple(Work(f"in{i}", 0, attempt, {}) for i, attempt in enumerate(attempts))


def ids(works: tuple[Work, ...]) -> list[str]:
    return [work.parents for work in works]


def test_a_lost_workers_rows_go_out_one_at_a_time() -> None:
    retries, failed = plan_retries(batch(0, 0, 0), LOST, attempts=3)
    assert [ids(some) for some in retries] == [["in0"], ["in1"], ["in2"]]
    assert [work.attempt for some in retries for work in some] == [1, 1, 1]
    assert not failed


def test_out_of_memory_halves_the_batch() -> None:
    retries, failed = plan_retries(batch(0, 0, 0, 0, 0), MEMORY, attempts=1)
    assert [ids(some) for some in retries] == [["in0", "in1", "in2"], ["in3", "in4"]]
    assert not failed


@pytest.mark.parametrize("loss", [LOST, MEMORY])
def test_a_row_alone_is_given_up_after_its_tries(loss: WorkerLoss) -> None:
    assert plan_retries(batch(1), loss, attempts=3)[0][0][0].attempt == 2
    retries, (failed,) = plan_retries(batch(2), loss, attempts=3)
    assert (retries, failed.work.attempt, failed.loss) == ([], 2, loss)


def test_past_the_time_limit_only_the_first_row_is_given_up() -> None:
    retries, (failed,) = plan_retries(batch(0, 0, 0), TIME, attempts=3)
    assert failed.work.parents == "in0"
    assert [ids(some) for some in retries] == [["in1", "in2"]]
    assert retries[0][0].attempt == 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.sampled_from([LOST, MEMORY, TIME]), st.integers(0, 4))
def test_every_row_ends_once_however_often_workers_are_lost(tries: list[int], loss: WorkerLoss, attempts: int) -> None:
    open_, ended, rounds = [batch(*tries)], [], 0
    while open_:
        retries, failed = plan_retries(open_.pop(), loss, attempts)
        open_ += retries
        ended += [one.work.parents for one in failed]
        rounds += 1
    assert sorted(ended) == sorted(ids(batch(*tries)))
    assert rounds <= len(tries) * (attempts + 3)


@given(st.integers(0, 200), st.integers(0, 40), st.integers(0, 8))
def test_batches_cover_the_work_in_order_and_get_smaller(count: int, batch_rows: int, workers: int) -> None:
    backlog = Backlog(batch(*[0] * count), batch_rows, workers)
    sizes, seen = [], []
    while backlog:
        some = backlog.next_batch()
        sizes.append(len(some))
        seen += ids(some)
    assert seen == ids(batch(*[0] * count))
    assert all(0 < size <= max(1, batch_rows) for size in sizes)
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_requeued_goes_out_first_and_undivided() -> None:
    backlog = Backlog(batch(0, 0, 0, 0), 2, 1)
    first, second = backlog.next_batch(), backlog.next_batch()
    backlog.requeue([first, second])
    assert [backlog.next_batch(), backlog.next_batch()] == [first, second]
    assert len(backlog) == len(backlog.drain()) == 1
    assert not backlog
