"""Pools of warm workers, one per step: started when there is work, leased to calls of `map`, replaced when lost, and
ended to make room for other steps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from infra.ray.actor import RemoteWorker, Surroundings
from infra.ray.capacity import Need, Node, fit_together
from infra.ray.cluster import first_worker_crash
from stages.core.ledger.storage import Storage
from stages.core.step import StepRef

progress = logging.getLogger("rushes.progress")


@dataclass(eq=False)
class WorkerActor:
    """One Ray actor. `setup_ref` is the reference to the result of its set-up, None once that has been read."""

    actor: Any
    setup_ref: Any
    started_at: float = field(default_factory=time.monotonic)
    name: str = ""


@dataclass
class PoolStats:
    """What happened in a step's pool: workers started, set-ups that ended well, workers lost, seconds per set-up."""

    started: int = 0
    set_ups: int = 0
    lost: int = 0
    set_up_seconds: list[float] = field(default_factory=list)
    workers: list[str] = field(default_factory=list)


class WorkerPool:
    """The workers of one step. Every field is guarded by the lock of `WorkerPools`."""

    def __init__(self, ref: StepRef, stats: PoolStats) -> None:
        self.ref, self.need, self.stats = ref, Need.of(ref.resources), stats
        self.workers: list[WorkerActor] = []
        self.idle: list[WorkerActor] = []
        self.active_calls, self.failed_setups = 0, 0

    def can_grow(self) -> bool:
        """Whether the step's resources allow one more worker. After repeated set-up failures one is enough: it either
        proves that set-up works again or fails for all."""
        most, attempts = max(1, self.ref.resources.workers), max(1, self.ref.resources.attempts)
        return len(self.workers) < (most if self.failed_setups < attempts else 1)


class WorkerPools:
    """The pools of all steps. They share the nodes, so one lock guards them all; `changed` is notified whenever a
    worker may have become free, or room for one."""

    def __init__(self, storage: Storage, nodes: Callable[[], Sequence[Node]], env: Mapping[str, str]) -> None:
        self.storage, self._nodes, self._env = storage, nodes, env
        self.changed = threading.Condition()
        self.stats: dict[str, PoolStats] = {}
        self._pools: dict[str, WorkerPool] = {}
        self._actor_class = ray.remote(RemoteWorker)

    def pool(self, ref: StepRef) -> WorkerPool:
        """The pool of a step, made at the first call. Without workers it reserves room for one: see `_make_room`."""
        with self.changed:
            stats = self.stats.setdefault(ref.name, PoolStats())
            return self._pools.setdefault(ref.fingerprint or ref.name, WorkerPool(ref, stats))

    def all(self) -> list[WorkerPool]:
        """All pools, in the order in which they were made."""
        with self.changed:
            return list(self._pools.values())

    # -- leases ------------------------------------------------------------------------------------------------------

    def lease(self, pool: WorkerPool) -> WorkerActor | None:
        """An idle worker, or a new one that is starting, or None: then wait for `changed`."""
        with self.changed:
            if pool.idle:
                return pool.idle.pop()
            if not pool.can_grow() or not self._make_room(pool):
                return None
            worker = self._start(pool)
            pool.workers.append(worker)
            return worker

    def _start(self, pool: WorkerPool) -> WorkerActor:
        need = pool.need
        actor = self._actor_class.options(
            num_cpus=need.cpus, num_gpus=need.gpus, memory=int(need.memory) or None, max_restarts=0, max_task_retries=0
        ).remote()
        progress.info("starting a worker for %s", pool.ref.name, extra={"starts": pool.ref.name})
        crash = "" if pool.stats.started else first_worker_crash()
        pool.stats.started += 1
        return WorkerActor(actor, actor.setup.remote(pool.ref, self.storage, Surroundings.here(self._env), crash))

    def mark_ready(self, pool: WorkerPool, worker: WorkerActor, result: dict[str, Any]) -> None:
        """Record the result of a worker's set-up: from now on it can be handed rows."""
        with self.changed:
            worker.name, worker.setup_ref, pool.failed_setups = result["worker"], None, 0
            pool.stats.workers.append(worker.name)
            pool.stats.set_up_seconds.append(result["seconds"])
            pool.stats.set_ups += not result["error"]

    def give_back(self, pool: WorkerPool, worker: WorkerActor) -> None:
        """End a lease: the worker is idle. One whose pool was released meanwhile has been ended and is forgotten."""
        with self.changed:
            if worker in pool.workers:
                pool.idle.append(worker)
            self.changed.notify_all()

    def discard(self, pool: WorkerPool, worker: WorkerActor, *, lost: bool = False) -> None:
        """End a lease and the worker with it, even in the middle of a row."""
        with self.changed:
            if lost:
                pool.stats.lost += 1
                pool.failed_setups += worker.setup_ref is not None
            self._end(pool, worker)
            self.changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something changes, or the time is up."""
        with self.changed:
            self.changed.wait(seconds)

    # -- room --------------------------------------------------------------------------------------------------------

    def _make_room(self, pool: WorkerPool) -> bool:
        """Whether one more worker of this pool may start now.

        A second worker must leave room for the first one of every pool that has none: otherwise the first stage fills
        the nodes and the stages behind it starve. A first worker may end idle workers of pools that no call uses.
        """
        nodes = self._nodes()
        if pool.workers:
            reserved = [p.need for p in self._pools.values() if not p.workers]
            return fit_together([*self._placed(), pool.need, *reserved], nodes)
        while not fit_together([*self._placed(), pool.need], nodes):
            unused = next((p for p in self._pools.values() if p.idle and not p.active_calls), None)
            if unused is None:
                return not self._placed()  # with no other worker, ask Ray: an autoscaler may bring a node
            self._end(unused, unused.idle[0])
        return True

    def _placed(self) -> list[Need]:
        return [pool.need for pool in self._pools.values() for _ in pool.workers]

    def _end(self, pool: WorkerPool, worker: WorkerActor) -> None:
        ray.kill(worker.actor, no_restart=True)
        for workers in (pool.workers, pool.idle):
            if worker in workers:
                workers.remove(worker)

    def release(self, ref: StepRef) -> None:
        """End a step's workers and its pool, which then reserves no room any more."""
        with self.changed:
            pool = self._pools.pop(ref.fingerprint or ref.name, None)
            if pool:
                for worker in list(pool.workers):
                    self._end(pool, worker)
            self.changed.notify_all()
