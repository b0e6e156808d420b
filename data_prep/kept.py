"""The clips that stay, with all that captions and publishing need to know of them in one row each."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from stages.core.step import Job

NOT_FACTS = frozenset(
    {
        "unit_id", "parent_id", "id", "clip_id", "hashes", "tiny", "embedding", "clip_vector", "uri", "sha256", "size",
    }
)  # fmt: skip


class Kept(Job):
    """One row per kept clip. `facts` is a JSON object of every score; `caption_key` changes when any of them does."""

    version = 2
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("clip_id", pa.string()),
            ("source_id", pa.string()),
            ("uri", pa.string()),
            ("bytes", pa.int64()),
            ("sha256", pa.string()),
            ("version", pa.string()),
            ("label", pa.string()),
            ("source_caption", pa.string()),
            ("licence", pa.string()),
            ("start_pts", pa.int64()),
            ("end_pts", pa.int64()),
            ("time_base_num", pa.int64()),
            ("time_base_den", pa.int64()),
            ("start_frame", pa.int64()),
            ("end_frame", pa.int64()),
            ("n_frames", pa.int64()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("addressable", pa.bool_()),
            ("stream_index", pa.int64()),
            ("rotation", pa.int64()),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("fps", pa.float64()),
            ("facts", pa.string()),
            ("caption_key", pa.string()),
        ]
    )

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`dedup` (or `select`), `clips`, `sources`, and the tables of scores."""
        from stages.core.ledger.catalog import connect

        sql = connect()
        for name, table in tables.items():
            sql.register(f"t_{name}", table)
        judge = "dedup" if "dedup" in tables else "select"
        scores = [n for n in tables if n not in ("dedup", "select", "clips", "sources")]
        facts = {c: n for n in reversed(scores) for c in tables[n].column_names if c not in NOT_FACTS}
        pairs = ", ".join(f"'{c}', t_{n}.\"{c}\"" for c, n in sorted(facts.items()))
        marks = " || '/' || ".join(["c.clip_id", "s.label", "s.caption", *(f"coalesce(t_{n}.id, '')" for n in scores)])
        joins = " ".join(f"LEFT JOIN t_{n} ON t_{n}.clip_id = c.clip_id" for n in scores)
        return sql.sql(
            f"""SELECT c.clip_id AS id, c.clip_id, c.source_id, s.uri, s.bytes, s.sha256, s.version, s.label,
            s.caption AS source_caption, s.licence,
            c.start_pts, c.end_pts, s.time_base_num, s.time_base_den, c.start_frame, c.end_frame, c.n_frames,
            c.start_s, c.end_s, c.addressable, s.stream_index, s.rotation, s.display_width AS width, s.display_height
            AS height, s.fps, json_object({pairs})::VARCHAR AS facts, left(sha256({marks}), 32) AS caption_key
            FROM t_clips c JOIN t_{judge} v ON v.id = c.clip_id AND v.status = 'kept'
            JOIN t_sources s ON s.id = c.source_id {joins} ORDER BY s.position, c.start_pts"""
        ).to_arrow_table()
