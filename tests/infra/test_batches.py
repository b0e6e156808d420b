"""What is handed out, and what becomes of it: no row is lost, none goes round for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ray.batches import Backlog, Cause, Loss, after_loss
from stages.core.ledger.executor import Work

LOST, MEMORY, TIME = (Loss(cause, "why") for cause in Cause)


def batch(*attempts: int) -> tuple[Work, ...]:
    return tuple(Work(f"in{i}", 0, attempt, {}) for i, attempt in enumerate(attempts))


def ids(works: tuple[Work, ...]) -> list[str]:
    return [work.input_id for work in works]


def test_a_lost_workers_rows_go_out_one_at_a_time() -> None:
    again, failed = after_loss(batch(0, 0, 0), LOST, attempts=3)
    assert [ids(some) for some in again] == [["in0"], ["in1"], ["in2"]]
    assert [work.attempt for some in again for work in some] == [1, 1, 1]
    assert not failed


def test_out_of_memory_halves_the_batch() -> None:
    again, failed = after_loss(batch(0, 0, 0, 0, 0), MEMORY, attempts=1)
    assert [ids(some) for some in again] == [["in0", "in1", "in2"], ["in3", "in4"]]
    assert not failed


@pytest.mark.parametrize("loss", [LOST, MEMORY])
def test_a_row_alone_is_given_up_after_its_tries(loss: Loss) -> None:
    assert after_loss(batch(1), loss, attempts=3)[0][0][0].attempt == 2
    again, (failed,) = after_loss(batch(2), loss, attempts=3)
    assert (again, failed.work.attempt, failed.loss) == ([], 2, loss)


def test_past_the_time_limit_only_the_first_row_is_given_up() -> None:
    again, (failed,) = after_loss(batch(0, 0, 0), TIME, attempts=3)
    assert failed.work.input_id == "in0"
    assert [ids(some) for some in again] == [["in1", "in2"]]
    assert again[0][0].attempt == 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.sampled_from([LOST, MEMORY, TIME]), st.integers(0, 4))
def test_every_row_ends_once_however_often_workers_are_lost(tries: list[int], loss: Loss, attempts: int) -> None:
    open_, ended, rounds = [batch(*tries)], [], 0
    while open_:
        again, failed = after_loss(open_.pop(), loss, attempts)
        open_ += again
        ended += [one.work.input_id for one in failed]
        rounds += 1
    assert sorted(ended) == sorted(ids(batch(*tries)))
    assert rounds <= len(tries) * (attempts + 3)


@given(st.integers(0, 200), st.integers(0, 40), st.integers(0, 8))
def test_batches_cover_the_work_in_order_and_get_smaller(count: int, batch_rows: int, workers: int) -> None:
    backlog = Backlog(batch(*[0] * count), batch_rows, workers)
    sizes, seen = [], []
    while backlog:
        some = backlog.next()
        sizes.append(len(some))
        seen += ids(some)
    assert seen == ids(batch(*[0] * count))
    assert all(0 < size <= max(1, batch_rows) for size in sizes)
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_put_back_goes_out_first_and_undivided() -> None:
    backlog = Backlog(batch(0, 0, 0, 0), 2, 1)
    first, second = backlog.next(), backlog.next()
    backlog.put_back([first, second])
    assert [backlog.next(), backlog.next()] == [first, second]
    assert len(backlog) == len(backlog.drain()) == 1
    assert not backlog
