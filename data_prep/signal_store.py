"""The frame-level table of a source on its way to and from the store: one Parquet file, read by column."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.core.step import Row, Workspace

SUFFIX = ".signals.parquet"


def write_signals(workspace: Workspace, table: pa.Table) -> Row:
    """Keep a signal table; the answer fills `uri`, `sha256`, `size`."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=3, row_group_size=4096)
    return workspace.put(buffer.getvalue(), SUFFIX)


def read_signals(workspace: Workspace, row: Row, columns: Sequence[str] | None = None) -> pa.Table:
    """The signal table that the row of an analysis points at, or some of its columns."""
    path: Any = workspace.storage.local_path(row["uri"])
    source = path if path is not None else io.BytesIO(workspace.read(row["uri"]))
    return pq.read_table(source, columns=list(columns) if columns else None)
