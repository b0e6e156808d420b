"""Manifests: a table of footage with what is known about it, as csv, tsv, jsonl or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from stages.core.config import nearest
from stages.core.errors import BadInput
from stages.core.step import Row

MANIFESTS = (".csv", ".tsv", ".jsonl", ".parquet")
WANTED = ("uri", "label", "caption", "licence")


def read_manifest(name: str, data: bytes, columns: Mapping[str, str]) -> list[Row]:
    """The rows of a manifest: dictionaries with `uri`, and label, caption, licence where it has them.

    columns maps each of those to the manifest's own column name. Raises BadInput naming the file and the row for what
    cannot be read, a missing uri column or an empty uri.
    """
    suffix = PurePosixPath(name).suffix.lower()
    rows = _parquet(name, data) if suffix == ".parquet" else _text(name, suffix, data)
    return list(_picked(name, rows, {k: columns.get(k) or k for k in WANTED}))


def _picked(name: str, rows: Iterable[tuple[int, Mapping[str, Any]]], columns: Mapping[str, str]) -> Iterator[Row]:
    for number, row in rows:
        if columns["uri"] not in row:
            hint = nearest(columns["uri"], [str(k) for k in row])
            raise BadInput(f"{name} has no column {columns['uri']!r}; set manifest.uri=COLUMN ({hint})")
        uri = as_text(row[columns["uri"]])
        if not uri.strip() or "\0" in uri:
            raise BadInput(f"{name}, row {number}: the uri is empty or holds a NUL character")
        rest = {k: as_text(row.get(columns[k])).strip() for k in WANTED if k != "uri"}
        yield {"uri": uri, **rest}


def as_text(value: Any) -> str:
    """A cell as text: 0 is "0", what is missing (null, NaN) is "", a whole number that a table made a float of is
    whole."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _text(name: str, suffix: str, data: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8 text: {error}") from None
    if suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, _json(name, number, line)
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ",")
    try:
        yield from enumerate(reader, 2)
    except csv.Error as error:
        raise BadInput(f"{name}, line {reader.line_num}: {error}") from None


def _json(name: str, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{name}, line {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadInput(f"{name}, line {number} must be an object with keys and values, not {line[:40]!r}")
    return row


def _parquet(name: str, data: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.read_table(io.BytesIO(data))
    except (ArrowException, OSError) as error:
        raise BadInput(f"{name} is not Parquet: {error}") from None
    for batch in table.to_batches():
        yield from enumerate(batch.to_pylist(), 1)
