"""What a publication takes from a curation: the kept clips with their captions, and what became of all the others."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from data_prep.publish.index import CLIP_ROOTS
from data_prep.publish.origin import pack_spans
from stages.core.ledger.survey import Survey

SIBLINGS = 512
"""The most clips that are cut in one pass."""
SPAN = ("source_id", "start_frame", "end_frame")
CAPTION_SQL = """STRUCT(kind VARCHAR, text VARCHAR, model VARCHAR, status VARCHAR, "window" BIGINT, start_s DOUBLE,
    end_s DOUBLE)"""


def has_step(survey: Survey, name: str) -> bool:
    """Whether the plan has a step of this name."""
    return any(n.name == name for n in survey.plan.nodes)


def kept_clips(survey: Survey) -> pa.Table:
    """One row per kept clip, `CLIP_ROOTS`, in the order of the sources."""
    names = ", ".join(f'"{f.name}"' for f in CLIP_ROOTS if f.name != "siblings")
    thumbs = survey.view("thumbs") if has_step(survey, "thumbs") else _nothing(uri="VARCHAR")
    clips = survey.query(
        f"""WITH clips AS (SELECT k.clip_id AS id, k.* EXCLUDE (id, bytes), s.bytes, s.sha256 AS source_sha256,
            s.version AS source_version, a.uri AS signals_uri, s.codec,
            s.has_audio, s.position AS source_position, coalesce(g.duplicate_group, '') AS duplicate_group,
            coalesce(g.copy_sources, [])::VARCHAR[] AS copy_sources, coalesce(t.uri, '') AS thumb_uri,
            coalesce(c.captions, []) AS captions
            FROM {survey.view("kept")} k JOIN {survey.view("sources")} s ON s.id = k.source_id AND s.status = 'ok'
            JOIN {survey.view("analyse")} a ON a.unit_id = k.source_id
            LEFT JOIN {_groups(survey)} g ON g.clip_id = k.clip_id LEFT JOIN {thumbs} t ON t.clip_id = k.clip_id
            LEFT JOIN {_captions(survey)} c ON c.clip_id = k.clip_id)
        SELECT {names} FROM (SELECT *, row_number() OVER (ORDER BY source_position, start_frame, id) - 1 AS position
            FROM clips) ORDER BY position"""
    )
    at = CLIP_ROOTS.get_field_index("siblings")
    return clips.add_column(at, "siblings", siblings(clips)).cast(CLIP_ROOTS)


def siblings(clips: pa.Table) -> pa.Array:
    """For each clip the frame ranges of the clips of its source, in groups of SIBLINGS clips that follow each other."""
    groups: dict[tuple[str, int], list[tuple[int, int]]] = {}
    seen: Counter[str] = Counter()
    keys = []
    for source, first, end in zip(*(clips.column(n).to_pylist() for n in SPAN), strict=True):
        key = (source, seen[source] // SIBLINGS)
        seen[source] += 1
        groups.setdefault(key, []).append((first, end))
        keys.append(key)
    packed = {key: pack_spans(spans) for key, spans in groups.items()}
    return pa.array([packed[key] for key in keys], pa.binary())


def _nothing(**columns: str) -> str:
    """No rows, with clip_id and these columns of these types."""
    names = ", ".join(f"NULL::{kind} AS {name}" for name, kind in {"clip_id": "VARCHAR", **columns}.items())
    return f"(SELECT {names} WHERE false)"


def _captions(survey: Survey) -> str:
    """clip_id and the list of its captions."""
    if not has_step(survey, "caption"):
        return _nothing(captions=f"{CAPTION_SQL}[]")
    struct = """{'kind': kind, 'text': text, 'model': model, 'status': status, 'window': "window"::BIGINT,
        'start_s': start_s, 'end_s': end_s}"""
    return f"""(SELECT clip_id, list({struct} ORDER BY "window", kind, text) AS captions
        FROM {survey.view("caption")} GROUP BY clip_id)"""


def _groups(survey: Survey) -> str:
    """clip_id, its group of copies, and the sources of all clips in it, kept or not."""
    if not has_step(survey, "dedup"):
        return _nothing(duplicate_group="VARCHAR", copy_sources="VARCHAR[]")
    verdicts = survey.view("dedup")
    return f"""(SELECT d.id AS clip_id, d.duplicate_group, m.copy_sources FROM {verdicts} d JOIN (
        SELECT duplicate_group, list(DISTINCT source_id ORDER BY source_id) AS copy_sources
        FROM {verdicts} v JOIN {survey.view("clips")} x ON x.clip_id = v.id
        WHERE duplicate_group <> '' GROUP BY duplicate_group) m USING (duplicate_group))"""


def verdicts_view(survey: Survey) -> str | None:
    """The last word on every clip, None where nothing was selected."""
    return next((survey.view(n) for n in ("dedup", "select") if has_step(survey, n)), None)


def yields_of(survey: Survey) -> dict[str, Any]:
    """What became of the footage: counts along the way, and what clips were rejected for, the commonest first."""

    def count(what: str) -> int:
        found: int = survey.query(f"SELECT count(*) AS n FROM {what}")["n"][0].as_py()
        return found

    verdicts = verdicts_view(survey)
    reasons = reasons_of(survey, verdicts) if verdicts else []
    kept = count(survey.view("kept"))
    return {
        "sources": count(survey.view("sources")),
        "sound": count(f"{survey.view('sources')} WHERE status = 'ok'"),
        "clips": count(survey.view("clips")),
        "passed": kept + sum(r["alone"] for r in reasons if r["metric"] == "duplicate"),
        "kept": kept,
        "reasons": reasons,
    }


def reasons_of(survey: Survey, verdicts: str) -> list[dict[str, Any]]:
    """Per metric and threshold: how many clips fail it, and how many fail nothing else. A clip may fail several."""
    rows: list[dict[str, Any]] = survey.query(
        f"""SELECT metric, op, threshold, count(*) AS clips, count(*) FILTER (n = 1) AS alone FROM
        (SELECT len(reasons) AS n, unnest(reasons, max_depth := 2) FROM {verdicts} WHERE status = 'rejected')
        GROUP BY ALL ORDER BY clips DESC, metric, op"""
    ).to_pylist()
    return rows
