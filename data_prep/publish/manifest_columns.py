"""What manifests say beyond what a curation reads, as typed columns of the clips of their sources."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa

from data_prep.publish.metadata import KINDS

RESERVED = ("uri", "video", "file_name", "file_names", *(f"caption_{kind}" for kind in KINDS))
"""Names that mean something else to the files of a dataset, or to those who read them."""
INT64 = 1 << 63


def extra_columns(texts: Iterable[str], taken: Collection[str]) -> pa.Table:
    """A column for each key of JSON objects, one object (or "") a row: as the manifests have it, text where rows
    differ in kind; null where a row says nothing.

    A column whose name is taken (no matter in which case), is called `manifest_NAME`.
    """
    rows: list[dict[str, Any]] = [json.loads(text) if text else {} for text in texts]
    keys = sorted({key for row in rows for key in row})
    used = {name.lower() for name in (*taken, *RESERVED)}
    columns = {}
    for key in keys:
        name = _free_name(key, used)
        used.add(name.lower())
        columns[name] = _column([row.get(key) for row in rows])
    return pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))}).select([])


def _free_name(key: str, used: Collection[str]) -> str:
    """A name that SQL can quote, and that Hugging Face's videofolder does not take for that of a file."""
    plain = "".join(c for c in key if c.isprintable() and c != '"').strip() or "column"
    plain = plain.replace("file_name", "filename")
    name, number = plain, 1
    while name.lower() in used:
        name = f"manifest_{plain}" + (f"_{number}" if number > 1 else "")
        number += 1
    return name


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(v) for v in values if v is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(v is None or -INT64 <= v < INT64 for v in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float} and float in kinds:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array([None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values], pa.string())
