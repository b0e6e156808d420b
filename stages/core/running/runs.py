"""Reading the runs of a store: every run is a row with its plan in it, so that a run can be read as a view."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa

from stages.core.errors import BadInput
from stages.core.ledger.catalog import NO_ROWS, Catalog, connect
from stages.core.ledger.records import RUN_SCHEMA, RUNS, RUNS_FINGERPRINT
from stages.core.planning.plan import Plan
from stages.core.planning.survey import Survey
from stages.core.step import Row


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
    sql = connect()
    table = catalog.with_rows(sql, RUNS, RUNS_FINGERPRINT, lambda source: _last_rows(sql, source))
    rows = [{**row, "status": _status(row)} for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, RUN_SCHEMA)


def _last_rows(sql: duckdb.DuckDBPyConnection, source: str) -> pa.Table:
    if source == NO_ROWS:
        return RUN_SCHEMA.empty_table()
    return sql.sql(
        f"SELECT * FROM {source} QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY ended DESC NULLS LAST) = 1 "
        "ORDER BY started, run_id"
    ).to_arrow_table()


def _status(row: Row) -> str:
    here = row["status"] == "running" and row["host"] == socket.gethostname()
    return "lost" if here and not _alive(row["pid"], row["started"]) else str(row["status"])


def _alive(pid: int, started: datetime) -> bool:
    """Whether the process that started a run still goes on; a later one may have been given its number."""
    import psutil

    try:
        process = psutil.Process(pid)
        same = process.create_time() <= started.timestamp() + 1
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
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
        raise BadInput(f"{run_id!r} is the beginning of {len(found)} run ids; give more of it")
    row = found[-1]
    return RunRecord(row, Plan.from_json(row["plan"]), json.loads(row["jobs"]))
