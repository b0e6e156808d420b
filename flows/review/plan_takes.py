"""What one plan shows of its takes: how they stand, their best video, what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from flows.review.media import Medium
from flows.views.tables import takes
from flows.words import error_text, reason_text
from stages.core.config import load_class
from stages.core.planning.plan import Node
from stages.core.planning.survey import Survey
from stages.core.step import Row

MEASURED = ("qc", "judgement")
"""The kinds of rows whose columns of numbers are metrics of a take."""
DIGITS = 6


@dataclass(frozen=True)
class PlanTakes:
    """takes: a record per take, in order; media: the id of every video that they show -> its files."""

    takes: list[Row]
    media: dict[str, Medium]


def plan_takes(survey: Survey) -> PlanTakes:
    """The takes of a plan as they stand now."""
    videos, media = _videos(survey)
    measured = _measured(survey)
    units = {r["unit_id"]: r["unit"] for r in survey.query('SELECT unit_id, unit FROM "p_roots"').to_pylist()}
    found = []
    for row in takes(survey).to_pylist():
        take, unit = row["take_id"], units[row["take_id"]]
        nothing: Row = {"video": "", "poster": False, "width": 0, "height": 0, "frames": 0, "fps": 0.0}
        found.append(
            {
                "id": take,
                "campaign": row["campaign"],
                "prompt": row["prompt"],
                "negative": row["negative_prompt"] or "",
                "seed": str(row["seed"]),  # JavaScript's numbers do not hold every seed
                "tags": list(row["tags"] or ()),
                "status": row["status"],
                "why": _why(row),
                **nothing,
                **videos.get(take, {}),
                **measured.get(take, {"scores": {}, "qc": "", "faults": []}),
                "unit": unit,
            }
        )
    return PlanTakes(found, media)


def _why(row: Row) -> list[str]:
    """Why a take is not finished, as sentences."""
    if row["status"] == "ok":
        return []
    return [s for s in (*map(reason_text, row["reasons"] or ()), error_text(row["error"] or "")) if s]


def _nodes(survey: Survey, kinds: tuple[str, ...]) -> list[Node]:
    """The steps that make rows of these kinds of takes, as far as they are known."""
    known = [p for p in survey.plan.phases if p.level == 0 and survey.units_known(p)]
    return [n for p in known for n in p.steps if n.kind in kinds]


def _videos(survey: Survey) -> tuple[dict[str, Row], dict[str, Medium]]:
    """take id -> its video, that of the last step which has made one; and where the files of these lie."""
    shown: dict[str, Row] = {}
    media: dict[str, Medium] = {}
    for node in _nodes(survey, ("video",)):
        writes = load_class(node.use, node.name).writes.names
        columns = ("uri", "poster_uri", "width", "height", "n_frames", "fps")
        values = ", ".join(f'"{node.name}".{c} AS {c}' for c in columns if c in writes)
        query = f"""SELECT unit_id, "{node.name}".id AS id, {values} FROM "p_{survey.plan.phase_of(node.name).name}"
            WHERE "{node.name}".status = 'ok'"""
        for row in survey.query(query).to_pylist():
            shown[row["unit_id"]] = {
                "video": row["id"],
                "poster": bool(row.get("poster_uri")),
                "width": row.get("width") or 0,
                "height": row.get("height") or 0,
                "frames": row.get("n_frames") or 0,
                "fps": row.get("fps") or 0.0,
            }
            media[row["id"]] = Medium(row["uri"], row.get("poster_uri") or "")
    used = {row["video"] for row in shown.values()}
    return shown, {name: medium for name, medium in media.items() if name in used}


def _measured(survey: Survey) -> dict[str, Row]:
    """take id -> its metrics, whether it has passed the checks (`ok`, `rejected` or ""), and why it has not."""
    found: dict[str, Row] = {}
    for node in _nodes(survey, MEASURED):
        writes = load_class(node.use, node.name).writes
        metrics = [f.name for f in writes if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
        values = "".join(f', "{node.name}"."{name}" AS "{name}"' for name in metrics)
        query = f"""SELECT unit_id, "{node.name}".status AS _status, "{node.name}".reasons AS _reasons{values}
            FROM "p_{survey.plan.phase_of(node.name).name}" WHERE "{node.name}".status IN ('ok', 'rejected')"""
        for row in survey.query(query).to_pylist():
            mine = found.setdefault(row["unit_id"], {"scores": {}, "qc": "", "faults": []})
            mine["scores"] |= {m: round(row[m], DIGITS) for m in metrics if row[m] is not None}
            if node.kind == "qc":
                mine["qc"] = row["_status"]
                mine["faults"] = [reason_text(r) for r in row["_reasons"] or ()]
    return found
