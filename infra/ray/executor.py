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

import ray

from infra.logs import LogRecord, OnLog
from infra.ray.capacity import Need, Node, fit_together, fits_somewhere
from infra.ray.cluster import Cluster
from infra.ray.dispatch import POLL_S, Call
from infra.ray.pool import Figures, Pool, Staff
from infra.ray.settings import RaySettings
from stages.core.config import load_class
from stages.core.errors import BadInput
from stages.core.ledger.executor import Work
from stages.core.ledger.storage import Storage
from stages.core.step import Row, Step, StepRef


def log_here(step: str, record: LogRecord) -> None:
    """The default for worker logs: the logger of the same name in this process."""
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
        self._on_log = on_log or log_here
        self._cluster = Cluster(self.settings)
        self._staff = Staff(storage, self._cluster.nodes)
        self._closing = threading.Event()
        self._warming: list[threading.Thread] = []

    # -- what fits ---------------------------------------------------------------------------------------------------

    def check(self, refs: Sequence[StepRef]) -> None:
        """Raise BadInput for a step of which no node can host one worker, with what it asks for and what there is.

        From here on, room for one worker of each of these steps is kept where they fit together.
        """
        self._cluster.connect()
        nodes = self._cluster.nodes()
        steps = _steps(refs)
        for ref in steps:
            _check_gpus(ref)
            if not self.settings.autoscaling and not fits_somewhere(Need.of(ref.resources), nodes):
                raise BadInput(_refusal(ref, nodes))
        for ref in steps if self.fits_together(refs) else ():
            self._staff.pool(ref)

    def fits_together(self, refs: Sequence[StepRef]) -> bool:
        """Whether one worker of each of these steps can be up at the same time.

        Where not, run stage after stage and `release` each. Without that all goes on too, but weights are loaded again
        and again, because idle workers end to make room.
        """
        self._cluster.connect()
        return fit_together((Need.of(ref.resources) for ref in _steps(refs)), self._cluster.nodes())

    # -- running -----------------------------------------------------------------------------------------------------

    def map(self, ref: StepRef, work: Sequence[Work], stop: threading.Event) -> Iterator[Row]:
        """One ledger row per piece of work as they come. Within about 0.2 s of `stop` this call's workers are killed.

        May be called from several threads, for one step too: they share its workers. A row of a worker that died, ran
        out of memory or took too long is an error row with that reason after `resources.attempts` tries.
        """
        if not work:
            return
        self._cluster.connect()
        pool = self._staff.pool(ref)
        yield from Call(self._staff, pool, work, stop, self.settings.ready_s, self._on_log).rows()

    def warm(self, refs: Sequence[StepRef]) -> None:
        """Start one worker of each step in the background, one after the other, so that weights are there when rows
        come. Give only steps that have work, in the order of the pipeline."""
        self._cluster.connect()
        pools = [self._staff.pool(ref) for ref in _steps(refs)]
        thread = threading.Thread(target=self._warm, args=(pools,), name="ray-warm", daemon=True)
        self._warming.append(thread)
        thread.start()

    def _warm(self, pools: Sequence[Pool]) -> None:
        """The worker goes to the pool while it starts, so that a call which wants it takes over the waiting."""
        for pool in pools:
            if pool.members or self._closing.is_set() or not (member := self._staff.take(pool)):
                continue
            starting = member.starting
            self._staff.give_back(pool, member)
            while not self._closing.is_set() and not ray.wait([starting], timeout=POLL_S)[0]:
                pass

    def launch(
        self, entry: str, settings: Row, group: Mapping[str, Any], stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Row:
        """Run `module:function` on several workers that train together; see `infra.ray.train_group`. Raises BadInput
        where the cluster has no room for all of them at once."""
        from infra.ray.train_group import check_room, launch

        self._cluster.connect()
        if not self.settings.autoscaling:
            check_room(group, self._cluster.nodes())
        return launch(entry, settings, group, stop, say)

    # -- the end -----------------------------------------------------------------------------------------------------

    @property
    def figures(self) -> dict[str, Figures]:
        """Per step: workers started, set-ups, workers lost. Workers == set-ups where nothing went wrong."""
        return dict(self._staff.figures)

    def release(self, ref: StepRef) -> None:
        """End the step's workers, so that another step has their room."""
        self._staff.release(ref)

    def close(self) -> None:
        """End all workers, and Ray where this executor has started it."""
        self._closing.set()
        for thread in self._warming:
            thread.join()
        for pool in self._staff.pools():
            self._staff.release(pool.ref)
        self._cluster.close()


def _steps(refs: Sequence[StepRef]) -> list[StepRef]:
    """Jobs run in the driver: they ask nothing of Ray."""
    return [ref for ref in refs if issubclass(load_class(ref.use, ref.name), Step)]


def _check_gpus(ref: StepRef) -> None:
    gpus = ref.resources.gpus
    if gpus > 1 and gpus != round(gpus):
        raise BadInput(f"steps.{ref.name}.resources.gpus: {gpus:g} is neither a share of one GPU nor a whole number")


def _refusal(ref: StepRef, nodes: Sequence[Node]) -> str:
    there = ", ".join(sorted({str(node) for node in nodes})) or "nothing"
    return (
        f"steps.{ref.name}.resources: one worker asks for {Need.of(ref.resources)}, and no node of Ray can host it "
        f"({len(nodes)} there: {there}); ask for less, or see infra.ray"
    )
