"""Keep the best of several copies that passed every threshold.

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
from stages.core.step import REASON, Inputs, Job, Port

MARKS = pa.schema([("clip_id", pa.string()), ("duplicate_group", pa.string()), ("duplicate_of", pa.string())])


class Dedup(Job):
    """A row per clip that passed: `rejected` by `duplicate` for all but the best of a group of copies."""

    kind = "duplicates"
    version = 1
    passes = True
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

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The pairs of copies, and what says which of them is the best."""
        units = ("clip_id", "start_s", "end_s", "width", "height", "bitrate")
        return Inputs(ports={"copies": Port(kind="copies")}, units=units)

    def columns(self, table: str) -> tuple[str, ...]:
        """Of the pairs, which clips they are."""
        return ("clip_a", "clip_b")

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`copies` of all clips, and the clips that passed as `units`."""
        from stages.core.ledger.catalog import connect

        sql = connect()
        for name, table in tables.items():
            sql.register(name, table)
        sql.register("step", pa.table({"step": [self.name]}))
        sql.register("marks", groups_of(*_copies_that_passed(sql)))
        reason = (
            "{'step': step, 'metric': 'duplicate', 'value': m.duplicate_of, 'op': 'is', 'threshold': 'the best copy'}"
        )
        worse = "coalesce(m.duplicate_of, '') <> ''"
        return sql.sql(
            f"""SELECT u.id, CASE WHEN {worse} THEN 'rejected' ELSE 'ok' END AS status,
            CASE WHEN {worse} THEN [{reason}] ELSE [] END AS reasons,
            coalesce(m.duplicate_group, '') AS duplicate_group, coalesce(m.duplicate_of, '') AS duplicate_of
            FROM step, units u LEFT JOIN marks m ON m.clip_id = u.clip_id"""
        ).to_arrow_table()


def _copies_that_passed(sql: Any) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Clips that have a copy, the best first, and the pairs among them by their place in that list."""
    sql.execute(
        """CREATE TEMP TABLE pairs AS SELECT clip_a, clip_b FROM copies
        JOIN units a ON a.clip_id = clip_a JOIN units b ON b.clip_id = clip_b;
        CREATE TEMP TABLE ranked AS SELECT clip_id, row_number() OVER (
            ORDER BY width * height DESC, bitrate DESC, end_s - start_s DESC, clip_id) - 1 AS place
        FROM units WHERE clip_id IN (SELECT clip_a FROM pairs UNION SELECT clip_b FROM pairs)"""
    )
    ids = [i for (i,) in sql.execute("SELECT clip_id FROM ranked ORDER BY place").fetchall()]
    found = sql.execute(
        "SELECT a.place, b.place FROM pairs JOIN ranked a ON a.clip_id = clip_a JOIN ranked b ON b.clip_id = clip_b"
    ).fetchall()
    return ids, np.array(found, np.int64).reshape(-1, 2)


def groups_of(ids: list[str], pairs: npt.NDArray[np.int64]) -> pa.Table:
    """A row per clip with copies: its group, and the best copy where that is another one. ids: the best first."""
    rows = []
    for members in components(pairs):
        names = [ids[i] for i in members]
        best, group = names[0], digest("duplicates", sorted(names))
        rows += [{"clip_id": n, "duplicate_group": group, "duplicate_of": best if n != best else ""} for n in names]
    return pa.Table.from_pylist(rows, MARKS)
