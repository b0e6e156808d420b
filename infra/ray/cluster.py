"""Ray itself: starting one on this machine or joining a cluster, what its nodes have, and the workers' environment.

On a cluster this project must be installed on every node at the version that the driver runs (see docker/): nothing is
shipped along with the work.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import ray

from infra.ray.capacity import Node
from infra.ray.session_folder import session_folder
from infra.ray.settings import RaySettings
from infra.ray.start_output import kept_from_the_console, written
from stages.core.config_files import ROOT
from stages.core.errors import BadInput

ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}
"""One thread a worker: results must not depend on how many CPUs a worker was given. `infra.ray.env` may say more."""

log = logging.getLogger("rushes.ray")
progress = logging.getLogger("rushes.progress")

NODE_CACHE_S = 2.0
CONNECT_TIMEOUT_S = 10.0
STARTS, TOO_SLOW = 4, "timed out during startup"
"""Ray gives a node 30 s to start, which no setting changes and a busy machine exceeds: so often it is started, as long
as it fails with these words."""

NO_TELEMETRY = {"RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def worker_environment(settings: RaySettings) -> dict[str, str]:
    """What workers have in their environment beside the driver's (local) or the node's (cluster).

    A kill that a fault test has asked of the driver (RUSHES_CRASH) is not handed down to them. Of `infra.ray.env` a
    cluster is told only what says how many threads there are: Ray shows the rest in its logs and its list of processes,
    so workers are handed that one by one (`infra.ray.actor.Surroundings`).
    """
    own = settings.env if settings.address == "local" else {k: v for k, v in settings.env.items() if k in ONE_THREAD}
    return {**ONE_THREAD, **NO_TELEMETRY, "RUSHES_CRASH": "", **own}


def first_worker_crash() -> str:
    """Where the first worker of every step is to be killed: RUSHES_CRASH_WORKER, set by fault tests only.

    Its replacements are not killed, so that the run goes on.
    """
    return os.environ.get("RUSHES_CRASH_WORKER", "")


class Cluster:
    """A connection to Ray, made at the first need. A Ray that is up in this process already is used and left up."""

    def __init__(self, settings: RaySettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._ray_thread: threading.Thread | None = None
        self._connected = False
        self._node_cache: tuple[float, list[Node]] = (-NODE_CACHE_S, [])

    def connect(self) -> None:
        """Start or join Ray, once. Raises BadInput where no cluster answers at the address."""
        with self._lock:
            if not self._connected and not ray.is_initialized():
                here = self.settings.address == "local"
                progress.info(
                    "starting Ray" if here else "joining the Ray cluster at %s",
                    *([] if here else [self.settings.address]),
                )
                self._start()
            self._connected = True

    def _start(self) -> None:
        """The kernel ends Ray's processes with the thread that started them, so that thread stays until `close`; those
        of a start that came to nothing are gone with theirs."""
        self._closing.clear()
        for number in range(1, STARTS + 1):
            up: Future[None] = Future()
            self._ray_thread = threading.Thread(target=self._run_ray, args=(up,), name="ray-owner", daemon=True)
            self._ray_thread.start()
            try:
                return up.result()
            except Exception as error:
                self._ray_thread.join()
                self._ray_thread = None
                if TOO_SLOW not in str(error) or number == STARTS:
                    raise
            progress.info("Ray did not start within 30 s; trying again (%d of %d)", number + 1, STARTS)

    def _run_ray(self, up: Future[None]) -> None:
        try:
            _init(self.settings)
        except BaseException as error:
            up.set_exception(error)
            return
        up.set_result(None)
        self._closing.wait()
        ray.shutdown()

    @property
    def is_connecting(self) -> bool:
        """Whether Ray is being started or joined at this moment."""
        return self._lock.locked() and not self._connected

    def nodes(self) -> list[Node]:
        """What each living node has; asked of Ray again after NODE_CACHE_S."""
        asked_at, nodes = self._node_cache
        if time.monotonic() - asked_at >= NODE_CACHE_S:
            nodes = [Node.of(node["Resources"]) for node in ray.nodes() if node["Alive"]]
            self._node_cache = (time.monotonic(), nodes)
        return nodes

    def close(self) -> None:
        """Leave Ray, and end it where it was started here."""
        with self._lock:
            if self._ray_thread:
                self._closing.set()
                self._ray_thread.join()
            self._ray_thread, self._connected = None, False


def _init(settings: RaySettings) -> None:
    """`ray.init`, quiet. Raises BadInput for an address that cannot be used, and where Ray does not start."""
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it tells every time that tokens are on
    if settings.address != "local":
        _join(settings)
        return
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    folder = session_folder()
    with _temporary_environment({**worker_environment(settings), "PYTHONPATH": path}), _starting():
        ray.init(
            address="local",
            num_cpus=settings.num_cpus if settings.num_cpus is not None else os.cpu_count(),
            num_gpus=settings.num_gpus,
            object_store_memory=settings.object_store_mb << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )


@contextmanager
def _starting() -> Iterator[None]:
    """Raise BadInput where Ray does not start, for which it has bare exceptions; the log has the traceback. What Ray
    prints about it goes to a file, which the sentence names."""
    output = list[str]()
    try:
        with kept_from_the_console(output):
            yield
    except Exception as error:
        log.info("Ray did not start", exc_info=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"Ray did not start on this machine ({reason}). It may be too busy, or have too little memory: wait for "
            "other work to end and run the same command again, or run without Ray: --executor local"
            f"{written(output)}"
        ) from None


def _join(settings: RaySettings) -> None:
    """Join from a machine that is a node of the cluster: `ray.init` needs a node beside the driver."""
    if settings.address.startswith("ray://"):
        raise BadInput(
            f"infra.ray.address: {settings.address} is an address of Ray's remote client, which is not "
            "supported; run the command on a machine of the cluster and give `auto` or HOST:PORT"
        )
    _check_reachable(os.environ.get("RAY_ADDRESS", "") if settings.address == "auto" else settings.address)
    runtime_env = {"env_vars": worker_environment(settings)}
    try:
        ray.init(address=settings.address, runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"infra.ray.address: no Ray cluster answers at {settings.address!r} ({reason}); where it asks for tokens, "
            "set RAY_AUTH_MODE=token"
        ) from None


def _check_reachable(address: str) -> None:
    """Raise BadInput where nothing listens; Ray itself would try for more than ten minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # left to Ray, which finds the cluster of its own machine, or says at once that there is none
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise BadInput(f"infra.ray.address: no Ray cluster answers at {address!r} ({error})") from None


@contextmanager
def _temporary_environment(values: Mapping[str, str]) -> Iterator[None]:
    """This environment for what is started inside; local workers inherit it, which saves each its own set-up."""
    before: dict[str, Any] = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values.keys() - before.keys():
            os.environ.pop(name, None)
        os.environ.update({name: before[name] for name in values.keys() & before.keys()})
