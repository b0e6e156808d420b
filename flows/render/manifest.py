"""The manifest of an export: one row per delivered video, as csv, jsonl and Parquet. It holds no path and no key."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.render.provenance import public
from stages.core.reach.harmless import for_cell
from stages.core.step import Row

MANIFEST = pa.schema(
    [
        ("file", pa.string()),
        ("take_id", pa.string()),
        ("artifact_id", pa.string()),
        ("artifact_sha256", pa.string()),
        ("sha256", pa.string()),
        ("campaign", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("seed", pa.int64()),
        ("format", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("sound", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("model", pa.string()),
        ("cascade", pa.string()),
    ]
)
"""`file` counts from the folder; `sha256` is that of the file, or of a folder of frames. Sizes, frames and fps are
those of the file. `sound` is `kept`, `lost` (the format has none) or `none`."""


def manifest_row(name: str, entry: Mapping[str, Any], video: Row, take: Row, about: Mapping[str, str]) -> Row:
    """The row of one delivered video. entry: what the index says of the file."""
    found = {**{key: entry.get(key) for key in MANIFEST.names}, "file": name, "campaign": video.get("campaign") or ""}
    found |= {"prompt": video["prompt"], "negative_prompt": video.get("negative_prompt") or "", "seed": video["seed"]}
    found |= {"tags": [str(tag) for tag in take.get("tags") or ()]}
    return {**found, **{key: public(about.get(key, "")) for key in ("model", "cascade")}}


def read_rows(data: bytes) -> list[Row]:
    """The rows of a manifest in jsonl; none of what is no such manifest."""
    try:
        rows = [json.loads(line) for line in data.decode().splitlines() if line.strip()]
        return [{key: row.get(key) for key in MANIFEST.names} for row in rows if isinstance(row["file"], str)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def written(kind: str, rows: Sequence[Row]) -> bytes:
    """The manifest as csv, jsonl or parquet; equal rows give equal bytes."""
    if kind == "csv":
        return _csv(rows)
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=MANIFEST), sink)
    return sink.getvalue()


def _csv(rows: Iterable[Row]) -> bytes:
    """Tags with commas, as files of prompts take them; what a spreadsheet would reckon has an apostrophe in front."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(MANIFEST.names)
    for row in rows:
        cells = {**row, "tags": ", ".join(row["tags"] or ())}
        writer.writerow([for_cell(c) if isinstance(c := cells[n], str) else c for n in MANIFEST.names])
    return text.getvalue().encode()


def stored_rows(path: Path) -> list[Row]:
    """What a manifest that is there says; none where there is none."""
    try:
        return read_rows(path.read_bytes())
    except OSError:
        return []
