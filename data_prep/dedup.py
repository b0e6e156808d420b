"""Which clips are copies of one another, and which copy stays.

Exact copies of whole files are gone before (see `data_prep.sources`). Here, among the clips that passed:
  perceptual  the hashes of eight frames agree, and so does how the picture changes between them. A still camera that
              films the same place twice gives like hashes but other changes, and is no copy.
  semantic    where a step gives an embedding: cosine at or above a limit (off by default: alike is not the same).
The best copy of a group is the one with the most pixels, then the most bits a second, then the longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.neighbours import components, embedding_pairs, hash_pairs
from data_prep.prints import FRAMES
from stages.core.identity import digest
from stages.core.step import REASON, Job

Pairs = npt.NDArray[np.int64]


class Dedup(Job):
    """The last word on every clip: what select said, then `rejected` with metric `duplicate` for all but the best copy."""

    version = 1
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("clip_id", pa.string()),
            ("source_id", pa.string()),
            ("status", pa.string()),
            ("reasons", pa.list_(REASON)),
            ("duplicate_group", pa.string()),
            ("duplicate_of", pa.string()),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Limits of being the same.

        hash_bits    the most bits of 63 that two frames' hashes may differ by, on average over a clip; below 0: off
        agreement    the least correlation of the changes within two clips, where there are changes
        still        mean change within a clip, in grey levels, below which it counts as still and hashes decide
        length_ratio the least ratio of the shorter clip's length to the longer one's
        cosine       the least cosine of two embeddings that makes them the same; 0: off
        """

        hash_bits: float = 10.0
        agreement: float = 0.7
        still: float = 0.7
        length_ratio: float = 0.8
        cosine: float = 0.0

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`select`, `clips`, `sources`, a table with hashes and tiny frames, perhaps one with `embedding`."""
        wide = joined(tables)
        passed = np.flatnonzero(np.asarray(wide.column("status").to_pylist(), dtype=object) == "kept")
        pairs = [self._perceptual(wide, passed)]
        if self.config.cosine and "embedding" in wide.column_names:
            pairs.append(passed[embedding_pairs(wide.column("embedding").take(pa.array(passed)), self.config.cosine)])
        return self._verdicts(wide, np.concatenate(pairs))

    def _perceptual(self, wide: pa.Table, passed: npt.NDArray[np.int64]) -> Pairs:
        if "hashes" not in wide.column_names or self.config.hash_bits < 0 or not len(passed):
            return np.zeros((0, 2), np.int64)
        chosen = wide.take(pa.array(passed))
        prints = np.asarray(chosen.column("hashes").combine_chunks().flatten()).astype(np.uint64).reshape(-1, FRAMES)
        seconds = np.asarray(chosen.column("duration_s"))
        pairs = hash_pairs(prints, self.config.hash_bits)
        length = np.minimum(*seconds[pairs].T) / np.maximum(np.maximum(*seconds[pairs].T), 1e-9)
        pairs = pairs[length >= self.config.length_ratio]
        cells = np.frombuffer(b"".join(chosen.column("tiny").to_pylist()), np.uint8).reshape(len(passed), FRAMES, -1)
        return passed[pairs[same_course(cells, pairs, self.config.agreement, self.config.still)]]

    def _verdicts(self, wide: pa.Table, pairs: Pairs) -> pa.Table:
        """Mark all but the best of every group."""
        rows = wide.select(["clip_id", "source_id", "status", "reasons"])
        ids = rows.column("clip_id").to_pylist()
        rank = best_first(wide)
        group, first = [""] * len(ids), [""] * len(ids)
        status, reasons = rows.column("status").to_pylist(), rows.column("reasons").to_pylist()
        for members in components(pairs):
            ranked = sorted(members, key=lambda i: rank[i])
            name = digest("duplicates", sorted(ids[i] for i in members))
            for i in members:
                group[i] = name
            for i in ranked[1:]:
                first[i], status[i] = ids[ranked[0]], "rejected"
                reasons[i] = [*reasons[i], _reason(ids[ranked[0]])]
        table = rows.select(["clip_id", "source_id"]).to_pydict()
        made = {"id": ids, **table, "status": status, "reasons": reasons, "duplicate_group": group, "duplicate_of": first}
        return pa.table(made, schema=self.writes)


def _reason(best: str) -> dict[str, str]:
    return {"step": "dedup", "metric": "duplicate", "value": best, "op": "is", "threshold": "the best copy"}


def joined(tables: Mapping[str, pa.Table]) -> pa.Table:
    """One row per clip in the order of ids, with all that is needed to compare and to rank."""
    from stages.core.catalog import connect

    sql = connect()
    for name, table in tables.items():
        sql.register(name, table)
    holders = {c: n for n, t in tables.items() for c in ("hashes", "tiny", "embedding") if c in t.column_names}
    extra = "".join(f", {n}.{c}" for c, n in holders.items())
    joins = " ".join(f"JOIN {n} ON {n}.clip_id = c.clip_id" for n in dict.fromkeys(holders.values()))
    return sql.sql(
        f"""SELECT c.clip_id, c.source_id, v.status, v.reasons, c.end_s - c.start_s AS duration_s,
        s.width * s.height AS pixels, s.bitrate{extra}
        FROM clips c JOIN "select" v ON v.id = c.clip_id JOIN sources s ON s.id = c.source_id {joins}
        ORDER BY c.clip_id"""
    ).to_arrow_table()


def best_first(wide: pa.Table) -> npt.NDArray[np.int64]:
    """The rank of every clip, 0 the best: pixels, bitrate, length, then the id so that no tie is left."""
    keys = [np.asarray(wide.column(n)) for n in ("duration_s", "bitrate", "pixels")]
    order = np.lexsort((np.arange(wide.num_rows), -keys[0], -keys[1], -keys[2]))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def same_course(cells: npt.NDArray[np.uint8], pairs: Pairs, agreement: float, still: float) -> npt.NDArray[np.bool_]:
    """Whether the pictures of each pair of clips change alike: bool [n], from tiny frames [clips, FRAMES, cells]."""
    found = np.zeros(len(pairs), bool)
    for at in range(0, len(pairs), 4096):
        a, b = (cells[pairs[at : at + 4096, i]].astype(np.float32) for i in (0, 1))
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        power = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
        course = (a * b).sum((1, 2)) / np.maximum(power, 1e-6)
        moves = np.maximum(np.abs(a).mean((1, 2)), np.abs(b).mean((1, 2)))
        found[at : at + 4096] = (course >= agreement) | (moves < still)
    return found
