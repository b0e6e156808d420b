"""The frame-level table of a source on its way to and from the store: one Parquet file, read by column.

Neither way holds a long source in memory: what is read is unpacked into a temporary file that the table is mapped from.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.core.measures.signature import SIZE, U8
from stages.core.step import Row, Workspace

SUFFIX = ".signals.parquet"
MAPPED_FROM = 20_000
"""Frames from which on a table is mapped from a temporary file; below, it fits in memory easily."""


def write_signals(workspace: Workspace, table: pa.Table) -> Row:
    """Keep a signal table; the answer fills `uri`, `sha256`, `size`."""
    with tempfile.NamedTemporaryFile(prefix="rushes-signals-", suffix=SUFFIX) as file:
        pq.write_table(table, file.name, compression="zstd", compression_level=3, row_group_size=4096)
        return workspace.put_file(Path(file.name), SUFFIX)


def read_signals(workspace: Workspace, row: Row, columns: Sequence[str] | None = None) -> pa.Table:
    """The signal table that the row of an analysis points at, or some of its columns."""
    path: Any = workspace.storage.local_path(row["uri"])
    source = path if path is not None else io.BytesIO(workspace.read(row["uri"]))
    with pq.ParquetFile(source) as file:
        if file.metadata.num_rows < MAPPED_FROM:
            return file.read(columns=list(columns) if columns else None)
        return _mapped(file, columns)


def _mapped(file: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
    """The file's columns unpacked on disk; the disk space goes with the last use of the table."""
    wanted = list(columns) if columns else file.schema_arrow.names
    schema = pa.schema([file.schema_arrow.field(name) for name in wanted])
    with tempfile.NamedTemporaryFile(prefix="rushes-signals-") as unpacked:
        with pa.OSFile(unpacked.name, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in file.iter_batches(batch_size=4096, columns=wanted):
                writer.write_batch(batch.select(wanted).cast(schema))
        return pa.ipc.open_file(pa.memory_map(unpacked.name)).read_all()


def signatures_of(table: pa.Table, start: int = 0, end: int | None = None) -> U8:
    """The signature column of frames [start, end): uint8 [n, 864]."""
    column = table.column("signature").slice(start, None if end is None else max(0, end - start))
    parts = [np.asarray(chunk.flatten()).reshape(-1, SIZE) for chunk in column.chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.zeros((0, SIZE), np.uint8)
