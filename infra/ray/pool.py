"""Warm workers by step: started when there is work, lent to calls, replaced when lost, ended to make room."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from infra.ray.actor import RemoteWorker
from infra.ray.capacity import Need, Node, fit_together
from infra.ray.cluster import first_worker_crash
from stages.core import config
from stages.core.ledger.storage import Storage
from stages.core.step import StepRef


@dataclass(eq=False)
class Member:
    """One worker process. `starting` is the answer of its set-up, until that is there."""

    actor: Any
    starting: Any
    began: float = field(default_factory=time.monotonic)
    name: str = ""


@dataclass
class Figures:
    """What happened in a step's pool: workers started, set-ups that ended well, workers lost, seconds per set-up."""

    started: int = 0
    set_ups: int = 0
    lost: int = 0
    set_up_seconds: list[float] = field(default_factory=list)
    workers: list[str] = field(default_factory=list)


class Pool:
    """The workers of one step. All state is guarded by the staff's lock."""

    def __init__(self, ref: StepRef, figures: Figures) -> None:
        self.ref, self.need, self.figures = ref, Need.of(ref.resources), figures
        self.members: list[Member] = []
        self.idle: list[Member] = []
        self.calls, self.failed_starts = 0, 0

    def may_grow(self) -> bool:
        """Whether one more worker is wanted: not where there are enough, or new ones keep failing beside good ones."""
        wanted, tries = max(1, self.ref.resources.workers), max(1, self.ref.resources.attempts)
        return len(self.members) < (wanted if self.failed_starts < tries else 1)


class Staff:
    """Every pool, and the room they share."""

    def __init__(self, storage: Storage, nodes: Callable[[], Sequence[Node]]) -> None:
        self.storage, self._nodes = storage, nodes
        self.changed = threading.Condition()
        self.figures: dict[str, Figures] = {}
        self._pools: dict[str, Pool] = {}
        self._actor = ray.remote(RemoteWorker)

    def pool(self, ref: StepRef) -> Pool:
        """The pool of a step; naming it keeps room for one worker of it, as long as there is any."""
        with self.changed:
            figures = self.figures.setdefault(ref.name, Figures())
            return self._pools.setdefault(ref.fingerprint or ref.name, Pool(ref, figures))

    def pools(self) -> list[Pool]:
        """All pools, in the order in which they were named."""
        with self.changed:
            return list(self._pools.values())

    # -- lending -----------------------------------------------------------------------------------------------------

    def take(self, pool: Pool) -> Member | None:
        """An idle worker, or a new one that is starting, or None: then wait for `changed`."""
        with self.changed:
            if pool.idle:
                return pool.idle.pop()
            if not pool.may_grow() or not self._make_room(pool):
                return None
            member = self._start(pool)
            pool.members.append(member)
            return member

    def _start(self, pool: Pool) -> Member:
        need = pool.need
        actor = self._actor.options(
            num_cpus=need.cpus, num_gpus=need.gpus, memory=int(need.memory) or None, max_restarts=0, max_task_retries=0
        ).remote()
        crash = "" if pool.figures.started else first_worker_crash()
        pool.figures.started += 1
        return Member(actor, actor.setup.remote(pool.ref, self.storage, config.PACKAGES, crash))

    def arrived(self, pool: Pool, member: Member, answer: dict[str, Any]) -> None:
        """A worker's set-up has ended: it may be handed rows."""
        with self.changed:
            member.name, member.starting, pool.failed_starts = answer["worker"], None, 0
            pool.figures.workers.append(member.name)
            pool.figures.set_up_seconds.append(answer["seconds"])
            pool.figures.set_ups += not answer["error"]

    def give_back(self, pool: Pool, member: Member) -> None:
        """The worker is free for the next call; one whose pool was released is ended."""
        with self.changed:
            if member in pool.members:
                pool.idle.append(member)
            self.changed.notify_all()

    def drop(self, pool: Pool, member: Member, *, lost: bool = False) -> None:
        """End a worker: also in the middle of a row."""
        with self.changed:
            if lost:
                pool.figures.lost += 1
                pool.failed_starts += member.starting is not None
            self._end(pool, member)
            self.changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something changes, or the time is up."""
        with self.changed:
            self.changed.wait(seconds)

    # -- room --------------------------------------------------------------------------------------------------------

    def _make_room(self, pool: Pool) -> bool:
        """Whether one more worker may start. A second one leaves room for the first of every pool that has none; a
        first one may end idle workers of pools that nobody is using."""
        nodes = self._nodes()
        if pool.members:
            waiting = [p.need for p in self._pools.values() if not p.members]
            return fit_together([*self._used(), pool.need, *waiting], nodes)
        while not fit_together([*self._used(), pool.need], nodes):
            unused = next((p for p in self._pools.values() if p.idle and not p.calls), None)
            if unused is None:
                return not self._used()  # alone it may always ask: Ray, or an autoscaler behind it, has the last word
            self._end(unused, unused.idle[0])
        return True

    def _used(self) -> list[Need]:
        return [pool.need for pool in self._pools.values() for _ in pool.members]

    def _end(self, pool: Pool, member: Member) -> None:
        ray.kill(member.actor, no_restart=True)
        for group in (pool.members, pool.idle):
            if member in group:
                group.remove(member)

    def release(self, ref: StepRef) -> None:
        """End a step's workers and keep no room for it any more."""
        with self.changed:
            pool = self._pools.pop(ref.fingerprint or ref.name, None)
            for member in list(pool.members) if pool else ():
                self._end(pool, member)  # type: ignore[arg-type]
            self.changed.notify_all()
