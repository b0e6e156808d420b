"""The `infra:` part of a config, and the executor that it asks for. Importing this does not import Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from infra.logs import LogRecord, OnLog
from infra.ray.settings import RaySettings
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.running.executor import Executor, LocalExecutor

__all__ = ["InfraConfig", "LogRecord", "OnLog", "PrefectSettings", "RaySettings", "make_executor"]

EXECUTORS = ("ray", "local")


@dataclass
class PrefectSettings:
    """Which Prefect server the flows report to.

    api_url  URL of the server's API; empty uses the one that PREFECT_API_URL names, or none
    """

    api_url: str = ""


@dataclass
class InfraConfig:
    """The `infra:` part of a flow's config. Nothing in it changes a result, so none of it enters an identity.

    executor  [ray, local] `ray` runs each step on workers of its own; `local` runs all in this process, one row at a
              time
    ray       how Ray is started or joined
    prefect   which Prefect server is used
    storage   options for the store's file system, as fsspec names them (`endpoint_url`, `anon`, ...)
    """

    executor: str = "ray"
    ray: RaySettings = field(default_factory=RaySettings)
    prefect: PrefectSettings = field(default_factory=PrefectSettings)
    storage: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            hint = nearest(self.executor, EXECUTORS)
            raise BadInput(f"infra.executor: there is no executor {self.executor!r}; {hint}")


def make_executor(config: InfraConfig, storage: Storage, on_log: OnLog | None = None) -> Executor:
    """The executor that a config asks for. Ray itself starts with its first real work.

    Raises BadInput for a store that the executor cannot share with its workers.
    """
    if config.executor == "local":
        return LocalExecutor(storage)
    from infra.ray.executor import RayExecutor  # takes half a second, which `--dry-run` need not spend

    return RayExecutor(storage, config.ray, on_log=on_log)
