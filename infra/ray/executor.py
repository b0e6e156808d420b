"""The executor on Ray: a pool of warm actors per step, alive for the run.

Ray restarts and repeats nothing by itself, because that hides the reason: a lost worker is replaced here, and the
tries of a row are counted here. A worker does its rows one after the other, so results do not depend on the number of
workers or on batches.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from infra.logs import LogRecord, OnLog
from infra.ray.capacity import Need, Node, fit_together, fits_somewhere
from infra.ray.cluster import Cluster
from infra.ray.dispatch import Dispatcher
from infra.ray.pool import PoolStats, WorkerPools
from infra.ray.settings import RaySettings
from stages.core.config import load_class
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.running.executor import Work
from stages.core.running.leaving import GRACE_S
from stages.core.step import Row, Step, StepRef


def log_locally(step: str, record: LogRecord) -> None:
    """The default for log records of workers: the logger of the same name in this process."""
    logger = logging.getLogger(record["name"])
    logger.log(record["level"], "%s: %s", step, record["message"], extra={"worker": record["worker"]})


class RayExecutor:
    """Runs steps on Ray. Ray is started or joined at the first need (`check`, `map`), not before.

    Raises BadInput for a store in this process's memory, which workers would not see.
    """

    def __init__(self, storage: Storage, settings: RaySettings | None = None, *, on_log: OnLog | None = None) -> None:
        if storage.url.startswith("memory:"):
            raise BadInput(f"{storage.url} lives in one process; use --executor local, or another store")
        self.settings = settings or RaySettings()
        self._on_log = on_log or log_locally
        self._cluster = Cluster(self.settings)
        self._env = self.settings.env if self.settings.address != "local" else {}  # a local Ray has them from its start
        self._pools = WorkerPools(storage, self._cluster.nodes, self._env)

    # -- what fits ---------------------------------------------------------------------------------------------------

    def check(self, refs: Sequence[StepRef]) -> None:
        """Raise BadInput for a step of which no node can host one worker, with what it asks for and what there is.

        From here on, room for one worker of each of these steps is kept where they fit together.
        """
        self._cluster.connect()
        nodes = self._cluster.nodes()
        steps = _without_jobs(refs)
        for ref in steps:
            _check_gpus(ref)
            if not self.settings.autoscaling and not fits_somewhere(Need.of(ref.resources), nodes):
                raise BadInput(_refusal(ref, nodes))
        for ref in steps if self.fits_together(refs) else ():
            self._pools.pool(ref)  # a pool without workers reserves room for its first one

    def fits_together(self, refs: Sequence[StepRef]) -> bool:
        """Whether one worker of each of these steps can be up at the same time.

        Where not, run stage after stage and `release` each. Without that all goes on too, but weights are loaded again
        and again, because idle workers end to make room.
        """
        self._cluster.connect()
        return fit_together((Need.of(ref.resources) for ref in _without_jobs(refs)), self._cluster.nodes())

    # -- running -----------------------------------------------------------------------------------------------------

    def map(self, ref: StepRef, work: Sequence[Work], stop: threading.Event) -> Iterator[Row]:
        """One ledger row per piece of work as they come. Within about 0.2 s of `stop` this call's workers are
        killed; where it drains, they finish what they were handed.

        May be called from several threads, for one step too: they share its workers. A row of a worker that died, ran
        out of memory or took too long is an error row with that reason after `resources.attempts` tries.
        """
        if not work:
            return
        self._cluster.connect()
        pool = self._pools.pool(ref)
        yield from Dispatcher(self._pools, pool, work, stop, self.settings.ready_s, self._on_log).rows()

    def awaited(self) -> str:
        """Ray. A stop kills the workers at work, and so no row of theirs is waited for."""
        return f"Ray to start (at most {GRACE_S:.0f} s)" if self._cluster.is_connecting else "Ray to end its workers"

    def launch(
        self, entry: str, settings: Row, group: Mapping[str, Any], stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Row:
        """Run `module:function` on several workers that train together; see `infra.ray.train_group`. Raises BadInput
        where the cluster has no room for all of them at once."""
        from infra.ray.train_group import check_capacity, launch

        self._cluster.connect()
        if not self.settings.autoscaling:
            check_capacity(group, self._cluster.nodes())
        return launch(entry, settings, group, stop, say, self._env)

    # -- the end -----------------------------------------------------------------------------------------------------

    @property
    def stats(self) -> dict[str, PoolStats]:
        """Per step: workers started, set-ups, workers lost. As many set-ups as workers where nothing went wrong."""
        return dict(self._pools.stats)

    def release(self, ref: StepRef) -> None:
        """End the step's workers, so that another step has their room."""
        self._pools.release(ref)

    def close(self) -> None:
        """End all workers, and Ray where this executor has started it."""
        for pool in self._pools.all():
            self._pools.release(pool.ref)
        self._cluster.close()


def _without_jobs(refs: Sequence[StepRef]) -> list[StepRef]:
    """Jobs run in the driver: they ask nothing of Ray."""
    return [ref for ref in refs if issubclass(load_class(ref.use, ref.name), Step)]


def _check_gpus(ref: StepRef) -> None:
    gpus = ref.resources.gpus
    if gpus > 1 and gpus != round(gpus):
        raise BadInput(f"{ref.name}.resources.gpus: {gpus:g} must be a fraction of one GPU or a whole number")


def _refusal(ref: StepRef, nodes: Sequence[Node]) -> str:
    there = ", ".join(sorted({str(node) for node in nodes})) or "nothing"
    return (
        f"{ref.name}.resources: one worker asks for {Need.of(ref.resources)}, and no node of the Ray "
        f"cluster can provide that ({len(nodes)} there: {there}); ask for less, or see infra.ray"
    )
