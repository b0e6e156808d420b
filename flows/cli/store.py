"""`rushes table`, `status` and `catalog`: reading a store. None of Prefect, Ray and torch is imported here."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.table import Table

from flows.cli.outputs import FORMATS, formats_of, is_special, write_special, write_table
from flows.display.grid import print_table
from flows.display.terminal import console as plain_console
from flows.render.qc import KIND, qc, qc_lines
from flows.run.progress import counts_notes
from flows.run.session import existing_catalog
from flows.views.tables import TABLES, read_table
from flows.words import command, counted, file_name
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.upkeep import Report
from stages.core.ledger.upkeep import repair as repair_store
from stages.core.planning.plan import Node
from stages.core.planning.survey import Survey
from stages.core.reach.harmless import for_terminal
from stages.core.running.runs import RunRecord, find_run, runs_table
from stages.core.step import Row

console = plain_console()
Options = dict[str, Any]
"""Options of the store's file system, as `infra.storage` has them."""


def show_table(
    name: str, store: str, run_id: str, everything: bool, out: Path | None, options: Options | None = None
) -> int:
    """Print a table, or write all of it to a file."""
    if out and out.suffix not in FORMATS:
        raise BadInput(f"--out {out}: the name must end in {formats_of(name)}")
    catalog = existing_catalog(store, options, results=name in ("datasets", "checkpoints"))
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
        print_table(console, table)
        if name in TABLES and not everything:
            flow = TABLES[name][0]
            runs = sum(r["flow"] == flow for r in runs_table(catalog).to_pylist())
            which = f"run {run_id}" if run_id else f"the latest of {runs} {flow} runs"
            if runs > 1:
                console.print(f"rows of {which}; --all shows the rows of every run", soft_wrap=True, markup=False)
    return 0


def make_page(store: str, run_id: str, out: Path | None, options: Options | None = None) -> int:
    """Write the page of a store, and print where it is."""
    from flows.views.page import export_page

    catalog = existing_catalog(store, options)
    where = out or catalog.storage.local_path("page.html")
    if where is None:
        raise BadInput(f"{catalog.storage.url} is no local folder; give --out FILE.html")
    console.print(export_page(catalog, where, run_id), soft_wrap=True, markup=False)
    return 0


def show_status(store: str, options: Options | None = None) -> int:
    """The runs of a store, and the progress of every step in the latest run of each flow."""
    catalog = existing_catalog(store, options)
    runs = runs_table(catalog).to_pylist()
    if not runs:
        console.print("no runs yet")
        return 0
    for flow in sorted({r["flow"] for r in runs}):
        _show_flow(catalog, flow, [r for r in runs if r["flow"] == flow])
    return 0


def _show_flow(catalog: Catalog, flow: str, runs: list[Row]) -> None:
    record = find_run(catalog, flow)
    console.print(
        f"{flow}: {counted(len(runs), 'run')}; the latest is {_run_line(record)}", soft_wrap=True, markup=False
    )
    table = Table(box=None)
    for heading in ("step", "done", "to do", "waiting", "failed"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    survey = record.survey(catalog)
    for name, c in survey.counts().items():
        again = _failed_for_now(survey, record.plan.node(name))
        table.add_row(name, str(c.done), str(c.todo - again), str(c.waiting), str(c.failed + again))
    console.print(table)
    for line in counts_notes(survey.counts(), record.plan):
        console.print(line, soft_wrap=True)
    faults = qc_lines(qc(survey).to_pylist(), catalog.storage.url) if survey.plan.of_kind(KIND) else []
    for line in [*_failures(record, catalog), *faults]:
        console.print(for_terminal(line, keep=""), markup=False, soft_wrap=True)


def _run_line(record: RunRecord) -> str:
    row = record.row
    spent = f"{row['core_seconds']:.1f} core-seconds" + (
        f", {row['gpu_seconds']:.1f} GPU-seconds" if row["gpu_seconds"] else ""
    )
    return f"{row['run_id']}: {row['status']} ({spent})" + (f": {row['error']}" if row["error"] else "")


def _failed_for_now(survey: Survey, node: Node) -> int:
    """How many rows of a step have failed although they count as to do, because the next run tries them again."""
    if node.job or not survey.units_known(survey.plan.phase_of(node.name)):
        return 0
    rows = survey.query(f"""SELECT count(DISTINCT id) AS n FROM "v_{node.name}" WHERE status = 'error' AND retry""")
    return int(rows["n"][0].as_py())


def _failures(record: RunRecord, catalog: Catalog, most: int = 10) -> list[str]:
    """Why rows failed, each cause once; also of rows that count as to do, because the next run tries them again."""
    survey, lines = record.survey(catalog), []
    for node in record.plan.nodes:
        if node.job or not survey.units_known(record.plan.phase_of(node.name)):
            continue
        rows = survey.query(
            f"""SELECT error, retry, count(*) AS n, min(id) AS id, max(attempt) AS attempt FROM "v_{node.name}"
            WHERE status = 'error' GROUP BY error, retry ORDER BY retry, n DESC, id LIMIT {most}"""
        )
        for row in rows.to_pylist():
            which = _name_of(survey, node.name, row["id"]) if row["n"] == 1 else counted(row["n"], "row")
            later = ", the next run tries again" if row["retry"] else ""
            lines.append(f"  {node.name} {which} (attempt {row['attempt']}{later}): {row['error']}")
    return lines[:most]


def _name_of(survey: Survey, node: str, row_id: str) -> str:
    """The id of a row, and the file or the prompt that it is about."""
    phase = survey.plan.phase_of(node).name
    found = survey.query(f"""SELECT unit FROM "p_{phase}" WHERE "{node}".id = '{row_id}' LIMIT 1""").to_pylist()
    unit = found[0]["unit"] if found else {}
    named = file_name(unit["uri"]) if unit.get("uri") else shorten(unit.get("prompt") or "", 60, placeholder="…")
    return f"{named}, {row_id[:12]}" if named else row_id[:12]


def show_lineage(what: str, store: str, options: Options | None = None) -> int:
    """Where a row came from: from a video back to its prompt, from a clip back to its source; of a source its row, its
    clips and their verdicts."""
    from flows.curate.source_text import source_lines

    catalog = existing_catalog(store, options)
    try:
        lines = _lineage_lines(catalog, what)
    except BadInput:
        lines = source_lines(catalog, what)
        if not lines:
            raise
    for line in lines:
        console.print(for_terminal(line, keep=""), markup=False, soft_wrap=True)
    return 0


def _lineage_lines(catalog: Catalog, what: str) -> list[str]:
    from flows.curate.clip_text import clip_lines
    from stages.core.running.lineage import lineage
    from stages.core.running.lineage_text import as_text

    lines, store = list[str](), catalog.storage.url
    if _is_file(what):
        row_id, take = _ids_of_file(catalog, Path(what).expanduser())
    else:
        row_id, take = _ids_of_export(catalog, what) or (what, "")
    first = row_id
    while row_id:
        origin = lineage(catalog, row_id, take)
        shown = next((link.id for link in origin.above if link.kind == "unit"), "")
        if take and shown and not shown.startswith(take):
            lines += [
                f"{what} is the video of take {take}, which is not in this store; this take has the same video:",
                "",
            ]
        about = clip_lines(catalog, origin.run["run_id"], origin.id) if origin.run["flow"] == "curate" else []
        if about:
            about.append("")
        lines += [*(["", "trained from:"] if row_id != first else []), *about, *as_text(origin)]
        if about:
            lines += ["", f"every column: {command('table sources --out FILE', store)}, and of clips `table clips`"]
        row_id = origin.above[-1].row.get("parent", "") if origin.above else ""  # a checkpoint's own start
    return lines


def _is_file(what: str) -> bool:
    """Whether a word names a file, there or not: ids hold neither `/` nor `.`."""
    return "/" in what or "." in what or Path(what).is_file()


def _ids_of_export(catalog: Catalog, sha256: str) -> tuple[str, str] | None:
    """As `_ids_of_file`, of an exported file with this sha256, which may be shortened; None where there is none."""
    from flows.render.provenance import identify_hash

    found = identify_hash(sha256, catalog.storage)
    return (found.artifact_id or found.take_id, found.take_id) if found else None


def _ids_of_file(catalog: Catalog, path: Path) -> tuple[str, str]:
    """The id of the artifact, or of the take, that a video file shows, and that of the take that it was delivered for,
    "" where the file does not say. Raises BadInput where nothing tells."""
    from flows.render.provenance import identify

    found = identify(path, catalog.storage)
    if found is None:
        raise BadInput(
            f"{path}: no video of {catalog.storage.url} has its tags, its content or its name, and no curation there "
            "has it as a source; give the store that it belongs to"
        )
    if found.artifact_id or found.take_id:
        return found.artifact_id or found.take_id, found.take_id
    videos = read_table(catalog, "videos", everything=True).to_pylist()
    row_id = next((v["video_id"] for v in videos if v["sha256"] == found.artifact_sha256), found.artifact_sha256)
    return row_id, ""


def verify_store(store: str, repair: bool, options: Options | None = None) -> int:
    """Report on a store; exit status 1 where a part or a row's file is damaged."""
    from data_prep.publish.folder import faults
    from stages.core.ledger.upkeep import verify

    catalog = existing_catalog(store, options)
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
        f"checked {counted(report.parts, 'table file')} with {counted(report.rows, 'row')}, "
        f"and {counted(report.files, 'media file')}"
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
    return [*lines, "no faults found" if report.ok else counted(len(report.faults), "fault")]


def compact_store(store: str, options: Options | None = None) -> int:
    """Merge small parts. Sources stay for a minute, so that no reader that listed them misses a row."""
    from stages.core.ledger.compaction import compact

    done = compact(existing_catalog(store, options))
    console.print(
        f"{counted(done.before, 'table file')} merged into {done.after}; "
        f"{counted(done.dropped, 'duplicate row')} dropped"
    )
    return 0
