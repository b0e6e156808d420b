"""Compaction: many small parts of a folder become few, beside readers and writers.

The merged part is written first and its sources are deleted after a grace that is longer than the longest read, so that
at every moment each row is in some part. A reader that holds an older listing finds a source gone, lists again, and
reads the merged part. Results of jobs are left as they are: each is named by what it is the result of, or read by its
marks. Merged parts sort after all their sources, so that a listing of many pages, which is no snapshot,
shows a source or the part that replaced it. A merged part names its sources, so that a later compaction can finish what
a killed one left.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from stages.core.crash import crash_point
from stages.core.errors import BadInput
from stages.core.ledger.catalog import VOLATILE, Catalog, connect
from stages.core.ledger.storage import FileInfo, Storage

GRACE_SECONDS = 60.0
TARGET_BYTES = 64 << 20
MIN_PARTS = 2
LOCK, LEASE = "locks/compaction", timedelta(hours=2)
MERGED, SOURCES = "part-m", b"rushes.sources"


@dataclass(frozen=True)
class Compaction:
    """What was done: folders merged, parts before and after in them, rows that were there twice and are no more."""

    folders: int = 0
    before: int = 0
    after: int = 0
    dropped: int = 0


def compact(
    catalog: Catalog,
    *,
    grace_seconds: float = GRACE_SECONDS,
    target_bytes: int = TARGET_BYTES,
    min_parts: int = MIN_PARTS,
    wait: Callable[[float], None] = time.sleep,
) -> Compaction:
    """Merge the parts of every step and fingerprint that are smaller than `target_bytes`, where `min_parts` are.

    Takes `grace_seconds` at least where there was something to merge. Raises BadInput where another compaction of the
    store is at work.
    """
    with _only_one(catalog.storage):
        leftovers = [p for folder in catalog.steps() for p in _leftovers(catalog, *folder)]
        merged = [
            m for folder in catalog.steps() for m in _merge_folder(catalog, folder, target_bytes, min_parts, leftovers)
        ]
        sources = [s for m in merged for s in m.sources]
        if sources or leftovers:
            wait(grace_seconds)
        for path in [*leftovers, *sources]:
            crash_point("before_delete")
            catalog.storage.remove(path)
    return Compaction(
        folders=len({m.path.rsplit("/", 1)[0] for m in merged}),
        before=len(sources),
        after=len(merged),
        dropped=sum(m.dropped for m in merged),
    )


@dataclass(frozen=True)
class _Merged:
    path: str
    sources: list[str]
    dropped: int


def _leftovers(catalog: Catalog, step: str, fingerprint: str) -> list[str]:
    """Sources that a killed compaction did not come to delete: their rows are in a merged part already."""
    parts = set(catalog.parts(step, fingerprint))
    found: set[str] = set()
    for path in (p for p in parts if PurePosixPath(p).name.startswith(MERGED)):
        footer = pq.read_metadata(io.BytesIO(catalog.storage.read(path))).metadata or {}
        folder = str(PurePosixPath(path).parent)
        found |= {f"{folder}/{name}" for name in json.loads(footer.get(SOURCES, b"[]"))}
    return sorted(found & parts)


def _merge_folder(
    catalog: Catalog, folder: tuple[str, str], target: int, least: int, leftovers: Sequence[str]
) -> Iterator[_Merged]:
    parts = set(catalog.parts(*folder)) - set(leftovers)
    infos = [i for i in catalog.storage.files(catalog.folder(*folder)) if i.uri in parts]
    for batch in _batches([i for i in infos if i.size < target], target):
        if len(batch) >= max(2, least):
            yield _merge(catalog, folder, [i.uri for i in batch])


def _batches(infos: Sequence[FileInfo], target: int) -> Iterator[list[FileInfo]]:
    """Neighbours, each batch about `target` bytes."""
    batch: list[FileInfo] = []
    for info in infos:
        if batch and sum(i.size for i in batch) + info.size > target:
            yield batch
            batch = []
        batch.append(info)
    if batch:
        yield batch


def _merge(catalog: Catalog, folder: tuple[str, str], sources: list[str]) -> _Merged:
    tables = [pq.read_table(io.BytesIO(catalog.storage.read(path))) for path in sources]
    whole = pa.concat_tables(tables, promote_options="default")
    kept = _once(whole)
    names = [PurePosixPath(path).name for path in sources]
    metadata = {**(kept.schema.metadata or {}), SOURCES: json.dumps(names).encode()}
    name = f"{MERGED}{_generation(names):08d}-{uuid.uuid4().hex}"
    catalog.commit_table(*folder, kept.replace_schema_metadata(metadata), name)
    return _Merged(f"{catalog.folder(*folder)}/{name}.parquet", sources, whole.num_rows - kept.num_rows)


def _generation(names: Sequence[str]) -> int:
    """One more than the highest among the sources; `m` sorts after every hexadecimal digit of a plain part's name."""
    found = [int(n.removeprefix(MERGED).split("-")[0]) for n in names if n.startswith(MERGED)]
    return max(found, default=0) + 1


def _once(table: pa.Table) -> pa.Table:
    """One row per attempt where rows agree in all but how they came about; rows that disagree are all kept."""
    ledger = "parents" in table.column_names
    same = [c for c in table.column_names if c == "attempt" or not (ledger and c in VOLATILE)]
    sql = connect()
    sql.register("rows", table.append_column("nth", pa.array(range(table.num_rows), pa.int64())))
    columns = ", ".join(f'"{c}"' for c in same)
    kept = sql.sql(f"SELECT min(nth) AS nth FROM rows GROUP BY {columns} ORDER BY nth").to_arrow_table()
    return table if kept.num_rows == table.num_rows else table.take(kept["nth"])


# -- one at a time ---------------------------------------------------------------------------------------------------


@contextmanager
def _only_one(storage: Storage) -> Iterator[None]:
    """Two at once would lose nothing, but copy rows for nothing. A killed one never blocks the next for long."""
    with _locked_file(storage) if storage.local_root else _lease(storage):
        yield


def _busy(storage: Storage) -> BadInput:
    return BadInput(f"another compaction of {storage.url} is running; wait until it has finished")


@contextmanager
def _locked_file(storage: Storage) -> Iterator[None]:
    """The kernel lets go of the lock when the process ends, however it ends."""
    path = storage.local_path(LOCK)
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _busy(storage) from None
        yield


@contextmanager
def _lease(storage: Storage) -> Iterator[None]:
    """An object that only one can create; one that is older than the lease was left by a kill."""
    there = storage.info(LOCK)
    if there is not None and datetime.now(UTC) - there.modified > LEASE:
        storage.remove(LOCK)
    try:
        storage.fs.pipe_file(LOCK, str(os.getpid()).encode(), mode="create")
    except FileExistsError:
        raise _busy(storage) from None
    try:
        yield
    finally:
        storage.remove(LOCK)
