"""The `infra:` part of a config."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.settings import InfraConfig, make_executor
from stages.core.config import merge
from stages.core.config_files import ROOT
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.running.executor import LocalExecutor


@dataclass
class Flow:
    infra: InfraConfig = field(default_factory=InfraConfig)


def test_it_merges_like_any_config() -> None:
    flow, _ = merge(Flow, [("cluster.yaml", {"infra": {"ray": {"address": "auto", "env": {"HF_HUB_OFFLINE": 1}}}})])
    assert (flow.infra.ray.address, flow.infra.ray.env) == ("auto", {"HF_HUB_OFFLINE": "1"})
    with pytest.raises(BadInput, match=r"infra\.ray"):
        merge(Flow, [("overrides", {"infra": {"ray": {"num_cpu": 2}}})])


def test_the_local_executor_needs_no_ray(tmp_path: Path) -> None:
    assert isinstance(make_executor(InfraConfig(executor="local"), Storage(str(tmp_path))), LocalExecutor)
    with pytest.raises(BadInput, match=r"no executor 'rya'; did you mean 'ray'\?"):
        make_executor(InfraConfig(executor="rya"), Storage(str(tmp_path)))


def test_planning_imports_neither_ray_nor_torch() -> None:
    code = "import sys, infra.settings; sys.exit(any(m in sys.modules for m in ('ray', 'torch', 'prefect')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.ray
def test_ray_is_not_started_before_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from infra.settings import *; from stages.core.ledger.storage import Storage; "
        "e = make_executor(InfraConfig(), Storage(sys.argv[1])); e.close(); import ray; sys.exit(ray.is_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False).returncode == 0


@pytest.mark.ray
@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1'"), ("ray://head:10001", "which is not supported")],
)
def test_a_cluster_that_cannot_be_used_is_one_sentence(address: str, message: str) -> None:
    from infra.ray.cluster import _join
    from infra.ray.settings import RaySettings

    with pytest.raises(BadInput, match=message):
        _join(RaySettings(address=address))


SLOW = "The current node timed out during startup. This could happen because some of the raylet failed"


@pytest.mark.ray
@pytest.mark.parametrize("slow", [2, 99])
def test_a_ray_that_is_too_slow_to_start_is_started_again(slow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy. Each start has a thread of its own, with which the kernel ends what it started."""
    from infra.ray import cluster
    from infra.ray.settings import RaySettings

    threads: list[int] = []

    def init(settings: RaySettings) -> None:
        threads.append(threading.get_ident())
        if len(threads) <= slow:
            raise Exception(SLOW)

    monkeypatch.setattr(cluster, "_init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    ray = cluster.Cluster(RaySettings())
    if slow == 2:
        ray.connect()
        ray.close()
        assert len(threads) == 3
    else:
        with pytest.raises(Exception, match=SLOW[:42]):
            ray.connect()
        assert len(threads) == 4
    monkeypatch.setattr(cluster, "_init", lambda settings: (_ for _ in ()).throw(ValueError("another reason")))
    with pytest.raises(ValueError, match="another reason"):
        cluster.Cluster(RaySettings()).connect()


def test_ray_says_so_where_it_is_too_slow() -> None:
    """The words that it is known by, in the installed library."""
    import ray._private.node as node

    from infra.ray.cluster import TOO_SLOW

    assert SLOW[:42] in Path(node.__file__).read_text()
    assert TOO_SLOW in SLOW
