"""Reading the runs of a store: every run is a row, and its plan is stored with it, so that a run can be read as a view."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass

import pyarrow as pa

from stages.core.catalog import Catalog, connect
from stages.core.errors import BadInput
from stages.core.plan import Plan
from stages.core.run import RUN_SCHEMA, RUNS, RUNS_FINGERPRINT
from stages.core.step import Row
from stages.core.survey import Survey


@dataclass(frozen=True)
class RunRecord:
    """One run as it stands in the catalog: its row, its plan, and the results of its jobs."""

    row: Row
    plan: Plan
    jobs: dict[str, str]

    def survey(self, catalog: Catalog) -> Survey:
        """The tables of this run."""
        return Survey(catalog, self.plan, jobs=self.jobs)


def runs_table(catalog: Catalog) -> pa.Table:
    """Every run, the newest last, each with its last known state. A run that still says `running` while its process on
    this machine is gone is shown as `lost`."""
    paths = catalog.parts(RUNS, RUNS_FINGERPRINT)
    if not paths:
        return RUN_SCHEMA.empty_table()
    sql = connect()
    source = catalog.scan(sql, paths)
    table = sql.sql(
        f"SELECT * FROM {source} QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY ended DESC NULLS LAST) = 1 "
        "ORDER BY started, run_id"
    ).to_arrow_table()
    rows = [{**row, "status": _status(row)} for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, RUN_SCHEMA)


def _status(row: Row) -> str:
    here = row["status"] == "running" and row["host"] == socket.gethostname()
    return "lost" if here and not _alive(row["pid"]) else str(row["status"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def find_run(catalog: Catalog, flow: str = "", run_id: str = "") -> RunRecord:
    """The run of this id (or an unambiguous beginning of it), else the latest of the flow.

    Raises BadInput where there is none, or where several begin so.
    """
    rows = runs_table(catalog).to_pylist()
    found = [r for r in rows if (not flow or r["flow"] == flow) and r["run_id"].startswith(run_id)]
    if not found:
        what = f"run {run_id!r}" if run_id else f"{flow or 'any'} run"
        raise BadInput(f"there is no {what} in {catalog.storage.url} yet")
    if run_id and len(found) > 1:
        raise BadInput(f"{run_id!r} begins {len(found)} run ids; give more of it")
    row = found[-1]
    return RunRecord(row, Plan.from_json(row["plan"]), json.loads(row["jobs"]))
