"""Decide which files are sources: of files with the same bytes only the first is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from data_prep.sources.ingest import Ingest
from stages.core.step import REASON, Inputs, Job, Port


class Sources(Job):
    """A row per listed file with what its probe found; the ok ones are the sources.

    `source_id` is made of a file's bytes and stream, so that a file that was moved or touched is the same source and
    nothing behind it is done again.
    """

    kind = "sources"
    version = 2
    passes = True
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("status", pa.string()),
            ("reasons", pa.list_(REASON)),
            ("source_id", pa.string()),
            *list(Ingest.writes),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """There is nothing to set."""

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What the probe of each file found, and the order in which they were listed."""
        return Inputs(ports={"probe": Port(kind="probe")}, units=("position", "uri"))

    def columns(self, table: str) -> tuple[str, ...]:
        """Of the probe, what is passed on."""
        return ("status", "reasons", *Ingest.writes.names) if table == "probe" else ()

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`probe` holds a row per file, with its `unit_id`. A file that was not probed is left out."""
        from stages.core.ledger.catalog import connect

        sql = connect()
        for name, table in tables.items():
            sql.register(name, table)
        columns = ", ".join(f"p.{f.name}" for f in Ingest.writes)
        own = ", ".join(f.name for f in Ingest.writes)
        sql.register("step", pa.table({"step": [self.name]}))
        reason = "[{'step': step, 'metric': 'duplicate_of', 'value': first_uri, 'op': '==', 'threshold': sha256}]"
        return sql.sql(
            f"""WITH joined AS (SELECT u.id, u.position, p.status, p.reasons, {columns},
                row_number() OVER (same ORDER BY u.position) AS nth, first(u.uri) OVER (same ORDER BY u.position)
                    AS first_uri
                FROM units u JOIN probe p ON p.unit_id = u.id
                WINDOW same AS (PARTITION BY p.status, p.sha256, p.stream_index)),
            judged AS (SELECT *, status = 'ok' AND nth > 1 AS again FROM joined)
            SELECT id, CASE WHEN again THEN 'skipped' ELSE status END AS status,
            CASE WHEN again THEN {reason} ELSE reasons END AS reasons,
            CASE WHEN status = 'ok' THEN left(sha256(sha256 || '/' || stream_index), 32) ELSE '' END AS source_id, {own}
            FROM judged, step ORDER BY position"""
        ).to_arrow_table()
