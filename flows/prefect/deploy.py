"""The deployments of infra/prefect.yaml on a Prefect server, without taking back what people set there.

Prefect's own `deploy` makes a deployment as its file says, whatever somebody has switched on since. Here the server's
word counts: of a deployment that is there, schedules, parameters, limits and the rest that is set in the UI stay as
they are, and only what the file has in addition is added. `reset` makes it as the file says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from omegaconf import OmegaConf

from flows.prefect.server import VARIABLE, require_server, ui_address
from stages.core.config_files import ROOT, nearest, read_yaml
from stages.core.errors import BadInput

FILE = ROOT / "infra" / "prefect.yaml"
KEYS = ("name", "entrypoint", "description", "tags", "parameters", "schedules", "work_pool", "concurrency_limit")
TOP = ("name", "prefect-version", "pull", "deployments")
POOL_TYPE = "process"
PULL = [{"prefect.deployments.steps.set_working_directory": {"directory": "."}}]
"""Runs start in the folder that their worker made for them, not in the one of whoever deployed."""


def read_deployments(path: Path = FILE) -> list[dict[str, Any]]:
    """The deployments that a file lists. Raises BadInput for what only Prefect's own `deploy` knows."""
    whole, entries = _read(path), _read(path).get("deployments")
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{path} lists no deployments")
    for key in (k for k, value in whole.items() if value is not None):
        _check_key(key, TOP, str(path))
    for entry in entries:
        for key in entry:
            _check_key(key, KEYS, f"{path}: deployment {entry.get('name')}")
        if "{{" in json.dumps(entry):
            raise BadInput(f"{path}: deployment {entry.get('name')}: {{{{ }}}} is not filled in here; write the value")
    return entries


def _read(path: Path) -> dict[str, Any]:
    return dict(OmegaConf.to_container(read_yaml(path), resolve=False))  # type: ignore[arg-type]


def _check_key(key: str, known: Sequence[str], where: str) -> None:
    if key not in known:
        raise BadInput(f"{where}: unknown key {key!r}; {nearest(key, known)}")


@dataclass
class Settled:
    """A deployment ready to be put onto the server, and what there is to say about it.

    pool: the work pool whose workers run it now, "" for none; lines: sentences
    """

    deployment: Any
    pool: str = ""
    is_new: bool = True
    lines: list[str] = field(default_factory=list)


def make_deployment(entry: Mapping[str, Any], pool: str | None = None) -> Any:
    """Prefect's deployment of an entry, for the workers of a pool, or for a runner of our own."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment

    limit = entry.get("concurrency_limit")
    deployment = RunnerDeployment.from_entrypoint(
        entry["entrypoint"],
        name=entry["name"],
        description=entry.get("description"),
        parameters=entry.get("parameters") or {},
        tags=entry.get("tags"),
        schedules=[_schedule(s) for s in entry.get("schedules") or []],
        concurrency_limit=ConcurrencyLimitConfig(**limit) if isinstance(limit, Mapping) else limit,
        job_variables=(entry.get("work_pool") or {}).get("job_variables") if pool else None,
    )
    deployment.work_pool_name = pool  # set explicitly, also where it is None: it replaces a pool of before
    return deployment


def _schedule(entry: Mapping[str, Any]) -> Any:
    from prefect.schedules import Cron, Interval, RRule

    for kind, make in (("cron", Cron), ("interval", Interval), ("rrule", RRule)):
        if kind in entry:
            return make(entry[kind], **{k: v for k, v in entry.items() if k != kind})
    raise BadInput(f"schedule {entry.get('slug', '')}: give cron, interval or rrule")


async def settle(entry: Mapping[str, Any], client: Any, *, pool: str | None = None, reset: bool = False) -> Settled:
    """The deployment of an entry, with what is set on the server left alone; see the head of this file."""
    from prefect.exceptions import ObjectNotFound

    deployment = make_deployment(entry, pool)
    try:
        live = await client.read_deployment_by_name(deployment.full_name)
    except ObjectNotFound:
        live = None
    found = Settled(deployment, pool=(live.work_pool_name or "") if live else "", is_new=live is None)
    if live is not None and not reset:
        kept = keep(deployment, live)
        found.lines += [f"{deployment.name}: kept as set on the server: {', '.join(kept)}"] if kept else []
    found.lines += _cannot_run(deployment)
    return found


def keep(deployment: Any, live: Any) -> list[str]:
    """Leave alone what the server has of a deployment, and add what only the file has. Returns what differed: names,
    never values."""
    kept, asked = [], deployment.parameters
    kept += [f"parameter {k}" for k, v in sorted(live.parameters.items()) if k not in asked or asked[k] != v]
    kept += _keep_schedules(deployment, live)
    deployment.parameters = {**asked, **live.parameters}
    stays = {"tags"}
    if live.global_concurrency_limit:
        kept += [f"limit {live.global_concurrency_limit.limit}"] * (
            deployment.concurrency_limit != live.global_concurrency_limit.limit
        )
        stays |= {"concurrency_limit", "concurrency_options"}
    if deployment.concurrency_limit is None:
        stays |= {"concurrency_limit", "concurrency_options"}
    if live.job_variables or not deployment.job_variables:
        kept += ["job variables"] * (live.job_variables != deployment.job_variables)
        stays.add("job_variables")
    kept += ["paused"] * live.paused
    deployment.model_fields_set.difference_update({*stays, "paused"})  # what is not set is not sent
    return kept


def _keep_schedules(deployment: Any, live: Any) -> list[str]:
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    def copied(schedule: Any) -> Any:
        fields = ("schedule", "active", "parameters", "slug", "max_scheduled_runs")
        return DeploymentScheduleCreate(**{f: getattr(schedule, f) for f in fields})

    asked = {s.slug: s for s in deployment.schedules or ()}
    there = [copied(s) for s in live.schedules]
    kept = [f"schedule {described(s)}" for s in there if s.slug not in asked or _differ(s, asked[s.slug])]
    added = [s for slug, s in asked.items() if slug not in {s.slug for s in there}]
    deployment.schedules = [*there, *added]
    return kept


def _differ(one: Any, other: Any) -> bool:
    return described(one) != described(other) or one.parameters != other.parameters


def described(schedule: Any) -> str:
    """A schedule in a few words: `nightly (on, 0 2 * * *)`."""
    when = schedule.schedule
    text = getattr(when, "cron", "") or getattr(when, "rrule", "") or f"every {getattr(when, 'interval', '')}"
    return f"{schedule.slug or 'without a name'} ({'on' if schedule.active else 'off'}, {text})"


def _cannot_run(deployment: Any) -> list[str]:
    """What keeps the schedules of a deployment from making runs: parameters that have no value."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    needed = parameter_schema(load_flow_from_entrypoint(deployment.entrypoint)).required or []
    missing = [
        name
        for name in needed
        if name not in deployment.parameters
        and (not deployment.schedules or any(name not in s.parameters for s in deployment.schedules))
    ]
    if not missing or not deployment.schedules:
        return []
    on = any(s.active for s in deployment.schedules)
    begin = "its schedule is on, but its runs will fail" if on else "its schedule cannot be used yet"
    values = f"{' and '.join(missing)} {'has' if len(missing) == 1 else 'have'} no value"
    return [f"{deployment.name}: {begin}: {values}"]


# -- for workers -------------------------------------------------------------------------------------------------------


def deploy_command(path: Path | None = None, reset: bool = False) -> int:
    """Put the deployments of a file onto the server of PREFECT_API_URL, for the workers of their pools."""
    url = require_server()
    if not url:
        raise BadInput(
            f"{VARIABLE} must name the Prefect server that the workers ask; for one machine use `rushes serve`"
        )
    file = path or FILE
    entries = read_deployments(file)
    for entry in entries:
        if not (entry.get("work_pool") or {}).get("name"):
            raise BadInput(f"{file}: deployment {entry['name']}: give work_pool: {{name: ...}}")
    asyncio.run(_deploy(entries, _storage(_read(file).get("pull") or PULL), reset, click.echo))
    click.echo(f"deployments: {', '.join(e['name'] for e in entries)}; their pages are at")
    click.echo(ui_address(url))
    return 0


async def _deploy(entries: list[dict[str, Any]], storage: Any, reset: bool, say: Callable[[str], None]) -> None:
    from prefect.client.orchestration import get_client

    taken = []
    async with get_client() as client:
        for name in sorted({e["work_pool"]["name"] for e in entries}):
            await _make_pool(client, name, say)
        for entry in entries:
            found = await settle(entry, client, pool=entry["work_pool"]["name"], reset=reset)
            found.deployment.storage = storage
            await found.deployment.aapply()
            taken += [entry["name"]] if not found.is_new and not found.pool else []
            for line in found.lines:
                say(line)
    if taken:
        say(
            f"{', '.join(taken)}: until now run by `rushes serve`; if it is running, stop it and start it again, "
            "else it takes a part of the runs"
        )


async def _make_pool(client: Any, name: str, say: Callable[[str], None]) -> None:
    """A pool that is there stays as it is, with its limits."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        await client.create_work_pool(WorkPoolCreate(name=name, type=POOL_TYPE, base_job_template=template))
        say(f"work pool {name} made, of the type {POOL_TYPE}")


def _storage(steps: Any) -> Any:
    """What a worker does before a run, as the file says it."""
    from prefect.runner.storage import LocalStorage

    class Steps(LocalStorage):
        def to_pull_step(self) -> Any:
            return steps

    return Steps(".")
