"""The tables of a curation as people see them. Each is a view over the plan of one run.

Steps are found by what they make, so that a curation may call them as it likes, and have more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa

from flows.curate.frame_signals import frames_of_sources
from stages.core.errors import BadInput
from stages.core.ledger.catalog import LEDGER
from stages.core.planning.plan import ROOT_UNITS, Node, Plan
from stages.core.planning.survey import Survey
from stages.core.step import ARTIFACT, Row

View = Callable[[Survey], pa.Table]
SCORED = ("scores", "thumbs")
"""Kinds of steps that say something of a clip that people read."""
KEYS = frozenset({"unit_id", "parent_id", "id", "clip_id"})
PROBED = {
    "width": "display_width",
    "height": "display_height",
    "duration_s": "duration_s",
    "is_vfr": "is_vfr",
    "fps": "fps",
    "n_frames": "n_frames",
    "sha256": "sha256",
    "container": "container",
    "codec": "codec",
    "pix_fmt": "pix_fmt",
    "coded_width": "width",
    "coded_height": "height",
    "rotation": "rotation",
    "sar_num": "sar_num",
    "sar_den": "sar_den",
    "interlaced": "interlaced",
    "field_order": "field_order",
    "time_base_num": "time_base_num",
    "time_base_den": "time_base_den",
    "start_pts": "start_pts",
    "duration_pts": "duration_pts",
    "bitrate": "bitrate",
    "keyframes": "keyframes",
    "n_keyframes": "n_keyframes",
    "has_audio": "has_audio",
    "audio_codec": "audio_codec",
    "n_video_streams": "n_video_streams",
    "mirrored": "mirrored",
}
"""Columns of the table `sources` that the probe of a file finds out -> what the probe calls them."""
NOT_SCORES = KEYS | {name for name, _ in ARTIFACT}


def nodes_of(survey: Survey, kind: str, table: str) -> list[Node]:
    """The nodes that make a kind, whose rows can be read. Raises BadInput where there is none, or one did not run."""
    nodes = survey.plan.of_kind(kind)
    if not nodes:
        raise BadInput(f"this run has no {table}: none of its steps makes {kind}")
    for node in nodes:
        try:
            survey.view(node.name)
        except KeyError:
            raise BadInput(
                f"this run has no {table} yet: its step {node.name!r} did not run; run curate again"
            ) from None
    return nodes


def one_of(survey: Survey, kind: str, table: str) -> Node:
    """The last of them."""
    return nodes_of(survey, kind, table)[-1]


def units_of(survey: Survey, node: Node) -> str:
    """The SQL name of the units that a node works on."""
    return f'"u_{survey.plan.phase_of(node.name).name}"'


def is_known(survey: Survey, node: Node) -> bool:
    """Whether the rows of a node can be read."""
    try:
        survey.view(node.name)
    except KeyError:
        return False
    return True


def sources(survey: Survey) -> pa.Table:
    """One row per uri: what it is, or why it is no source. A source that could not be decoded says so too; `note` says
    what is odd about a readable one: that the file is not whole, or packets of it do not decode. What a probe finds out
    is null where there was nothing to find: `bytes` is then the length that was listed."""
    given = ", ".join(f"CASE WHEN probed THEN {column} END AS {name}" for name, column in PROBED.items())
    return survey.query(
        f"""SELECT source_id, uri, status, error, reasons, {given},
        CASE WHEN probed THEN bytes WHEN problem = '' THEN size END AS bytes, label, caption, licence, note
        FROM {sources_sql(survey)} ORDER BY position"""
    )


def sources_sql(survey: Survey) -> str:
    """SQL for a row per uri: the listing, the probe, `source_id` (of what is no source the id of its listing), and the
    last word on it: `status`, `reasons`, `error`; `note` is what the probe and the pass over it found odd."""
    plan = survey.plan
    probe = one_of(survey, "probe", "sources")
    job = next((n for n in plan.of_kind("sources") if is_known(survey, n)), None)
    judged = f'"v_{job.name}"' if job else "(SELECT NULL AS id, NULL AS status, NULL AS reasons WHERE false)"
    source_id = "CASE WHEN s.status = 'ok' THEN s.source_id ELSE r.id END" if job else "r.id"
    later = [n for kind in ("signals", "cuts", "clips") for n in plan.of_kind(kind) if is_known(survey, n)]
    each = [f"SELECT unit_id, '{n.name}: ' || error AS error FROM \"v_{n.name}\" WHERE status = 'error'" for n in later]
    failed = " UNION ALL ".join(each) or "SELECT NULL AS unit_id, NULL AS error WHERE false"
    passes = [n for n in later if n.kind == "signals"]
    each = [
        f"SELECT unit_id, decode_note FROM \"v_{n.name}\" WHERE status = 'ok' AND decode_note <> ''" for n in passes
    ]
    decoded = " UNION ALL ".join(each) or "SELECT NULL AS unit_id, NULL AS decode_note WHERE false"
    return f"""(SELECT r.*, {source_id} AS source_id,
        CASE WHEN f.error IS NULL THEN coalesce(s.status, p.status, 'pending') ELSE 'error' END AS status,
        coalesce(s.reasons, p.reasons, []) AS reasons, coalesce(f.error, p.error, '') AS error,
        concat_ws('; ', nullif(p.note, ''), d.decode_note) AS note,
        coalesce(p.status = 'ok', false) AS probed, p.* EXCLUDE (retry, note, {", ".join(LEDGER.names)})
        FROM {ROOT_UNITS} r JOIN "s_{ROOT_UNITS}" t ON t.unit_id = r.id
        LEFT JOIN "l_{probe.name}" p ON p.id = t."id_{probe.name}" LEFT JOIN {judged} s ON s.id = r.id
        LEFT JOIN (SELECT unit_id, first(error) AS error FROM ({failed}) GROUP BY unit_id) f ON f.unit_id = r.id
        LEFT JOIN (SELECT unit_id, first(decode_note) AS decode_note FROM ({decoded}) GROUP BY unit_id) d
        ON d.unit_id = r.id)"""


def _with_source(survey: Survey, kind: str, columns: str, order: str, where: str = "true") -> pa.Table:
    """Rows of a fan-out step with the uri that their source has in this run."""
    node = one_of(survey, kind, kind)
    return survey.query(
        f"SELECT {columns} FROM {survey.view(node.name)} r JOIN {units_of(survey, node)} s ON s.id = r.unit_id "
        f"WHERE {where} ORDER BY s.position, {order}"
    )


def signals(survey: Survey) -> pa.Table:
    """One row per decoded source: where its frame-level signals lie in the store, as Parquet (a row a frame)."""
    node = one_of(survey, "signals", "signals")
    return survey.query(
        f"""SELECT s.source_id, s.uri, r.uri AS signals_uri, r.sha256 AS signals_sha256, r.n_frames,
        r.duration_s, r.truncated, r.broken_packets, r.decode_note, r.pictures_uri
        FROM {survey.view(node.name)} r JOIN {units_of(survey, node)} s ON s.id = r.unit_id ORDER BY s.position"""
    )


def analysed(survey: Survey) -> list[Row]:
    """The sources that were decoded, in order: source_id, uri, fps, is_vfr, n_frames, signals_uri."""
    node = one_of(survey, "signals", "signals")
    rows: list[Row] = survey.query(
        f"""SELECT s.id AS unit_id, s.source_id, s.uri, s.fps, s.is_vfr, r.n_frames, r.uri AS signals_uri
        FROM {survey.view(node.name)} r JOIN {units_of(survey, node)} s ON s.id = r.unit_id
        WHERE r.status = 'ok' ORDER BY s.position"""
    ).to_pylist()
    return rows


def frames(survey: Survey) -> pa.Table:
    """One row per frame of every source: brightness, change, motion, details, and the signal that cuts are found by."""
    tables = [table for _, _, table in frames_of_sources(survey, analysed(survey))]
    if not tables:
        raise BadInput("this run has no frames: no source could be decoded")
    return pa.concat_tables(tables)


def cuts(survey: Survey) -> pa.Table:
    """One row per transition; frames count from 0 in presentation order."""
    nodes = nodes_of(survey, "cuts", "cuts")
    return survey.query(
        f"""SELECT r.source_id, s.uri, r.kind, r.first_frame, r.last_frame, r.start_s, r.end_s, r.score, r.start_pts,
        r.end_pts FROM {cuts_sql(survey)} r JOIN {units_of(survey, nodes[-1])} s ON s.id = r.unit_id
        WHERE r.kind <> 'trim' ORDER BY s.position, r.first_frame"""
    )


def cuts_sql(survey: Survey) -> str:
    """SQL for the transitions of all sources, each as the last step has them that applies to it."""
    parts = []
    nodes = nodes_of(survey, "cuts", "cuts")
    if all(n.when and not len(survey.query(f'SELECT unit_id FROM "v_{n.name}" LIMIT 1')) for n in nodes):
        raise BadInput("this run has no cuts: no step looked for them, and no source came with a shot list")
    for i, node in enumerate(nodes):
        later = " ".join(f'AND unit_id NOT IN (SELECT unit_id FROM "v_{n.name}")' for n in nodes[i + 1 :])
        parts.append(f"SELECT * FROM {survey.view(node.name)} WHERE true {later}")
    return f"({' UNION ALL BY NAME '.join(parts)})"


def clips(survey: Survey) -> pa.Table:
    """One row per clip, the half-open span [start, end) of its source."""
    columns = """r.clip_id, r.source_id, s.uri, r.start_frame, r.end_frame, r.start_s, r.end_s, r.n_frames,
        r.start_pts, r.end_pts, s.time_base_num, s.time_base_den, r.boundary_in, r.boundary_out"""
    return _with_source(survey, "clips", columns, "r.start_frame")


def scores(survey: Survey) -> pa.Table:
    """One row per clip and a column per metric, null where it was not measured. Bulky vectors are left out."""
    clip = survey.view(one_of(survey, "clips", "scores").name)
    columns, joins = {"clip_id": "c.clip_id"}, ""
    for node in scorers(survey.plan):
        for column, _ in score_columns(survey, node):
            columns.setdefault(column, f'"t_{node.name}"."{column}"')
        joins += join_scores(survey, node)
    return survey.query(f"SELECT {', '.join(columns.values())} FROM {clip} c{joins} ORDER BY c.source_id, c.start_pts")


def scorers(plan: Plan, kinds: Iterable[str] = SCORED) -> list[Node]:
    """The nodes that have rows per clip for all sources, in the order of the plan."""
    return [n for n in plan.nodes if n.kind in tuple(kinds) and (n.fan_out or n.job)]


def score_columns(survey: Survey, node: Node) -> list[tuple[str, str]]:
    """(name, SQL type) of what a node says of a clip; files and vectors are left out. Raises BadInput where it has not
    run."""
    if not is_known(survey, node):
        raise BadInput(f"this run has no scores yet: its step {node.name!r} did not run; run curate again")
    described = survey.sql.execute(f"DESCRIBE {survey.view(node.name)}").fetchall()
    plain = [(n, k) for n, k, *_ in described if k != "BLOB" and (not k.endswith("[]") or k == "VARCHAR[]")]
    return [(n, k) for n, k in plain if n not in NOT_SCORES]


def join_scores(survey: Survey, node: Node) -> str:
    """SQL that joins a node's rows, as `t_<node>`, to clips `c`."""
    return f' LEFT JOIN {survey.view(node.name)} "t_{node.name}" ON "t_{node.name}".clip_id = c.clip_id'


def verdicts(survey: Survey) -> pa.Table:
    """One row per clip: kept, or rejected with every reason; the last word after dedup."""
    clips = one_of(survey, "clips", "verdicts")
    more = ", v.duplicate_group, v.duplicate_of" if survey.plan.of_kind("duplicates") else ""
    return survey.query(
        f"""SELECT v.id AS clip_id, s.uri, c.start_s, c.end_s, v.status, v.reasons{more}
        FROM {verdicts_sql(survey)} v JOIN {survey.view(clips.name)} c ON c.clip_id = v.id
        JOIN {units_of(survey, clips)} s ON s.id = c.unit_id ORDER BY s.position, c.start_frame"""
    )


def verdicts_sql(survey: Survey) -> str:
    """SQL for a row per clip: `id`, `status` (kept or rejected), and the reasons of all who judged it; with
    `duplicate_group` and `duplicate_of` where copies were looked for. Raises BadInput where this is not known yet."""
    judge = one_of(survey, "verdicts", "verdicts")
    rows = f"""(SELECT id, CASE status WHEN 'ok' THEN 'kept' ELSE 'rejected' END AS status, reasons
        FROM {survey.view(judge.name)})"""
    if not survey.plan.of_kind("duplicates"):
        return rows
    copies = survey.view(one_of(survey, "duplicates", "verdicts").name)
    return f"""(SELECT v.id, CASE WHEN coalesce(d.status, 'ok') <> 'ok' THEN 'rejected' ELSE v.status END AS status,
        list_concat(v.reasons, coalesce(d.reasons, [])) AS reasons, coalesce(d.duplicate_group, '') AS duplicate_group,
        coalesce(d.duplicate_of, '') AS duplicate_of FROM {rows} v LEFT JOIN {copies} d ON d.id = v.id)"""


def captions(survey: Survey) -> pa.Table:
    """Every caption of every kept clip."""
    columns = 'clip_id, kind, text, model, status, note, "window", start_s, end_s'
    return survey.query(f'SELECT {columns} FROM {captions_sql(survey)} ORDER BY clip_id, "window", kind')


def captions_sql(survey: Survey) -> str:
    """SQL for the captions of all captioners."""
    views = [survey.view(n.name) for n in nodes_of(survey, "captions", "captions")]
    return f"({' UNION ALL BY NAME '.join(f'SELECT * FROM {v}' for v in views)})"


curation_tables: dict[str, View] = {
    "sources": sources,
    "signals": signals,
    "frames": frames,
    "cuts": cuts,
    "clips": clips,
    "scores": scores,
    "verdicts": verdicts,
    "captions": captions,
}
