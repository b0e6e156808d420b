"""The pieces of a plan as Prefect tasks: one task run per stage and shard, named like `base 2/6`.

A task run holds no data for Prefect to look into: its inputs and its result stay in this process, behind an object that
Prefect passes on unopened, and the ledger keeps what was made. Results are neither cached nor persisted by Prefect.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed

from flows.words import counted
from stages.core.errors import TRANSIENT, BadInput, Stopped, kind_of
from stages.core.planning.plan import Node

RETRIES, RETRY_DELAYS = 2, [2.0, 10.0]


class Piece:
    """One piece of work: what it needs, and, once it has run, what it gave or raised."""

    def __init__(self, work: Callable[..., Any], args: tuple[Any, ...], name: str = "work") -> None:
        self._work, self._args, self._name = work, args, name
        self._ran, self._value = False, None
        self._seconds = 0.0
        self._error: BaseException | None = None
        self.future: PrefectFuture[Any] | None = None

    @property
    def needs(self) -> list[Piece]:
        """The pieces whose results it is given."""
        return [a for a in self._args if isinstance(a, Piece)]

    def run(self) -> None:
        """Do the work, once what it needs is there."""
        self._ran, self._error = True, None
        try:
            args = [a.result() if isinstance(a, Piece) else a for a in self._args]
            clock = time.monotonic()
            self._value = self._work(*args)
            self._seconds = time.monotonic() - clock
        except BaseException as error:
            self._error = error
            raise

    def result(self) -> Any:
        """Wait for the work. Raises what it raised, or, where it never started, what kept it from starting."""
        if self.future is not None:
            self.future.wait()
        if self._error is not None:
            raise self._error
        if not self._ran:
            for piece in self.needs:
                piece.result()
            raise Stopped("the run was stopped before this began")
        return self._value

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        """Call this once the work has run, or will never run."""
        assert self.future is not None
        self.future.add_done_callback(call)

    def summary(self) -> str:
        """How many rows it brought past its node, by their status, and how long that took."""
        node = next((a for a in self._args if isinstance(a, Node)), None)
        if node is None or not isinstance(self._value, list):
            return f"{self._name}: done in {self._seconds:.1f} s"
        tally = Counter((item.get(node.name) or {}).get("status", MISSING) for item in self._value)
        parts = ", ".join(f"{tally[status]} {WORDS.get(status, status)}" for status in sorted(tally, key=_rank))
        return f"{self._name}: {counted(len(self._value), 'row')} in {self._seconds:.1f} s: {parts}"


MISSING = ""
WORDS = {"error": "failed", MISSING: "left out (the step does not apply, or an earlier one failed or rejected them)"}


def _rank(status: str) -> tuple[bool, bool, str]:
    return status == MISSING, status != "ok", status


def worth_another_try(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Whether a failed task run may be tried again: not after a stop, bad input, or what must fail the same way."""
    error = state.data
    return isinstance(error, Exception) and not isinstance(error, Stopped | BadInput) and kind_of(error) == TRANSIENT


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=worth_another_try,
)
def stage(piece: Piece) -> State[None]:
    """One stage for one shard."""
    try:
        piece.run()
    except Stopped as stopped:
        return Cancelled(message=str(stopped))
    return Completed(message=piece.summary())


class PrefectSubmit:
    """Hands pieces of work to the task runner of the flow run that is going on."""

    def __call__(self, name: str, work: Callable[..., Any], *args: Any) -> Piece:
        """One task run of this name; it starts once the pieces among `args` have ended."""
        piece = Piece(work, args, name)
        named = stage.with_options(name=name.split()[0], task_run_name=name)
        before: list[Any] = [p.future for p in piece.needs]
        piece.future = named.submit(piece, return_state=False, wait_for=before)
        return piece
