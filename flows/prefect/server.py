"""Which Prefect server the flows report to, and whether it answers. Importing this, or asking, imports no Prefect."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from stages.core.errors import BadInput
from stages.core.reach.secrets import bare, cleared

VARIABLE = "PREFECT_API_URL"
WAIT_SECONDS, TRIES = 5.0, 3


def named_server(configured: str = "") -> str:
    """The server's API address: the config's, else that of PREFECT_API_URL, else "". Raises BadInput for no address."""
    url = (configured or os.environ.get(VARIABLE, "")).strip().rstrip("/")
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise BadInput(f"{_source(configured)}: {bare(url)!r} is not an address like http://127.0.0.1:4200/api")
    return url


def require_server(configured: str = "") -> str:
    """The API address of the server that is named, "" where none is. Raises BadInput where it does not answer."""
    url = named_server(configured)
    if url and (reason := unreachable(url)):
        fix = "empty it" if configured else "unset it"
        raise BadInput(
            f"{_source(configured)} names the Prefect server {bare(url)}, which does not answer ({cleared(reason)}): "
            f"start it (`rushes serve`), or {fix} to run without one"
        )
    return url


def unreachable(url: str, wait_s: float = WAIT_SECONDS) -> str:
    """Why no Prefect server answers at this API address, "" where one does. One that is busy is asked again."""
    reason = ""
    for _ in range(TRIES):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=wait_s) as answer:
                return "" if answer.read().strip() == b"true" else "what answers there is not a Prefect server"
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error)
            if not (isinstance(error, urllib.error.HTTPError) and error.code >= 500):
                break
            time.sleep(1.0)
    return reason


def ui_address(url: str) -> str:
    """Where a person looks at the server behind an API address."""
    return bare(url).removesuffix("/api")


def run_link(url: str, flow_run_id: object) -> str:
    """The page of one flow run."""
    return f"{ui_address(url)}/runs/flow-run/{flow_run_id}"


def _source(configured: str) -> str:
    return "infra.prefect.api_url" if configured else VARIABLE
