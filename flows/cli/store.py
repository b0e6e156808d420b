"""`rushes table`, `status` and `catalog`: reading a store. None of Prefect, Ray and torch is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.markup import escape
from rich.table import Table

from flows.cli.outputs import FORMATS, is_special, write_special, write_table
from flows.run.session import existing_catalog
from flows.views.tables import read_table
from flows.views.terminal import console as plain_console
from flows.views.words import counted
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.upkeep import Report
from stages.core.ledger.upkeep import repair as repair_store
from stages.core.reach.harmless import for_terminal
from stages.core.running.runs import RunRecord, find_run, runs_table
from stages.core.step import Row

SHOWN_ROWS, SHOWN_WIDTH = 40, 48

console = plain_console()


def show_table(name: str, store: str, run_id: str, everything: bool, out: Path | None) -> int:
    """Print a table, or write all of it to a file."""
    if out and out.suffix not in FORMATS:
        raise BadInput(f"--out {out}: the name must end in {', '.join(FORMATS)}")
    catalog = existing_catalog(store, results=name in ("datasets", "checkpoints"))
    if out and is_special(out):
        if everything:
            raise BadInput(f"--out {out}: shots, and files for each source, are of one run; leave --all out")
        for line in write_special(catalog, name, run_id, out):
            console.print(line, soft_wrap=True, markup=False)
        return 0
    table = read_table(catalog, name, run_id=run_id, everything=everything)
    if out:
        write_table(table, out)
        console.print(f"{counted(table.num_rows, 'row')} in {out}", soft_wrap=True, markup=False)
    else:
        print_table(table)
    return 0


def print_table(table: pa.Table) -> None:
    """The first rows, and how many there are. On a narrow terminal each row becomes a few lines."""
    names = [n for n in table.column_names if not _is_hidden(table, n)]
    for row in table.select(names).slice(0, SHOWN_ROWS).to_pylist():
        cells = (f"[dim]{k}[/dim] {_short(v)}" for k, v in row.items() if v not in ("", None, []))
        console.print("  ".join(cells), soft_wrap=True)
    more = f"; the first {SHOWN_ROWS} are shown, --out FILE writes all" if table.num_rows > SHOWN_ROWS else ""
    console.print(f"{counted(table.num_rows, 'row')}{more}")


def _is_hidden(table: pa.Table, name: str) -> bool:
    return name in ("plan", "config", "jobs", "versions", "sha256")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = for_terminal(str(value), keep="") if not hasattr(value, "strftime") else f"{value:%Y-%m-%d %H:%M:%S}"
    return escape(text if len(text) <= SHOWN_WIDTH else text[: SHOWN_WIDTH - 1] + "…")


def show_status(store: str) -> int:
    """The runs of a store, and the progress of every step in the latest run of each flow."""
    catalog = existing_catalog(store)
    runs = runs_table(catalog).to_pylist()
    if not runs:
        console.print("no runs yet")
        return 0
    for flow in sorted({r["flow"] for r in runs}):
        _show_flow(catalog, flow, [r for r in runs if r["flow"] == flow])
    return 0


def _show_flow(catalog: Catalog, flow: str, runs: list[Row]) -> None:
    record = find_run(catalog, flow)
    table = Table(
        title=f"{flow}: {counted(len(runs), 'run')}, the latest {escape(_run_line(record))}",
        title_justify="left",
        box=None,
    )
    for heading in ("step", "done", "to do", "waiting", "failed"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    survey = record.survey(catalog)
    for name, c in survey.counts().items():
        table.add_row(name, str(c.done), str(c.todo), str(c.waiting), str(c.failed))
    console.print(table)
    for line in _failures(record, catalog):
        console.print(for_terminal(line, keep=""), markup=False)


def _run_line(record: RunRecord) -> str:
    row = record.row
    spent = f"{row['core_seconds']:.1f} core-s" + (f", {row['gpu_seconds']:.1f} GPU-s" if row["gpu_seconds"] else "")
    return f"{row['run_id']} {row['status']} ({spent})" + (f": {row['error']}" if row["error"] else "")


def _failures(record: RunRecord, catalog: Catalog, most: int = 10) -> list[str]:
    survey, lines = record.survey(catalog), []
    for node in record.plan.nodes:
        if node.job or not survey.count(node.name).failed:
            continue
        query = f"SELECT id, error, attempt FROM \"v_{node.name}\" WHERE status = 'error' LIMIT {most}"
        for row in survey.query(query).to_pylist():
            lines.append(f"  {node.name} {row['id'][:12]} (attempt {row['attempt']}): {row['error']}")
    return lines[:most]


def show_lineage(what: str, store: str) -> int:
    """Where a row came from: from a video back to its prompt, from a clip back to its source."""
    from stages.core.running.lineage import lineage
    from stages.core.running.lineage_text import as_text

    catalog = existing_catalog(store)
    first = row_id = _id_of_file(catalog, Path(what).expanduser()) if _is_file(what) else what
    while row_id:
        origin = lineage(catalog, row_id)
        for line in [*(["", "trained from:"] if row_id != first else []), *as_text(origin)]:
            console.print(for_terminal(line, keep=""), markup=False, soft_wrap=True)
        row_id = origin.above[-1].row.get("parent", "") if origin.above else ""  # a checkpoint's own start
    return 0


def _is_file(what: str) -> bool:
    """Whether a word names a file, there or not: ids hold neither `/` nor `.`."""
    return "/" in what or "." in what or Path(what).is_file()


def _id_of_file(catalog: Catalog, path: Path) -> str:
    """The id of the artifact, or the take, that a video file shows. Raises BadInput where nothing tells."""
    from flows.render.provenance import identify

    found = identify(path, catalog.storage)
    if found is None:
        raise BadInput(f"{path}: neither its tags, nor its hash, nor its name lead to a video of {catalog.storage.url}")
    if found.artifact_id or found.take_id:
        return found.artifact_id or found.take_id
    videos = read_table(catalog, "videos", everything=True).to_pylist()
    return next((v["video_id"] for v in videos if v["sha256"] == found.artifact_sha256), found.artifact_sha256)


def verify_store(store: str, repair: bool) -> int:
    """Report on a store; exit status 1 where a part or a row's file is damaged."""
    from data_prep.publish.folder import faults
    from stages.core.ledger.upkeep import verify

    catalog = existing_catalog(store)
    report = verify(catalog)
    report.faults += faults(catalog.storage)
    for line in report_lines(report):
        console.print(line, markup=False, soft_wrap=True)
    if repair:
        console.print(f"{counted(len(repair_store(catalog, report)), 'file')} older than a day removed")
    return 0 if report.ok else 1


def report_lines(report: Report, most: int = 20) -> list[str]:
    """What verify found: every fault, and of everything else the number and the first few."""
    lines = [
        f"{counted(report.parts, 'part')} with {counted(report.rows, 'row')}, {counted(report.files, 'file')} checked"
    ]
    lines += [f"fault: {fault}" for fault in report.faults]
    leftovers = (
        (report.temporaries, "temporary file", ""),
        (report.orphans, "orphaned file", ""),
        (report.twice, "row computed twice", "rows computed twice"),
    )
    for items, noun, plural in leftovers:
        names = [getattr(item, "uri", item) for item in items[:most]]
        lines += [counted(len(items), noun, plural), *(f"  {name}" for name in names)] if items else []
    return [*lines, "no faults" if report.ok else counted(len(report.faults), "fault")]


def compact_store(store: str) -> int:
    """Merge small parts. Sources stay for a minute, so that no reader that listed them misses a row."""
    from stages.core.ledger.compaction import compact

    done = compact(existing_catalog(store))
    console.print(
        f"{counted(done.before, 'part')} merged into {done.after}; {counted(done.dropped, 'duplicate row')} dropped"
    )
    return 0
