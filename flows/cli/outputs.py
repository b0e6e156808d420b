"""`rushes table --out`: tables as files, as one file for each source, and shots as EDL and OTIO."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.shots.timeline import FORMATS as TIMELINES
from data_prep.shots.timeline import check_library, write_timeline
from flows.words import counted, look
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.survey import Survey
from stages.core.reach.harmless import for_cell
from stages.core.running.runs import find_run

FORMATS = (".parquet", ".csv", ".jsonl", *TIMELINES)
EACH = "{source}"
"""Stands in a file's name for that of the source."""


def formats_of(name: str) -> str:
    """The suffixes that the file of a table may have, for a sentence; of shots and clips there are timelines, too."""
    *first, last = FORMATS if name in ("cuts", "clips") else FORMATS[: -len(TIMELINES)]
    return f"{', '.join(first)} or {last}"


def write_table(table: pa.Table, out: Path) -> None:
    """Write a table as parquet, csv or jsonl. Raises BadInput where that cannot be.

    In csv nested columns are JSON, and texts that a spreadsheet would take for a formula begin with an apostrophe."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, out)
        elif out.suffix == ".csv":
            import pyarrow.csv as pc

            pc.write_csv(_flat(table), out)
        else:
            lines = (json.dumps(row, default=str, ensure_ascii=False) for row in table.to_pylist())
            out.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}") from None


def _flat(table: pa.Table) -> pa.Table:
    return pa.table([_as_cells(table[f.name]) for f in table.schema], names=[for_cell(n) for n in table.column_names])


def _as_cells(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_nested(column.type):
        return pa.array([json.dumps(v, default=str, ensure_ascii=False) for v in column.to_pylist()])
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pa.array([v if v is None else for_cell(v) for v in column.to_pylist()], column.type)
    return column


def is_special(out: Path) -> bool:
    """Whether a file is more than a whole table: a timeline, or one file for each source."""
    return out.suffix in TIMELINES or EACH in str(out)


def write_special(catalog: Catalog, name: str, run_id: str, out: Path) -> list[str]:
    """Write them. Returns what was written, and what a person should know of it. Raises BadInput."""
    from flows.curate.curation import FLOW

    if EACH in str(out.parent):
        raise BadInput(f"--out {out}: {EACH} stands for the name of a file, not of a folder")
    if out.suffix in TIMELINES:
        check_library()
        return _timelines(find_run(catalog, FLOW, run_id).survey(catalog), name, out)
    return _tables(catalog, name, run_id, out)


def _timelines(survey: Survey, name: str, out: Path) -> list[str]:
    from flows.curate.timelines import strips

    found = [(source, strip, varies) for source, strip, varies in strips(survey, name) if strip.spans]
    if not found:
        where = look("table sources", survey.catalog.storage.url)
        raise BadInput(f"there is nothing to write to {out.name}: no source has a shot; {where}")
    said = []
    if varying := [strip.name for _, strip, varies in found if varies]:
        which = varying[0] + (f" and {len(varying) - 1} more have" if len(varying) > 1 else " has")
        said.append(f"{which} a variable frame rate: shots are placed by their time, at the average rate")
    if EACH not in out.name:
        said += write_timeline([strip for _, strip, _ in found], out)
        count = sum(len(strip.spans) for _, strip, _ in found)
        return [f"{counted(count, 'shot' if name == 'cuts' else 'clip')} in {out}", *said]
    names = names_of((source, strip.uri) for source, strip, _ in found)
    failed: list[BadInput] = []
    for source, strip, _ in found:
        try:
            said += write_timeline([strip], out.with_name(out.name.replace(EACH, names[source])))
        except BadInput as error:  # an EDL cannot hold each source; that is no reason to go without the others
            failed.append(error)
    if len(failed) == len(found):
        raise failed[0]
    written = counted(len(found) - len(failed), "file")
    return [f"{written} in {out.parent}", *said, *(f"not written: {error}" for error in failed)]


def _tables(catalog: Catalog, name: str, run_id: str, out: Path) -> list[str]:
    from flows.curate.curation import FLOW
    from flows.views.tables import read_table

    parts: Iterable[tuple[str, str, pa.Table]]
    if name == "frames":
        from flows.curate.frame_signals import frames_of_sources
        from flows.curate.tables import analysed

        survey = find_run(catalog, FLOW, run_id).survey(catalog)
        sources = analysed(survey)
        keys = [(row["source_id"], row["uri"]) for row in sources]
        parts = frames_of_sources(survey, sources)
    else:
        table = read_table(catalog, name, run_id=run_id)
        if not {"uri", "source_id"} <= set(table.column_names):
            raise BadInput(f"--out {out}: the table {name} has no source to a row; leave {EACH} out")
        keys = sorted(set(zip(*(table.column(c).to_pylist() for c in ("source_id", "uri")), strict=True)))
        parts = ((s, u, table.filter(pc.equal(table.column("source_id"), s))) for s, u in keys)
    names, count = names_of(keys), 0
    for source, _, part in parts:
        write_table(part, out.with_name(out.name.replace(EACH, names[source])))
        count += 1
    return [f"{counted(count, 'file')} in {out.parent}"]


def names_of(sources: Iterable[tuple[str, str]]) -> dict[str, str]:
    """source_id -> the name of its file without suffix; where several sources share it, with part of their id."""
    stems = {source: PurePosixPath(uri.rstrip("/").rsplit("/", 1)[-1]).stem for source, uri in sources}
    shared = Counter(stem.lower() for stem in stems.values())
    return {s: stem if shared[stem.lower()] == 1 else f"{stem}-{s[:8]}" for s, stem in stems.items()}
