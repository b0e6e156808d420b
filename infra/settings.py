"""What `infra:` in a config may say, and the executor that follows from it. Importing this is quick: no Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stages.core.config import nearest
from stages.core.errors import BadInput
from stages.core.ledger.executor import Executor, LocalExecutor
from stages.core.ledger.storage import Storage

LogRecord = dict[str, Any]
"""One log record of a worker: name, level (number), message, created (seconds since 1970) and worker (host/pid)."""

OnLog = Callable[[str, LogRecord], None]
"""Told (step name, record) for every log record of a worker; called in the thread that reads the step's rows."""


@dataclass
class RaySettings:
    """How Ray is started or joined.

    address          `local` starts one on this machine; `auto` or HOST:PORT joins a cluster from inside it
    num_cpus         logical CPUs of a local Ray; none: all of them. May be more than there are.
    num_gpus         logical GPUs of a local Ray; none: those that Ray finds
    object_store_mb  size of a local Ray's object store. Only plain rows pass through it.
    ready_s          the longest that a worker may take to be placed and to load its weights, in seconds
    autoscaling      whether nodes appear on demand, so that a step which no present node can host is no error
    env              more environment variables for the workers; wins over what is set by default
    """

    address: str = "local"
    num_cpus: float | None = None
    num_gpus: float | None = None
    object_store_mb: int = 200
    ready_s: float = 900.0
    autoscaling: bool = False
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class PrefectSettings:
    """Which Prefect server the flows report to; empty: the one that PREFECT_API_URL names, or none."""

    api_url: str = ""


@dataclass
class InfraConfig:
    """The `infra:` part of a flow's config. Nothing in it changes a result, so none of it enters an identity.

    executor  `ray`, or `local` for everything in this process, one row at a time
    storage   options for the store's file system, as fsspec names them (`endpoint_url`, `anon`, ...)
    """

    executor: str = "ray"
    ray: RaySettings = field(default_factory=RaySettings)
    prefect: PrefectSettings = field(default_factory=PrefectSettings)
    storage: dict[str, Any] = field(default_factory=dict)


def make_executor(config: InfraConfig, storage: Storage, on_log: OnLog | None = None) -> Executor:
    """The executor that a config asks for. Ray itself starts with its first real work.

    Raises BadInput for an unknown executor, and for a store that the executor cannot share with its workers.
    """
    if config.executor == "local":
        return LocalExecutor(storage)
    if config.executor != "ray":
        hint = nearest(config.executor, ("local", "ray"))
        raise BadInput(f"infra.executor: there is no executor {config.executor!r}; {hint}")
    from infra.ray.executor import RayExecutor  # takes half a second, which `--dry-run` need not spend

    return RayExecutor(storage, config.ray, on_log=on_log)
