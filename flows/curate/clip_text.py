"""One clip in a few lines: its span, its verdict with the reasons, its scores, its captions."""

from __future__ import annotations

from flows.curate.tables import View, captions, clips, scores, verdicts
from flows.display.grid import cell_text
from flows.words import file_name, reason_text
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.planning.survey import Survey
from stages.core.running.runs import find_run
from stages.core.step import Row


def clip_lines(catalog: Catalog, run_id: str, clip_id: str) -> list[str]:
    """Lines for a terminal, of one curation; none for an id that is no clip of it."""
    survey = find_run(catalog, "curate", run_id).survey(catalog)
    clip = next(iter(_rows(survey, clips, clip_id)), None)
    if clip is None:
        return []
    span = f"frames {clip['start_frame']:,} to {clip['end_frame'] - 1:,}, {clip['start_s']:.2f}-{clip['end_s']:.2f} s"
    lines = [f"clip {clip_id} of {file_name(clip['uri'])}: {span}"]
    for row in _rows(survey, verdicts, clip_id):
        why = "; ".join(reason_text(r) for r in row["reasons"])
        lines.append(f"  {row['status']}" + (f": {why}" if why else ""))
    for row in _rows(survey, scores, clip_id):
        measured = {n: v for n, v in row.items() if n != "clip_id" and v not in (None, "", [])}
        lines += [f"  {name} {cell_text(name, value)}" for name, value in measured.items()]
    texts = {r["text"]: r["kind"] for r in _rows(survey, captions, clip_id) if r["text"]}
    return [*lines, *(f"  caption ({kind}): {text}" for text, kind in texts.items())]


def _rows(survey: Survey, view: View, clip_id: str) -> list[Row]:
    """The rows of a table about this clip; none where the curation did not come so far."""
    try:
        return [r for r in view(survey).to_pylist() if r["clip_id"] == clip_id]
    except BadInput:
        return []
