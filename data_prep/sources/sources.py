"""Which of the listed files are sources: one row per uri; of uris with the same bytes only the first counts."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from data_prep.sources.ingest import Ingest
from stages.core.step import REASON, Job

NAMED = [(n, pa.string()) for n in ("uri", "version", "label", "caption", "licence")]


class Sources(Job):
    """Joins the listing with what ingest found.

    The id of a sound source is made of its bytes and stream, so that a file that was moved or touched is the same
    source and nothing behind it is done again. The other rows keep the id of the listing.
    """

    version = 2
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("position", pa.int64()),
            ("status", pa.string()),
            ("reasons", pa.list_(REASON)),
            ("error", pa.string()),
            *NAMED,
            *list(Ingest.writes),
        ]
    )

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`ingest` holds a row per file, `roots` a row per uri. A uri whose ingest found no row is left out."""
        from stages.core.ledger.catalog import connect

        sql = connect()
        for name, table in tables.items():
            sql.register(name, table)
        columns = ", ".join(f"i.{f.name}" for f in Ingest.writes)
        sql.execute(
            f"""CREATE TEMP VIEW joined AS SELECT r.id AS root_id, r.position, r.uri, r.version, r.label, r.caption,
            r.licence,
            i.status, i.reasons, i.error, {columns},
            left(sha256(i.sha256 || '/' || i.stream_index), 32) AS content_id,
            row_number() OVER (PARTITION BY i.status, i.sha256, i.stream_index ORDER BY r.position) AS nth,
            first(r.uri) OVER (PARTITION BY i.status, i.sha256, i.stream_index ORDER BY r.position) AS first_uri
            FROM roots r JOIN ingest i ON i.input_id = r.file_id"""
        )
        again = "(status = 'ok' AND nth > 1)"
        duplicate = (
            "[{'step': 'sources', 'metric': 'duplicate_of', 'value': first_uri, 'op': '==', 'threshold': sha256}]"
        )
        own = ", ".join(f.name for f in Ingest.writes)
        return sql.sql(
            f"""SELECT CASE WHEN status = 'ok' AND nth = 1 THEN content_id ELSE root_id END AS id, position,
            CASE WHEN {again} THEN 'skipped' ELSE status END AS status,
            CASE WHEN {again} THEN {duplicate} ELSE reasons END AS reasons,
            error, uri, version, label, caption, licence, {own} FROM joined ORDER BY position"""
        ).to_arrow_table()
