"""`rushes serve`: the deployments of infra/prefect.yaml on a local Prefect server, or on the one that is named."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from omegaconf import OmegaConf

from flows.prefect.server import VARIABLE, require_server, ui_address, unreachable
from stages.core.config_files import ROOT, read_yaml
from stages.core.errors import BadInput

HOST, DEPLOYMENTS = "127.0.0.1", ROOT / "infra" / "prefect.yaml"
START_SECONDS, STOP_SECONDS, POLL_SECONDS, RUNS_AT_ONCE = 600.0, 15.0, 2.0, 2
QUIET = {"PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}


def state_folder() -> Path:
    """Where the local server keeps its database: below the user's state folder, unless PREFECT_HOME says otherwise."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return Path(os.environ.get("PREFECT_HOME") or base / "rushes" / "prefect").expanduser()


def serve_deployments(port: int) -> int:
    """Serve until interrupted. Raises BadInput where the port is taken, or the named server does not answer."""
    if url := require_server():
        return _serve(url)
    with local_server(port) as url:
        return _serve(url)


@contextmanager
def local_server(port: int) -> Iterator[str]:
    """A Prefect server on this machine while this lasts; gives its API address."""
    _check_free(port)
    home = state_folder()
    home.mkdir(parents=True, exist_ok=True)
    url = f"http://{HOST}:{port}/api"
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_SERVER_UI_API_URL"] = url  # else the pages look for the API at port 4200
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    click.echo(f"starting a Prefect server on {HOST}:{port}, its database in {home}")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    # In a session of its own: an interrupt from the terminal reaches us first, and the server ends after the runs.
    server = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        _wait_for(url, server)
        os.environ[VARIABLE] = url
        yield url
    finally:
        _end(server)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BadInput(f"port {port} is taken ({error.strerror}); give another with --port") from None


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while reason := unreachable(url, 2.0):
        if server.poll() is not None:
            raise BadInput(f"the Prefect server ended at once with status {server.returncode}; see its message above")
        if time.monotonic() > deadline:
            raise BadInput(f"the Prefect server did not answer within {START_SECONDS:.0f} s: {reason}")
        time.sleep(0.3)


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def read_deployments(path: Path = DEPLOYMENTS) -> list[dict[str, Any]]:
    """The deployments as infra/prefect.yaml lists them."""
    entries = OmegaConf.to_container(read_yaml(path)["deployments"])
    assert isinstance(entries, list)
    return entries


def make_deployments(entries: list[dict[str, Any]], switched: Mapping[tuple[str, str], bool]) -> list[Any]:
    """Prefect's deployments of these entries, for a runner of our own (the work pool is for workers).

    A form whose file gives no store is filled in with the folder `store` of the folder in which this was started.
    switched: (deployment, schedule) -> whether a person has switched that schedule on; else as the file says.
    """
    from prefect.deployments.runner import RunnerDeployment

    deployments = [
        RunnerDeployment.from_entrypoint(
            entry["entrypoint"],
            name=entry["name"],
            description=entry.get("description"),
            parameters={"store": str(Path("store").resolve()), **(entry.get("parameters") or {})},
            tags=entry.get("tags"),
            schedules=[_schedule(entry["name"], s, switched) for s in entry.get("schedules") or []],
        )
        for entry in entries
    ]
    for deployment in deployments:
        deployment.work_pool_name = None  # set explicitly: it replaces the work pool that a cluster may have set
    return deployments


def _schedule(deployment: str, entry: dict[str, Any], switched: Mapping[tuple[str, str], bool]) -> Any:
    from prefect.schedules import Cron

    options = {k: v for k, v in entry.items() if k != "cron"}
    options["active"] = switched.get((deployment, entry["slug"]), entry["active"])
    return Cron(entry["cron"], **options)


async def schedules_on_server() -> dict[tuple[str, str], bool]:
    """(deployment, schedule) -> whether it is switched on there now."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        deployments = await client.read_deployments()
    return {(d.name, s.slug): bool(s.active) for d in deployments for s in d.schedules if s.slug}


def _serve(url: str) -> int:
    """Put the deployments on the server and run what is started from them, until interrupted."""
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", str(POLL_SECONDS))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    asyncio.run(_run_until_interrupted(url))
    return 0


async def _run_until_interrupted(url: str) -> None:
    from prefect.runner import Runner

    deployments = make_deployments(read_deployments(), await schedules_on_server())
    runner = Runner(name="rushes", pause_on_shutdown=False, limit=RUNS_AT_ONCE)
    for deployment in deployments:
        await runner.aadd_deployment(deployment)
    work = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # the runner sets a signal handler of its own; ours comes after it
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    click.echo(f"deployments: {', '.join(d.name for d in deployments)}; their pages are at")
    click.echo(ui_address(url))
    click.echo("Ctrl-C stops the server; running flows are cancelled; start them again to continue")
    await asyncio.wait([work, asyncio.create_task(interrupted.wait())], return_when=asyncio.FIRST_COMPLETED)
    if interrupted.is_set():
        click.echo("stopping")
        await runner.astop()
    await work
