"""The files of the cluster fit together: what one of them names, another one makes, and every setting exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from stages.core.config_files import ROOT

K8S, DOCKERFILE = ROOT / "infra" / "k8s", ROOT / "infra" / "docker" / "Dockerfile"
NOT_MADE = {("ConfigMap", "rushes-deployments")}
"""What a user may add: it is optional."""


def objects() -> list[dict[str, Any]]:
    return [o for path in sorted(K8S.glob("*.yaml")) for o in yaml.safe_load_all(path.read_text())]


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
    assert {"captions", "models", "s3", "gcs", "azure"} <= set(extras.split(",")) <= set(known)
    lines = (ROOT / ".dockerignore").read_text().split()
    copied = {word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]}
    assert "*" in lines
    assert copied == {line[1:] for line in lines if line.startswith("!")}
    for name in copied:
        assert (ROOT / name).exists()
    unused = set(re.findall(r"[\w-]+", (ROOT / "Makefile").read_text().split("--no-deps")[1].split("@touch")[0]))
    assert unused <= set(text.split())
