"""`rushes serve`: the deployments of infra/prefect.yaml on a local Prefect server, or on the one that is named."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from flows.prefect.deploy import Settled, read_deployments, settle
from flows.prefect.server import VARIABLE, require_server, ui_address, unreachable
from stages.core.config_files import ROOT
from stages.core.errors import BadInput

HOST = "127.0.0.1"
START_SECONDS, STOP_SECONDS, POLL_SECONDS, RUNS_AT_ONCE = 600.0, 15.0, 2.0, 2
QUIET = {"PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}


def state_folder() -> Path:
    """Where the local server keeps its database: below the user's state folder, unless PREFECT_HOME says otherwise."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return Path(os.environ.get("PREFECT_HOME") or base / "rushes" / "prefect").expanduser()


def serve_deployments(port: int, runs: int = RUNS_AT_ONCE, reset: bool = False) -> int:
    """Serve until interrupted. Raises BadInput where the port is taken, or the named server does not answer.

    runs: how many at once; reset: make the deployments as infra/prefect.yaml says, whatever was set on the server
    """
    if url := require_server():
        return _serve(url, runs, reset)
    with local_server(port) as url:
        return _serve(url, runs, reset)


@contextmanager
def local_server(port: int) -> Iterator[str]:
    """A Prefect server on this machine while this lasts; gives its API address."""
    _check_free(port)
    home = state_folder()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)  # forms and logs are nobody else's
    except OSError as error:
        raise BadInput(
            f"cannot make {home}, where the Prefect server keeps its database ({error.strerror}); "
            "set PREFECT_HOME to another folder"
        ) from None
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
            raise BadInput(_taken(port, error)) from None


def _taken(port: int, error: OSError) -> str:
    """A server outlives a `rushes serve` that was killed, and a second one must not open its database."""
    if error.errno != errno.EADDRINUSE or unreachable(f"http://{HOST}:{port}/api", 2.0):
        return f"port {port} is taken ({error.strerror}); give another with --port"
    return (
        f"port {port} is taken by a Prefect server, perhaps of a `rushes serve` that runs or was killed: use it with "
        f"{VARIABLE}=http://{HOST}:{port}/api rushes serve, or end it{_pid_of(port)}"
    )


def _pid_of(port: int) -> str:
    """The id of the process that listens at a port, for a sentence; "" where another user's does."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for at in psutil.net_connections("tcp"):
            if at.status == psutil.CONN_LISTEN and at.laddr.port == port and at.pid:
                return f" (process {at.pid})"
    return ""


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


def _serve(url: str, runs: int, reset: bool) -> int:
    """Put the deployments on the server and run what is started from them, until interrupted."""
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", str(POLL_SECONDS))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    asyncio.run(_run_until_interrupted(url, runs, reset))
    return 0


async def settled(reset: bool = False) -> list[Settled]:
    """The deployments of infra/prefect.yaml for a runner of our own, with what is set on the server.

    A form whose file gives no store is filled in with the folder `store` of the folder in which this was started.
    """
    from prefect.client.orchestration import get_client

    store = {"store": str(Path("store").resolve())}
    entries = [{**e, "parameters": {**store, **(e.get("parameters") or {})}} for e in read_deployments()]
    async with get_client() as client:
        return [await settle(entry, client, reset=reset) for entry in entries]


def run_here(found: list[Settled], reset: bool, say: Callable[[str], None]) -> list[Any]:
    """Those deployments that are to be run here. What belongs to the workers of a pool is left to them: else both
    would take its runs."""
    theirs = [] if reset else [s for s in found if s.pool]
    for line in (line for s in found if s not in theirs for line in s.lines):
        say(line)
    for pool in sorted({s.pool for s in theirs}):
        names = ", ".join(s.deployment.name for s in theirs if s.pool == pool)
        say(f"{names}: left to the workers of the work pool {pool} (prefect worker start --pool {pool})")
    if theirs or any("kept as set" in line for s in found for line in s.lines):
        say("`rushes serve --reset` makes all deployments anew, as Rushes comes with them")
    return [s.deployment for s in found if s not in theirs]


async def _run_until_interrupted(url: str, runs: int, reset: bool) -> None:
    from prefect.runner import Runner

    deployments = run_here(await settled(reset), reset, click.echo)
    runner = Runner(name="rushes", pause_on_shutdown=False, limit=runs)
    for deployment in deployments:
        await runner.aadd_deployment(deployment)
    interrupted = asyncio.Event()
    # A runner without deployments would have nothing to ask for, so that only the server is kept up.
    work = asyncio.create_task(runner.start() if deployments else interrupted.wait())
    await asyncio.sleep(0)  # the runner sets a signal handler of its own; ours comes after it
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    names = ", ".join(d.name for d in deployments) or "none to be run here"
    click.echo(f"deployments: {names}; their pages are at")
    click.echo(ui_address(url))
    click.echo("Ctrl-C stops the server; running flows are cancelled; start them again to continue")
    await asyncio.wait([work, asyncio.create_task(interrupted.wait())], return_when=asyncio.FIRST_COMPLETED)
    if interrupted.is_set():
        click.echo("stopping")
        if deployments:
            await runner.astop()
    await work
