"""The files of the cluster fit together: what one of them names, another one makes, and every setting exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.core.config_files import ROOT
from stages.core.reach.policy import operators

K8S, DOCKERFILE = ROOT / "infra" / "k8s", ROOT / "infra" / "docker" / "Dockerfile"
NOT_MADE = {("ConfigMap", "rushes-deployments")}
"""What a user may add: it is optional."""


def objects() -> list[dict[str, Any]]:
    """What `kubectl apply -k` makes, and the secret that its user makes by the example."""
    files = yaml.safe_load((K8S / "kustomization.yaml").read_text())["resources"]
    return [o for name in [*files, "secret.yaml.example"] for o in yaml.safe_load_all((K8S / name).read_text())]


def test_everything_is_applied_except_the_example_of_the_secret() -> None:
    whole = yaml.safe_load((K8S / "kustomization.yaml").read_text())
    assert {*whole["resources"], "kustomization.yaml"} == {path.name for path in K8S.glob("*.yaml")}
    images = {p["image"] for o in objects() for p in walk(o) if "image" in p}
    assert images == {f"{i['newName']}:{i['newTag']}" for i in whole["images"]}


def test_every_pod_that_runs_steps_opens_the_same_places() -> None:
    """Weights, the folder of trainings and the operator's rules: a step may be placed on any of them."""
    pods = [p for o in objects() for p in walk(o) if any("envFrom" in c for c in p.get("containers", ()))]
    steps = [p for p in pods if p["containers"][0]["name"] != "ray-head"]
    assert len(steps) == 3
    for pod in steps:
        [container] = pod["containers"]
        places = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert {"weights": "/weights", "cache": "/cache", "reach": "/etc/rushes"}.items() <= places.items()
        assert set(places) <= {v["name"] for v in pod["volumes"]}
        own = {e["name"]: e["value"] for e in container["env"]}
        assert (own["XDG_CACHE_HOME"], own["RUSHES_REACH"]) == ("/cache", "/etc/rushes/reach.yaml")
        assert pod["securityContext"] == {"fsGroup": 1000}


def test_the_operators_rules_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [rules] = [o for o in objects() if o["kind"] == "ConfigMap"]
    (tmp_path / "reach.yaml").write_text(rules["data"]["reach.yaml"])
    monkeypatch.setenv("RUSHES_REACH", str(tmp_path / "reach.yaml"))
    operators()


def test_the_pod_of_the_worker_deploys_without_taking_back() -> None:
    [init] = [c for o in objects() for p in walk(o) for c in p.get("initContainers", ())]
    assert "rushes deploy --file" in init["args"][0]
    for word in ("--reset", "--overwrite", "prefect --no-prompt deploy"):
        assert word not in init["args"][0]


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def test_what_is_named_is_made_and_in_one_namespace() -> None:
    made = {(o["kind"], o["metadata"]["name"]) for o in objects()}
    assert {o["metadata"].get("namespace") for o in objects() if o["kind"] != "Namespace"} == {"rushes"}
    assert ("Namespace", "rushes") in made
    named = set()
    for part in (p for o in objects() for p in walk(o)):
        for key, kind in (
            ("persistentVolumeClaim", "PersistentVolumeClaim"),
            ("secretRef", "Secret"),
            ("configMap", "ConfigMap"),
        ):
            if isinstance(part.get(key), dict):
                named.add((kind, part[key].get("claimName") or part[key]["name"]))
    assert len(named) > 3
    assert named - NOT_MADE <= made
    for part in (p for o in objects() for p in walk(o) if "volumeMounts" in p and "image" in p):
        assert part["image"].startswith("rushes:")


def test_the_servers_that_are_spoken_to_are_there() -> None:
    ports = {o["metadata"]["name"]: o["spec"]["ports"][0]["port"] for o in objects() if o["kind"] == "Service"}
    ports["rushes-head-svc"] = 6379  # KubeRay makes this one, of the cluster `rushes`
    text = "".join(path.read_text() for path in K8S.glob("*.yaml"))
    urls = re.findall(r"http://([\w-]+):(\d+)/api", text) + re.findall(r"--address=([\w-]+):(\d+)", text)
    spoken = {(host, int(port)) for host, port in urls if host != "127"}
    assert spoken == {("prefect-server", 4200), ("rushes-head-svc", 6379)}
    assert spoken <= set(ports.items())


@pytest.mark.parametrize("flow", ["render", "curate", "publish", "evaluate"])
def test_every_run_of_the_worker_uses_the_cluster(flow: str) -> None:
    from flows.curate.curation import load_curation
    from flows.evaluate.evaluation import load_evaluation
    from flows.publish.publication import load_publication
    from flows.render.campaign import load_campaign

    own = {e["name"]: e.get("value", "") for o in objects() for p in walk(o) for e in p.get("env") or ()}
    words = shlex.split(own["RUSHES_OVERRIDES"])
    load = {
        "render": lambda: load_campaign(["demo"], {}, words),
        "curate": lambda: load_curation(["/footage"], "curate", {}, words),
        "publish": lambda: load_publication("clips", "publish", {}, words),
        "evaluate": lambda: load_evaluation("evaluate", {}, words),
    }
    infra = load[flow]().config.infra  # type: ignore[no-untyped-call]
    assert (infra.executor, infra.ray.address, infra.ray.autoscaling) == ("ray", "auto", True)


def test_the_image_has_the_extras_and_the_build_has_the_files() -> None:
    text = DOCKERFILE.read_text()
    [extras] = re.findall(r"--editable '\.\[([\w,]+)\]'", text)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) == set(known) - {"dev", "bench"}
    lines = (ROOT / ".dockerignore").read_text().split()
    copied = {word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]}
    assert "*" in lines
    assert copied == {line[1:] for line in lines if line.startswith("!")}
    for name in copied:
        assert (ROOT / name).exists()
    unused = set(re.findall(r"[\w-]+", (ROOT / "Makefile").read_text().split("--no-deps")[1].split("@touch")[0]))
    assert unused <= set(text.split())
