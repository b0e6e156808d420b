"""One source in some lines: its row, its clips and their verdicts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from flows.curate.clip_text import reasons_text, rows_of
from flows.curate.tables import clips, sources, verdicts
from flows.display.grid import cell_text
from flows.words import cause_text, counted, listed, span_text, told_apart
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.survey import Survey
from stages.core.running.lineage import SHORTEST
from stages.core.running.runs import RunRecord, find_run, runs_table
from stages.core.step import Row

SAID = ("uri", "source_id", "status", "reasons", "error", "keyframes")
"""Columns of a source that are not listed with the others: its first lines say them, or they are long."""


def source_lines(catalog: Catalog, wanted: str) -> list[str]:
    """Lines for a terminal, of the latest curation that knows the source; none where no curation does.

    wanted: a source's id, the sha256 of its file, or the first characters of these; a path or URL, or the end of one as
    tables show it. Raises BadInput where several files of that curation fit.
    """
    for record in _curations(catalog):
        survey = record.survey(catalog)
        try:
            found = _fitting(sources(survey).to_pylist(), wanted)
        except BadInput:  # it ended before there were sources
            continue
        if len(found) > 1:
            names = told_apart(r["uri"] for r in found)
            raise BadInput(
                f"{wanted} fits {len(found):,} files ({listed(list(names.values()))}); give more of the path"
            )
        if found:
            return [f"run {record.row['run_id']} (curate, {record.row['status']})", "", *_lines(survey, found[0])]
    return []


def _curations(catalog: Catalog) -> Iterator[RunRecord]:
    """Those that differ, the latest first."""
    seen = set[str]()
    for row in reversed(runs_table(catalog).to_pylist()):
        if row["flow"] == "curate" and row["plan"] + row["jobs"] not in seen:
            seen.add(row["plan"] + row["jobs"])
            yield find_run(catalog, "curate", row["run_id"])


def _fitting(rows: Sequence[Row], wanted: str) -> list[Row]:
    """The rows that a word means, in the order of: an id, the hash of a file, a whole path, the end of a path."""
    path, tail = os.path.abspath(os.path.expanduser(wanted)), "/" + wanted.removeprefix("./")
    long = len(wanted) >= SHORTEST
    by_id = [r for r in rows if long and r["source_id"].startswith(wanted)]
    by_hash = [r for r in rows if long and r["status"] == "ok" and (r["sha256"] or "").startswith(wanted)]
    whole = [r for r in rows if r["uri"] in (wanted, path)]
    return by_id or by_hash or whole or [r for r in rows if r["uri"].endswith(tail)]


def _lines(survey: Survey, source: Row) -> list[str]:
    why = "" if source["status"] in ("ok", "pending") else f": {cause_text(source)}"
    kind = "source" if source["status"] == "ok" else "file"
    lines = [f"{kind} {source['source_id']}  {source['status']}{why}", f"  file: {source['uri']}"]
    told = {n: v for n, v in source.items() if n not in SAID and v not in (None, "", [])}
    lines += [f"  {name}: {cell_text(name, value)}" for name, value in told.items()]
    made = rows_of(survey, clips, "source_id", source["source_id"])
    judged = {v["clip_id"]: v for v in rows_of(survey, verdicts, "uri", source["uri"])}
    files = told_apart(sources(survey)["uri"].to_pylist())
    said = [_clip(survey, c, judged, files) for c in made]
    return [*lines, "", counted(len(made), "clip") + (":" if made else ""), *said]


def _clip(survey: Survey, clip: Row, judged: dict[str, Row], files: dict[str, str]) -> str:
    verdict = judged.get(clip["clip_id"], {"status": "not judged yet", "reasons": []})
    why = reasons_text(survey, verdict, files)
    line = f"  {clip['clip_id']}  {span_text(clip['start_s'], clip['end_s'])}  {verdict['status']}"
    return line + (f": {why}" if why else "")
