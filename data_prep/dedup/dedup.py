"""The last word on every clip: of copies that passed, the best stays.

The best copy is the one with the most pixels, then the most bits a second, then the longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.dedup.neighbours import components
from stages.core.identity import digest
from stages.core.step import REASON, Job

MARKS = pa.schema([("clip_id", pa.string()), ("duplicate_group", pa.string()), ("duplicate_of", pa.string())])


class Dedup(Job):
    """What select said of each clip, then `rejected` by `duplicate` for all but the best of a group of copies."""

    version = 1
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("status", pa.string()),
            ("reasons", pa.list_(REASON)),
            ("duplicate_group", pa.string()),
            ("duplicate_of", pa.string()),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """There is nothing to set: what counts as a copy is set under `copies`."""

    def columns(self, table: str) -> tuple[str, ...]:
        """Of clips and sources, what says which of them is the best."""
        columns = {
            "clips": ("clip_id", "source_id", "start_s", "end_s"),
            "sources": ("id", "status", "width", "height", "bitrate"),
            "copies": ("clip_a", "clip_b"),
        }
        return columns.get(table, ())

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`select`, `copies`, `clips` and `sources`."""
        from stages.core.ledger.catalog import connect

        sql = connect()
        for name, table in tables.items():
            sql.register(f"t_{name}", table)
        sql.register("marks", groups_of(*_copies_that_passed(sql)))
        reason = """{'step': 'dedup', 'metric': 'duplicate', 'value': m.duplicate_of, 'op': 'is',
            'threshold': 'the best copy'}"""
        worse = "coalesce(m.duplicate_of, '') <> ''"
        return sql.sql(
            f"""SELECT v.id, CASE WHEN {worse} THEN 'rejected' ELSE v.status END AS status,
            CASE WHEN {worse} THEN list_append(v.reasons, {reason}) ELSE v.reasons END AS reasons,
            coalesce(m.duplicate_group, '') AS duplicate_group, coalesce(m.duplicate_of, '') AS duplicate_of
            FROM t_select v LEFT JOIN marks m ON m.clip_id = v.id"""
        ).to_arrow_table()


def _copies_that_passed(sql: Any) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Clips that have a copy, the best first, and the pairs among them by their place in that list."""
    sql.execute(
        """CREATE TEMP TABLE pairs AS SELECT clip_a, clip_b FROM t_copies
        JOIN t_select a ON a.id = clip_a AND a.status = 'kept' JOIN t_select b ON b.id = clip_b AND b.status = 'kept';
        CREATE TEMP TABLE ranked AS SELECT clip_id, row_number() OVER (
            ORDER BY s.width * s.height DESC, s.bitrate DESC, c.end_s - c.start_s DESC, clip_id) - 1 AS place
        FROM t_clips c JOIN t_sources s ON s.id = c.source_id AND s.status = 'ok'
        WHERE clip_id IN (SELECT clip_a FROM pairs UNION SELECT clip_b FROM pairs)"""
    )
    ids = [i for (i,) in sql.execute("SELECT clip_id FROM ranked ORDER BY place").fetchall()]
    pairs = sql.execute(
        "SELECT a.place, b.place FROM pairs JOIN ranked a ON a.clip_id = clip_a JOIN ranked b ON b.clip_id = clip_b"
    ).fetchall()
    return ids, np.array(pairs, np.int64).reshape(-1, 2)


def groups_of(ids: list[str], pairs: npt.NDArray[np.int64]) -> pa.Table:
    """A row per clip with copies: its group, and the best copy where that is another one. ids: the best first."""
    rows = []
    for members in components(pairs):
        names = [ids[i] for i in members]
        best, group = names[0], digest("duplicates", sorted(names))
        rows += [{"clip_id": n, "duplicate_group": group, "duplicate_of": best if n != best else ""} for n in names]
    return pa.Table.from_pylist(rows, MARKS)
