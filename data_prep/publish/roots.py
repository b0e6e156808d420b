"""What a publication takes from a curation: the kept clips with their captions and scores, and what became of the rest.

Steps are found by what they make, so that a curation may call them as it likes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from data_prep.publish.index import CLIP_ROOTS, KINDS, Index
from data_prep.publish.manifest_columns import extra_columns
from data_prep.publish.origin import pack_spans
from stages.core.planning.plan import Node, Phase
from stages.core.planning.survey import Survey
from stages.core.step import ARTIFACT

SIBLINGS = 512
"""The most clips that are cut in one pass."""
SPAN = ("source_id", "start_frame", "end_frame")
CAPTION_SQL = """STRUCT(kind VARCHAR, text VARCHAR, model VARCHAR, status VARCHAR, "window" BIGINT, start_s DOUBLE,
    end_s DOUBLE)"""
NOT_SCORES = frozenset({"unit_id", "parent_id", "id", "clip_id", *(name for name, _ in ARTIFACT)})


def kept_phase(survey: Survey) -> Phase:
    """The phase whose units are the kept clips: what the last job that judges clips lets pass."""
    return survey.plan.phases[-1]


def _last(survey: Survey, kind: str) -> Node:
    return survey.plan.of_kind(kind)[-1]


def kept_clips(survey: Survey) -> pa.Table:
    """One row per kept clip in the order of the sources: `CLIP_ROOTS`, then the scores that were measured, and what
    manifests say in further columns."""
    signals = _last(survey, "signals")
    scores = {name: node for name, (node, _) in score_columns(survey).items() if name not in CLIP_ROOTS.names}
    motion = score_columns(survey).get("motion")
    columns = [f'"{f.name}"' for f in CLIP_ROOTS if f.name != "siblings"] + [f'"{name}"' for name in scores]
    phase = f'"u_{kept_phase(survey).name}"'
    noted = "k.extra" if "extra" in survey.query(f"SELECT * FROM {phase} LIMIT 0").column_names else "''"
    own = "".join(f', "t_{node}"."{name}"' for name, node in scores.items())
    joined = sorted({*scores.values(), *([motion[0]] if motion else [])})
    joins = " ".join(f'LEFT JOIN {survey.view(n)} "t_{n}" ON "t_{n}".clip_id = k.clip_id' for n in joined)
    thumbs = survey.plan.of_kind("thumbs")
    thumb = survey.view(thumbs[-1].name) if thumbs else _nothing(uri="VARCHAR")
    group = "k.duplicate_group" if survey.plan.of_kind("duplicates") else "''"
    table = survey.query(
        f"""WITH clips AS (SELECT k.id, k.clip_id, k.source_id, k.uri, k.bytes, k.sha256 AS source_sha256,
            k.version AS source_version, a.uri AS signals_uri, k.codec, k.has_audio, k.stream_index,
            k.time_base_num, k.time_base_den, k.start_pts, k.end_pts, k.start_frame, k.end_frame, k.start_s, k.end_s,
            coalesce(k.label, '') AS label, coalesce(k.licence, '') AS licence, {group} AS duplicate_group,
            coalesce(g.copy_sources, [])::VARCHAR[] AS copy_sources, coalesce(t.uri, '') AS thumb_uri,
            {f'"t_{motion[0]}".motion' if motion else "NULL"}::DOUBLE AS motion,
            coalesce(c.captions, []) AS captions, k.position AS source_position, {noted} AS extra{own}
            FROM {phase} k
            JOIN {survey.view(signals.name)} a ON a.unit_id = k.level_{survey.plan.phase_of(signals.name).level}
            LEFT JOIN {_groups(survey)} g ON g.duplicate_group = {group} LEFT JOIN {thumb} t ON t.clip_id = k.clip_id
            LEFT JOIN {_captions(survey)} c ON c.clip_id = k.clip_id {joins})
        SELECT {", ".join(columns)}, extra FROM (SELECT *, row_number() OVER (ORDER BY source_position, start_frame, id)
            - 1 AS position FROM clips) ORDER BY position"""
    )
    table = table.add_column(CLIP_ROOTS.get_field_index("siblings"), "siblings", siblings(table))
    taken = (*CLIP_ROOTS.names, *Index.writes.names, *score_columns(survey))
    extra = extra_columns(table.column("extra").to_pylist(), taken)
    table = table.drop_columns(["extra"]).cast(pa.schema([*CLIP_ROOTS, *(table.schema.field(n) for n in scores)]))
    for name in extra.column_names:
        table = table.append_column(name, extra.column(name))
    return table


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


def score_columns(survey: Survey) -> dict[str, tuple[str, str]]:
    """Every score of clips: its name -> (the first step that measures it, which of KINDS it is)."""
    found: dict[str, tuple[str, str]] = {}
    for node in (n for kind in ("scores", "thumbs") for n in survey.plan.of_kind(kind)):
        for field in survey.query(f"SELECT * FROM {survey.view(node.name)} LIMIT 0").schema:
            if field.name not in NOT_SCORES and (kind := _kind_of(field.type)):
                found.setdefault(field.name, (node.name, kind))
    return found


def index_columns(survey: Survey, clips: pa.Table) -> dict[str, str]:
    """The columns that an index gets beside its own, scores and what manifests say: name -> which of KINDS it is."""
    scores = {n: kind for n, (_, kind) in sorted(score_columns(survey).items()) if n not in Index.writes.names}
    rest = (f for f in clips.schema if f.name not in CLIP_ROOTS.names and f.name not in scores)
    return {**scores, **{f.name: _kind_of(f.type) for f in rest if f.name not in Index.writes.names}}


def _kind_of(found: pa.DataType) -> str:
    """Which of KINDS this type is; "" for vectors and files, which no index carries."""
    plain = pa.int64() if pa.types.is_integer(found) else pa.float64() if pa.types.is_floating(found) else found
    return next((name for name, kind in KINDS.items() if kind == plain), "")


def _nothing(**columns: str) -> str:
    """No rows, with clip_id and these columns of these types."""
    names = ", ".join(f"NULL::{kind} AS {name}" for name, kind in {"clip_id": "VARCHAR", **columns}.items())
    return f"(SELECT {names} WHERE false)"


def _captions(survey: Survey) -> str:
    """clip_id and the list of its captions, of all captioners."""
    views = [survey.view(n.name) for n in survey.plan.of_kind("captions")]
    if not views:
        return _nothing(captions=f"{CAPTION_SQL}[]")
    struct = """{'kind': kind, 'text': text, 'model': model, 'status': status, 'window': "window"::BIGINT,
        'start_s': start_s, 'end_s': end_s}"""
    rows = " UNION ALL BY NAME ".join(f"SELECT * FROM {v}" for v in views)
    return f"""(SELECT clip_id, list({struct} ORDER BY "window", kind, text) AS captions
        FROM ({rows}) GROUP BY clip_id)"""


def _groups(survey: Survey) -> str:
    """Each group of copies, and the sources of all clips in it, kept or not."""
    if not survey.plan.of_kind("duplicates"):
        return "(SELECT NULL::VARCHAR AS duplicate_group, NULL::VARCHAR[] AS copy_sources WHERE false)"
    return f"""(SELECT duplicate_group, list(DISTINCT x.source_id ORDER BY x.source_id) AS copy_sources
        FROM {survey.view(_last(survey, "duplicates").name)} d
        JOIN {survey.view(_last(survey, "clips").name)} x ON x.clip_id = d.id
        WHERE duplicate_group <> '' GROUP BY duplicate_group)"""


def yields_of(survey: Survey) -> dict[str, Any]:
    """What became of the footage: counts along the way, and what clips were rejected for, the commonest first."""

    def count(what: str) -> int:
        found: int = survey.query(f"SELECT count(*) AS n FROM {what}")["n"][0].as_py()
        return found

    listed = survey.view(_last(survey, "sources").name)
    judges = [n for kind in ("verdicts", "duplicates") for n in survey.plan.of_kind(kind)]
    first = next(n for n in survey.plan.nodes if n in judges)
    return {
        "sources": count(listed),
        "sound": count(f"{listed} WHERE status = 'ok'"),
        "clips": count(survey.view(_last(survey, "clips").name)),
        "passed": count(f"{survey.view(first.name)} WHERE status = 'ok'"),
        "kept": count(f'"u_{kept_phase(survey).name}"'),
        "reasons": reasons_of(survey, judges),
    }


def reasons_of(survey: Survey, judges: list[Node]) -> list[dict[str, Any]]:
    """Per metric and threshold: how many clips fail it, and how many fail nothing else. A clip may fail several."""
    each = [f"SELECT reasons FROM {survey.view(n.name)} WHERE status = 'rejected'" for n in judges]
    rows: list[dict[str, Any]] = survey.query(
        f"""SELECT metric, op, threshold, count(*) AS clips, count(*) FILTER (n = 1) AS alone FROM
        (SELECT len(reasons) AS n, unnest(reasons, max_depth := 2) FROM ({" UNION ALL ".join(each)}))
        GROUP BY ALL ORDER BY clips DESC, metric, op"""
    ).to_pylist()
    return rows
