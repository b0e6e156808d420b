"""What the tests ask a Prefect server for, over plain HTTP as its own pages do."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


class Api:
    """A client of one server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """One call; a busy server is asked again."""
        data = json.dumps(body or {}).encode() if method != "GET" else None
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"}, method=method)
        for _ in range(20):
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error
                time.sleep(0.5)
        raise AssertionError(f"{path}: the server stays busy")

    def deployments(self) -> dict[str, Any]:
        """The deployments by name."""
        return {d["name"]: d for d in self.ask("/deployments/filter")}

    def start(self, name: str, run_name: str = "", **parameters: Any) -> str:
        """Start a run of a deployment, as the form does. Returns the run's id."""
        deployment = self.deployments()[name]["id"]
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}} | ({"name": run_name} if run_name else {})
        return str(self.ask(f"/deployments/{deployment}/create_flow_run", body)["id"])

    def run(self, run_id: str) -> Any:
        """One flow run."""
        return self.ask(f"/flow_runs/{run_id}", method="GET")

    def cancel(self, run_id: str) -> None:
        """What the button does."""
        answer = self.ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        assert answer["status"] == "ACCEPT"

    def wait(self, run_id: str, seconds: float = 900) -> Any:
        """The run once it has ended."""
        return self.until(lambda: (run := self.run(run_id))["state_type"] in FINAL and run, seconds)

    def tasks(self, run_id: str) -> list[Any]:
        """The task runs of a flow run."""
        return list(self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}}))

    def logs(self, run_id: str) -> list[Any]:
        """The log records of a flow run and its tasks."""
        return list(self.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}}))

    def artifacts(self, run_id: str) -> dict[str, Any]:
        """The artifacts of a flow run, by key."""
        found = self.ask("/artifacts/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return {a["key"]: a for a in found}

    @staticmethod
    def until(true: Any, seconds: float = 900) -> Any:
        """Wait for something to hold. Returns what it gave."""
        deadline = time.monotonic() + seconds
        while not (value := true()):
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.5)  # every question costs the server time
        return value
