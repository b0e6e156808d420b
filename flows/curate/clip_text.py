"""One clip in a few lines: its span, its verdict with the reasons, its scores, its captions."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow.compute as pc

from flows.curate.tables import View, captions, clips, scores, sources, verdicts
from flows.display.grid import cell_text
from flows.words import clip_name, reason_text, span_text, told_apart
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.survey import Survey
from stages.core.running.runs import find_run
from stages.core.step import Row

NO_SCORES = ("clip_id", "thumb_frame")
"""Columns of the table `scores` that a reader has no use for beside the scores."""


def clip_lines(catalog: Catalog, run_id: str, clip_id: str) -> list[str]:
    """Lines for a terminal, of one curation; none for an id that is no clip of it."""
    survey = find_run(catalog, "curate", run_id).survey(catalog)
    clip = next(iter(rows_of(survey, clips, "clip_id", clip_id)), None)
    if clip is None:
        return []
    frames = f"frames {clip['start_frame']:,} to {clip['end_frame'] - 1:,}"
    span = f"{frames}, {span_text(clip['start_s'], clip['end_s'])}"
    files = told_apart(sources(survey)["uri"].to_pylist())
    name = files[clip["uri"]]
    lines = [f"clip {clip_id} of {name}: {span}"]
    for row in rows_of(survey, verdicts, "clip_id", clip_id):
        why = reasons_text(survey, row, files)
        lines.append(f"  {row['status']}" + (f": {why}" if why else ""))
    for row in rows_of(survey, scores, "clip_id", clip_id):
        measured = {n: v for n, v in row.items() if n not in NO_SCORES and v not in (None, "", [])}
        lines += [f"  {name} {cell_text(name, value)}" for name, value in measured.items()]
    told = rows_of(survey, captions, "clip_id", clip_id)
    texts = {r["text"]: r["kind"] for r in told if r["text"]}
    return [*lines, *(f"  caption ({kind}): {text}" for text, kind in texts.items())]


def reasons_text(survey: Survey, verdict: Row, files: Mapping[str, str]) -> str:
    """Why a clip was rejected, in words; a copy names the file and span of the better clip. files: what each source is
    called."""
    better = rows_of(survey, clips, "clip_id", verdict["duplicate_of"]) if verdict.get("duplicate_of") else []
    names = {c["clip_id"]: clip_name(files[c["uri"]], c["start_s"], c["end_s"]) for c in better}
    return "; ".join(reason_text(r, names) for r in verdict["reasons"])


def rows_of(survey: Survey, view: View, column: str, value: str) -> list[Row]:
    """The rows of a table about one thing, such as a clip; none where the curation did not come so far."""
    try:
        table = view(survey)
    except BadInput:
        return []
    rows: list[Row] = table.filter(pc.equal(table[column], value)).to_pylist()
    return rows
