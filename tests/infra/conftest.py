"""One Ray for all tests here, and executors on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.core.config import make_ref
from stages.core.ledger.storage import Storage
from stages.core.running.executor import Work
from stages.core.step import StepRef
from stages.core.weights.digests import fingerprint

CPUS, GPUS = 4, 1


@pytest.fixture(scope="session")
def ray_up() -> Iterator[None]:
    """A local Ray with more logical CPUs than the machine may have, and one logical GPU.

    Started from a thread that ends at once, as a flow's tasks do: Ray must outlive it.
    """
    import ray

    from infra.ray.cluster import Cluster
    from infra.ray.settings import RaySettings

    cluster = Cluster(RaySettings(num_cpus=CPUS, num_gpus=GPUS, object_store_mb=80))
    thread = threading.Thread(target=cluster.connect)
    thread.start()
    thread.join()
    assert ray.is_initialized()
    yield
    cluster.close()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def executors(ray_up: None, storage: Storage) -> Iterator[Callable[..., Any]]:
    """Makes executors over the test's store; ends their workers after the test."""
    from infra.ray.executor import RayExecutor
    from infra.ray.settings import RaySettings

    made: list[RayExecutor] = []

    def make(settings: Mapping[str, Any] | None = None, **options: Any) -> RayExecutor:
        made.append(RayExecutor(storage, RaySettings(**(settings or {})), **options))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def ref(name: str = "toy", use: str = "Obey", resources: Mapping[str, Any] | None = None, **config: Any) -> StepRef:
    """A toy step, fingerprinted. It asks for half a CPU unless told otherwise."""
    entry = {"use": f"tests.infra.toys:{use}", "resources": {"cpus": 0.5, **(resources or {})}, **config}
    made = make_ref(name, entry)
    return replace(made, fingerprint=fingerprint(made))


def works(count: int, do: Mapping[int, str] | None = None) -> list[Work]:
    """Rows 0 .. count-1; `do` says what happens in some of them."""
    return [Work(f"in{i}", "", 0, {"n": i, "do": (do or {}).get(i, "")}) for i in range(count)]


def by_number(rows: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Ledger rows by the number of their input; there must be one of each."""
    found = {int(row["parents"].removeprefix("in")): row for row in rows}
    assert len(found) == len(rows)
    return found
