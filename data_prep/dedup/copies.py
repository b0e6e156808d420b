"""Find clips that are copies of one another, among all clips, kept or not.

Exact copies of whole files are gone before (see `data_prep.sources.sources`). Here:
  perceptual  the hashes of eight frames agree, and so does how the picture changes between them. A still camera that
              films the same place twice gives like hashes but other changes, and is no copy.
  semantic    where a step gives an `embedding`: cosine at or above a limit (off by default: alike is not the same)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.dedup.neighbours import Pairs, embedding_pairs, hash_distance, hash_pairs
from data_prep.dedup.prints import FRAMES, TINTS
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.step import Inputs, Job, Port


class Copies(Job):
    """One row per pair of clips that are the same."""

    kind = "copies"
    version = 3
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("clip_a", pa.string()),
            ("clip_b", pa.string()),
            ("kind", pa.string()),
            ("distance", pa.float64()),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Limits of being the same.

        hash_bits     bits of 63 that the hashes of two frames may differ by, on average over a clip; below 0 turns this
                      off
        agreement     minimum correlation between how the pictures of two clips change over time, cell by cell of a
                      small grid of each picture; not compared where both clips are still (see `still`)
        still         each picture is reduced to a small grid of cells; this is the largest change of a cell within a
                      clip, in grey levels. Two clips below it count as still, and their changes are not compared. A
                      small thing that moves changes few cells, but strongly
        tint          largest difference of the mean chroma of two clips, 0 to 255; title cards differ by colour alone
        length_ratio  minimum ratio of the shorter clip's length to the longer one's
        cosine        minimum cosine of two embeddings that makes two clips copies; 0 turns this off
        index         [exact, faiss] how the nearest embeddings are found; faiss (package faiss-cpu) for over 100,000
                      clips
        """

        hash_bits: float = 10.0
        agreement: float = 0.7
        still: float = 2.5
        tint: float = 12.0
        length_ratio: float = 0.8
        cosine: float = 0.0
        index: str = "exact"

        def __post_init__(self) -> None:
            if self.index not in INDEXES:
                raise BadInput(f"index: there is no index {self.index!r}; {nearest(self.index, INDEXES)}")
            if self.index == "faiss" and find_spec("faiss") is None:
                raise BadInput("index needs the package faiss-cpu: pip install faiss-cpu")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips, their prints, and their embeddings where these are compared."""
        ports = {"clips": Port(kind="clips")}
        if config.hash_bits >= 0:
            ports["prints"] = Port(kind="prints", required=False)
        if config.cosine:
            ports["embeddings"] = Port(kind="scores", columns=("embedding",), many=True, required=False)
        return Inputs(ports=ports)

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`clips`, a table with `hashes` and `tiny`, perhaps one with `embedding`."""
        seconds = {r: e - s for r, s, e in zip(*(tables["clips"].column(n).to_pylist() for n in SPAN), strict=True)}
        parts = [_nothing()]
        for table in tables.values():
            if not table.num_rows:
                continue
            if "hashes" in table.column_names and self.config.hash_bits >= 0:
                parts.append(self._perceptual(table.sort_by("clip_id"), seconds))
            if "embedding" in table.column_names and self.config.cosine:
                parts.append(self._semantic(table.sort_by("clip_id")))
        return pa.concat_tables(parts).cast(self.writes)

    def _perceptual(self, table: pa.Table, seconds: Mapping[str, float]) -> pa.Table:
        hashes = np.asarray(table.column("hashes").combine_chunks().flatten()).astype(np.uint64).reshape(-1, FRAMES)
        cells = np.frombuffer(b"".join(table.column("tiny").to_pylist()), np.uint8).reshape(len(hashes), FRAMES, -1)
        length = np.array([seconds[i] for i in table.column("clip_id").to_pylist()])
        pairs = hash_pairs(hashes, self.config.hash_bits)
        ratio = length[pairs].min(axis=1) / np.maximum(length[pairs].max(axis=1), 1e-9)
        pairs = pairs[ratio >= self.config.length_ratio]
        pairs = pairs[same_course(cells[..., :-TINTS], pairs, self.config.agreement, self.config.still)]
        pairs = pairs[same_tint(cells[..., -TINTS:], pairs, self.config.tint)]
        return _rows(table, pairs, "perceptual", hash_distance(hashes, pairs))

    def _semantic(self, table: pa.Table) -> pa.Table:
        pairs, cosine = embedding_pairs(table.column("embedding"), self.config.cosine, self.config.index)
        return _rows(table, pairs, "semantic", 1 - cosine)


INDEXES = ("exact", "faiss")
NOISE = 1.0
"""Grey levels of a cell."""
SPAN = ("clip_id", "start_s", "end_s")


def _nothing() -> pa.Table:
    return Copies.writes.empty_table()


def _rows(table: pa.Table, pairs: Pairs, kind: str, distance: npt.NDArray[np.float64]) -> pa.Table:
    ids = table.column("clip_id").combine_chunks()
    a, b = (ids.take(pa.array(pairs[:, i])) for i in (0, 1))
    names = [digest("copies", kind, x, y) for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True)]
    return pa.table(
        [pa.array(names, pa.string()), a, b, pa.repeat(pa.scalar(kind), len(names)), pa.array(np.round(distance, 6))],
        schema=Copies.writes,
    )


def same_course(cells: npt.NDArray[np.uint8], pairs: Pairs, agreement: float, still: float) -> npt.NDArray[np.bool_]:
    """Whether the pictures of each pair of clips change alike: bool [n], from tiny frames [clips, FRAMES, cells]."""
    found = np.zeros(len(pairs), bool)
    for at in range(0, len(pairs), 4096):
        a, b = (_changes(cells[pairs[at : at + 4096, i]]) for i in (0, 1))
        peak = np.maximum(np.abs(a).max((1, 2)), np.abs(b).max((1, 2)))
        a, b = _above_noise(a), _above_noise(b)
        power = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
        course = (a * b).sum((1, 2)) / np.maximum(power, 1e-6)
        found[at : at + 4096] = (course >= agreement) | (peak < still)
    return found


def _changes(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """How far each cell is from its mean over the clip."""
    values = cells.astype(np.float32)
    return np.asarray(values - values.mean(1, keepdims=True), np.float32)


def _above_noise(changes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Changes without what coding and rounding do to every cell, a grey level or so."""
    return np.asarray(np.sign(changes) * np.maximum(np.abs(changes) - NOISE, 0), np.float32)


def same_tint(tints: npt.NDArray[np.uint8], pairs: Pairs, most: float) -> npt.NDArray[np.bool_]:
    """Whether the mean chroma of each pair of clips agrees: bool [n], from [clips, FRAMES, 2]."""
    mean = tints.astype(np.float32).mean(1)
    return np.asarray(np.abs(mean[pairs[:, 0]] - mean[pairs[:, 1]]).max(axis=1, initial=0.0) <= most)
