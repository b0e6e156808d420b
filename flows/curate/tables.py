"""The tables of a curation as people see them. Each is a view over the plan of one run."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from data_prep.kept import NOT_FACTS
from stages.core.errors import BadInput
from stages.core.ledger.plan import ROOT_UNITS
from stages.core.ledger.survey import Survey

View = Callable[[Survey], pa.Table]


def _need(survey: Survey, name: str, table: str) -> str:
    """The SQL name of a node's rows. Raises BadInput where the run has not come so far."""
    try:
        return survey.view(name)
    except KeyError:
        raise BadInput(f"this run has no {table} yet: its step {name!r} did not run; run curate again") from None


def _has(survey: Survey, name: str) -> bool:
    return any(n.name == name for n in survey.plan.nodes)


def sources(survey: Survey) -> pa.Table:
    """One row per uri: what it is, or why it is no source. A source that could not be decoded says so too; `note` says
    what is odd about a readable one: that the file is not whole, or packets of it do not decode."""
    try:
        rows = f"(SELECT * FROM {survey.view('sources')})"
    except KeyError:
        rows = f"""(SELECT r.id, r.position, coalesce(i.status, 'pending') AS status, i.reasons, i.error, r.uri,
            r.label, r.caption, r.licence, i.* EXCLUDE (unit_id, id, input_id, seed, status, reasons, error)
            FROM {ROOT_UNITS} r LEFT JOIN v_ingest i ON i.input_id = r.file_id)"""
    failed = "(SELECT NULL::VARCHAR AS unit_id, '' AS error WHERE false)"
    decoded = "(SELECT NULL::VARCHAR AS unit_id, '' AS decode_note WHERE false)"
    if _has(survey, "analyse") and survey.units_known(survey.plan.phase_of("analyse")):
        steps = [n for n in ("analyse", "cuts", "clips") if _has(survey, n)]
        each = [f"SELECT unit_id, '{n}: ' || error AS error FROM v_{n} WHERE status = 'error'" for n in steps]
        decoded = "(SELECT unit_id, decode_note FROM v_analyse WHERE status = 'ok')"
        failed = f"(SELECT unit_id, first(error) AS error FROM ({' UNION ALL '.join(each)}) GROUP BY unit_id)"
    return survey.query(
        f"""SELECT s.id AS source_id, s.uri, CASE WHEN a.unit_id IS NULL THEN s.status ELSE 'error' END AS status,
        coalesce(a.error, s.error, '') AS error, coalesce(s.reasons, []) AS reasons,
        coalesce(s.display_width, 0) AS width, coalesce(s.display_height, 0) AS height,
        coalesce(s.duration_s, 0) AS duration_s, coalesce(s.is_vfr, false) AS is_vfr, coalesce(s.fps, 0) AS fps,
        coalesce(s.n_frames, 0) AS n_frames, s.sha256, coalesce(s.bytes, 0) AS bytes, s.container, s.codec, s.pix_fmt,
        coalesce(s.width, 0) AS coded_width, coalesce(s.height, 0) AS coded_height, coalesce(s.rotation, 0) AS rotation,
        coalesce(s.sar_num, 0) AS sar_num, coalesce(s.sar_den, 0) AS sar_den,
        coalesce(s.interlaced, false) AS interlaced, s.field_order,
        coalesce(s.time_base_num, 0) AS time_base_num, coalesce(s.time_base_den, 0) AS time_base_den,
        coalesce(s.start_pts, 0) AS start_pts, coalesce(s.duration_pts, 0) AS duration_pts,
        coalesce(s.bitrate, 0) AS bitrate, s.keyframes, coalesce(s.n_keyframes, 0) AS n_keyframes,
        coalesce(s.has_audio, false) AS has_audio, s.audio_codec, coalesce(s.n_video_streams, 0) AS n_video_streams,
        coalesce(s.mirrored, false) AS mirrored, s.label, s.caption, s.licence,
        concat_ws('; ', nullif(s.note, ''), nullif(d.decode_note, '')) AS note
        FROM {rows} s LEFT JOIN {failed} a ON a.unit_id = s.id
        LEFT JOIN {decoded} d ON d.unit_id = s.id ORDER BY s.position"""
    )


def _with_source(survey: Survey, name: str, columns: str, order: str, where: str = "true") -> pa.Table:
    """Rows of a fan-out step with the uri that their source has in this run."""
    rows, known = _need(survey, name, name), _need(survey, "sources", name)
    return survey.query(
        f"SELECT {columns} FROM {rows} r JOIN {known} s ON s.id = r.source_id "
        f"WHERE {where} ORDER BY s.position, {order}"
    )


def signals(survey: Survey) -> pa.Table:
    """One row per decoded source: where its frame-level signals lie in the store, as Parquet (a row a frame)."""
    rows, known = _need(survey, "analyse", "signals"), _need(survey, "sources", "signals")
    return survey.query(
        f"""SELECT s.id AS source_id, s.uri, r.uri AS signals_uri, r.sha256 AS signals_sha256, r.n_frames,
        r.duration_s, r.truncated, r.broken_packets, r.decode_note, r.pictures_uri
        FROM {rows} r JOIN {known} s ON s.id = r.unit_id ORDER BY s.position"""
    )


def cuts(survey: Survey) -> pa.Table:
    """One row per transition; frames count from 0 in presentation order."""
    columns = (
        "r.source_id, s.uri, r.kind, r.first_frame, r.last_frame, r.start_s, r.end_s, r.score, r.start_pts, r.end_pts"
    )
    return _with_source(survey, "cuts", columns, "r.first_frame", "r.kind <> 'trim'")


def clips(survey: Survey) -> pa.Table:
    """One row per clip, the half-open span [start, end) of its source."""
    columns = """r.clip_id, r.source_id, s.uri, r.start_frame, r.end_frame, r.start_s, r.end_s, r.n_frames,
        r.start_pts, r.end_pts, s.time_base_num, s.time_base_den, r.boundary_in, r.boundary_out"""
    return _with_source(survey, "clips", columns, "r.start_frame")


def scores(survey: Survey) -> pa.Table:
    """One row per clip and a column per metric, null where it was not measured. Bulky prints are left out."""
    clips_view = _need(survey, "clips", "scores")
    nodes = survey.plan.phase_of("clips").nodes
    names = [n.name for n in nodes if n.after and n.after[0] == "clips" and n.name not in ("copies", "select")]
    columns, joins, taken = ["c.clip_id"], "", set(NOT_FACTS)
    for name in names:
        view = _need(survey, name, "scores")
        names_there = survey.query(f"SELECT * FROM {view} LIMIT 0").column_names
        fresh = [column for column in names_there if column not in taken]
        taken.update(fresh)
        columns += [f'"t_{name}"."{column}"' for column in fresh]
        joins += f' LEFT JOIN {view} "t_{name}" ON "t_{name}".clip_id = c.clip_id'
    return survey.query(f"SELECT {', '.join(columns)} FROM {clips_view} c{joins} ORDER BY c.source_id, c.start_pts")


def verdicts(survey: Survey) -> pa.Table:
    """One row per clip: kept, or rejected with every reason; the last word after dedup."""
    name = "dedup" if _has(survey, "dedup") else "select"
    rows = _need(survey, name, "verdicts")
    more = ", r.duplicate_group, r.duplicate_of" if name == "dedup" else ""
    return survey.query(f"SELECT r.id AS clip_id, r.status, r.reasons{more} FROM {rows} r ORDER BY r.id")


def captions(survey: Survey) -> pa.Table:
    """Every caption of every kept clip."""
    rows = _need(survey, "caption", "captions")
    columns = 'clip_id, kind, text, model, status, note, "window", start_s, end_s'
    return survey.query(f'SELECT {columns} FROM {rows} ORDER BY clip_id, "window", kind')


curation_tables: dict[str, View] = {
    "sources": sources,
    "signals": signals,
    "cuts": cuts,
    "clips": clips,
    "scores": scores,
    "verdicts": verdicts,
    "captions": captions,
}
