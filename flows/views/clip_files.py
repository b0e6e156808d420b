"""The files of clips that can be played: those that a publication has cut."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.publish.folder import versions
from stages.core.ledger.catalog import Catalog


def published_clips(catalog: Catalog, clip_ids: Iterable[str]) -> dict[str, str]:
    """Clip id -> its mp4 in the store, of those clips that a dataset of the store holds; the newest version counts."""
    storage, found = catalog.storage, dict[str, str]()
    wanted = set(clip_ids)
    for version in sorted(versions(storage), key=lambda row: str(row["created"]), reverse=True):
        if not wanted:
            break
        try:
            data = io.BytesIO(storage.read(f"{version['uri']}/index.parquet"))
            index = pq.read_table(data, columns=["clip_id", "uri"])
        except (FileNotFoundError, pa.ArrowInvalid):  # `catalog verify` tells of it
            continue
        rows = index.filter(pc.is_in(index["clip_id"], pa.array(sorted(wanted), pa.string()))).to_pylist()
        there = {r["clip_id"]: f"{version['uri']}/{r['uri']}" for r in rows}
        found |= {clip: uri for clip, uri in there.items() if storage.exists(uri)}
        wanted -= set(found)
    return found
