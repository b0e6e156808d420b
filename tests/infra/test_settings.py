"""The `infra:` part of a config."""

from __future__ import annotations

import subprocess
import sys
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
