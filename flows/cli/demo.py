"""`rushes demo`: the main job on what comes with the project, and one page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from flows.cli.run import curate_command, render_command
from flows.display.terminal import console as plain_console
from flows.run.session import EXIT_STATUS, STOPPED, existing_catalog
from flows.views.page import stage_costs, write_page
from flows.views.tables import read_table, read_tables
from stages.core.config_files import ROOT
from stages.core.ledger.catalog import Catalog
from stages.core.step import Row

FOOTAGE = ROOT / "data_prep" / "footage"
CAMPAIGN = "demo"
PAGE = "demo.html"
CURATED = (("sources", "status"), ("cuts", "kind"), ("clips", ""), ("verdicts", "status"), ("captions", "kind"))
"""Tables of the curation, each with the column whose values are counted."""

console = plain_console()


def run_demo(store: str, executor: str | None) -> int:
    """Curate the shipped clips, render the demo campaign, print what was made, and write the page."""
    common: dict[str, Any] = {
        "store": store,
        "dry_run": None,
        "limit": None,
        "executor": executor,
        "retry_errors": False,
    }
    curated = curate_command([str(FOOTAGE)], config="curate", until="", only="", **common)
    if curated == EXIT_STATUS[STOPPED]:
        return curated
    rendered = render_command([CAMPAIGN], prompt=(), seed=(), export_to=None, **common)
    catalog = existing_catalog(store)
    print_results(catalog)
    console.print("page with the videos and the clips:")
    console.print(write_page(catalog, PAGE), soft_wrap=True, markup=False)
    return max(curated, rendered)


def print_results(catalog: Catalog) -> None:
    """The tables in the terminal: what, where, how long, at what cost."""
    artifacts = read_table(catalog, "artifacts").to_pylist()
    chains: dict[str, list[Row]] = {}
    for row in artifacts:
        chains.setdefault(row["take_id"], []).append(row)
    console.print(_curated(catalog))
    console.print(_rendered(catalog, stage_costs(chains.values())))


def _curated(catalog: Catalog) -> Table:
    table = Table(title="curate", title_justify="left", box=None)
    for heading in ("table", "rows", "by kind or status"):
        table.add_column(heading, justify="right" if heading == "rows" else "left")
    tables = read_tables(catalog, [name for name, _ in CURATED])
    for name, column in CURATED:
        rows = tables[name].to_pylist()
        states = ["copy" if r.get("duplicate_of") else r[column] for r in rows] if column else []
        table.add_row(name, str(len(rows)), _tally(states))
    return table


def _tally(values: Sequence[str]) -> str:
    return ", ".join(f"{v} {values.count(v)}" for v in sorted(set(values)))


def _rendered(catalog: Catalog, costs: Sequence[Row]) -> Table:
    table = Table(title=f"render, in {catalog.storage.url}/media", title_justify="left", box=None)
    for heading in ("stage", "rows made", "workers", "seconds per row", "core-seconds", "GPU-seconds"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for c in costs:
        seconds = (f"{c[k]:.{d}f}" for k, d in (("seconds", 2), ("core_seconds", 1), ("gpu_seconds", 1)))
        table.add_row(c["stage"], str(c["rows"]), str(c["workers"]), *seconds)
    return table
