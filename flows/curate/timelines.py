"""The shots or the clips of each source as spans of frames, for timelines."""

from __future__ import annotations

import numpy as np

from data_prep.shots.clips import shots_of
from data_prep.shots.timeline import Strip
from flows.curate.frame_signals import signals_of
from flows.curate.tables import analysed, cuts_sql, nodes_of, one_of
from stages.core.errors import BadInput
from stages.core.planning.survey import Survey
from stages.core.step import Row

TIMELINES = ("cuts", "clips")
"""Tables that can be written as a timeline: shots between cuts, or clips."""


def strips(survey: Survey, table: str) -> list[tuple[str, Strip, bool]]:
    """(source_id, its spans, whether its rate varies) of every source with its shots or its clips. Where the rate
    varies, spans are by time, in frames of the average rate. Raises BadInput for another table."""
    if table not in TIMELINES:
        raise BadInput(f"the table {table} is no timeline; {' and '.join(TIMELINES)} are")
    spans = _shots(survey) if table == "cuts" else _clips(survey)
    found = []
    for row in analysed(survey):
        own, frames = spans.get(row["unit_id"], []), row["n_frames"]
        if row["is_vfr"]:
            places = _by_time(survey, row)
            own = [(places[a], places[b]) for a, b in own]
            frames = places[-1]
        whole = tuple((a, b) for a, b in own if b > a)
        found.append((row["source_id"], Strip(row["uri"], row["fps"], frames, whole), row["is_vfr"]))
    return found


def _by_time(survey: Survey, row: Row) -> list[int]:
    """Where each frame, and the end, would be if frames came at the average rate."""
    times = np.asarray(signals_of(survey, row, ("time_s",)).column("time_s"), np.float64)
    last = times[-1] - times[-2] if len(times) > 1 else 1 / row["fps"]
    return [round(t * row["fps"]) for t in [*times.tolist(), float(times[-1] + last)]]


def _shots(survey: Survey) -> dict[str, list[tuple[int, int]]]:
    from data_prep.shots.spans import spans_between

    nodes_of(survey, "cuts", "cuts")
    rows: dict[str, list[Row]] = {}
    for row in survey.query(
        f"SELECT unit_id, kind, first_frame, last_frame, score FROM {cuts_sql(survey)}"
    ).to_pylist():
        rows.setdefault(row["unit_id"], []).append(row)
    return {
        r["unit_id"]: spans_between(shots_of({"rows": rows.get(r["unit_id"], [])}, r["n_frames"]))
        for r in analysed(survey)
    }


def _clips(survey: Survey) -> dict[str, list[tuple[int, int]]]:
    node = one_of(survey, "clips", "clips")
    rows = survey.query(
        f"SELECT unit_id, start_frame, end_frame FROM {survey.view(node.name)} ORDER BY unit_id, start_frame"
    ).to_pylist()
    found: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        found.setdefault(row["unit_id"], []).append((row["start_frame"], row["end_frame"]))
    return found
