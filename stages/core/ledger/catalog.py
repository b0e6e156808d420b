"""The catalog: immutable Parquet parts on any fsspec URL, one folder per step and fingerprint.

    tables/<step>/<fingerprint>/part-*.parquet   one ledger row per input and attempt
    tables/<job>/<fingerprint>/job-<digest>.parquet   one whole-table result per set of inputs
    tables/<job>/<fingerprint>/groups-*.parquet       results of a job that decides by group, each row with its digest
    tables/runs/all/part-*.parquet               what was asked for, when, and how it ended
    roots/<digest>.parquet                       what a run starts from: a campaign's takes, a curation's sources
    media/<aa>/<sha256>.<suffix>                 files that rows point at

A part is written whole and never changed. Readers de-duplicate by id, so two writers never clash.
"""

from __future__ import annotations

import atexit
import ctypes
import io
import json
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.core.crash import crash_point
from stages.core.errors import BadInput
from stages.core.identity import depends_key, is_safe_name, joined_digest, value_digest
from stages.core.identity import digest as digest_of
from stages.core.ledger.storage import Storage
from stages.core.rows import REASON, Row

TABLES, ROOTS = "tables", "roots"
RESULTS = ("job-", "groups-")
"""How the names of files begin that hold results of jobs."""
DISTINCT = b"rushes.distinct"
"""Where the file of roots notes its `distinct_keys`."""
NO_ROWS = "(SELECT NULL::VARCHAR AS id WHERE false)"
LISTINGS = 20
"""How often a folder is listed again where compaction keeps taking away what was listed, before that is an error."""

T = TypeVar("T")

LEDGER = pa.schema(
    [
        ("id", pa.string()),
        ("parents", pa.string()),
        ("depends", pa.string()),
        ("status", pa.string()),
        ("reasons", pa.list_(REASON)),
        ("error", pa.string()),
        ("error_kind", pa.string()),
        ("attempt", pa.int32()),
        ("run_id", pa.string()),
        ("worker", pa.string()),
        ("setups", pa.int32()),
        ("started", pa.timestamp("us", tz="UTC")),
        ("ended", pa.timestamp("us", tz="UTC")),
        ("core_seconds", pa.float64()),
        ("gpu_seconds", pa.float64()),
        ("peak_memory_mb", pa.float64()),
    ]
)
"""The columns that every row of every step has. parents: the ids of the rows that the step was handed
(`stages.core.identity.join_parents`). depends: the digest of the unit's values that decide the result."""

VOLATILE = (
    "attempt",
    "run_id",
    "worker",
    "setups",
    "started",
    "ended",
    "core_seconds",
    "gpu_seconds",
    "peak_memory_mb",
)
"""Columns that differ between two honest runs of the same work; comparisons of stores leave them out."""
BOOKKEEPING = tuple(name for name in VOLATILE if name != "attempt")
"""Columns that a later step is not given: how a row came about must not enter what is made of it."""


def ledger_schema(writes: pa.Schema, fan_out: bool) -> pa.Schema:
    """The schema of a step's parts: the ledger columns, then the step's own (nested in `rows` where it fans out)."""
    child = list(writes) if "id" in writes.names else [pa.field("id", pa.string()), *writes]
    own = [pa.field("rows", pa.list_(pa.struct(child)))] if fan_out else list(writes)
    clash = {f.name for f in own} & set(LEDGER.names)
    if clash:
        raise BadInput(
            f"a step may not write the reserved columns {', '.join(sorted(clash))}: rename them in its `writes`"
        )
    return pa.schema([*LEDGER, *own])


def empty_value(kind: pa.DataType) -> Any:
    """What a column holds where there is no value: integers are never null."""
    if pa.types.is_integer(kind):
        return 0
    if pa.types.is_boolean(kind):
        return False
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return ""
    return [] if pa.types.is_list(kind) else None


def filled(value: Any, kind: pa.DataType, name: str) -> Any:
    """A value as it is stored: empty values for nulls, also inside lists and structs.

    Raises BadInput for a struct with a field that the type lacks (pyarrow would drop it), and for a fraction where the
    type is an integer (pyarrow would cut it).
    """
    if value is None:
        return empty_value(kind)
    if pa.types.is_integer(kind) and not getattr(value, "is_integer", lambda: True)():
        raise BadInput(f"{name} does not fit what the step declares ({kind}): {value!r} is not a whole number")
    if pa.types.is_list(kind) and isinstance(value, list | tuple):
        return [filled(v, kind.value_type, name) for v in value]
    if pa.types.is_struct(kind) and isinstance(value, dict):
        fields = {f.name: f.type for f in kind}
        if extra := set(value) - set(fields):
            raise BadInput(f"{name}: fields {sorted(extra)} are not in what the step declares ({', '.join(fields)})")
        return {k: filled(value.get(k), t, f"{name}.{k}") for k, t in fields.items()}
    return value


def to_table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly this schema. Raises BadInput for a column that the schema lacks, or a wrong type."""
    known = set(schema.names)
    for row in rows:
        if extra := set(row) - known:
            raise BadInput(f"columns {sorted(extra)} are not in what the step declares ({', '.join(schema.names)})")
    return pa.table([_column(rows, field) for field in schema], schema=schema)


def _column(rows: Sequence[Row], field: pa.Field) -> pa.Array:
    try:
        return pa.array([filled(row.get(field.name), field.type, field.name) for row in rows], field.type)
    except BadInput:
        raise
    except (OverflowError, TypeError, ValueError) as error:  # pyarrow's own are among these
        raise BadInput(f"{field.name} does not fit what the step declares ({field.type}): {error}") from None


def units_table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Units as a table of exactly this schema, in which what is not set is null. Raises BadInput naming a column."""
    known = set(schema.names)
    for row in rows:
        if extra := set(row) - known:
            raise BadInput(f"columns {sorted(extra)} are none of a unit ({', '.join(schema.names)})")
    columns = []
    for field in schema:
        try:
            columns.append(pa.array([row.get(field.name) for row in rows], field.type))
        except (OverflowError, TypeError, ValueError) as error:
            raise BadInput(f"{field.name} is not {field.type}: {error}") from None
    return pa.table(columns, schema=schema)


def with_depends(table: pa.Table, sets: Sequence[tuple[str, ...]]) -> pa.Table:
    """The table with a column of digests (`depends_digest`) for each set of its columns. Each distinct value is hashed
    once: takes by the million share prompts, sizes and rates."""
    digests: dict[str, list[str]] = {}
    for name in sorted({c for s in sets for c in s}):
        column = table.column(name).combine_chunks()
        flat = not pa.types.is_nested(column.type)
        coded = column.dictionary_encode(null_encoding="encode") if flat else None
        if coded is not None:
            words = ["" if v is None else value_digest(name, v) for v in coded.dictionary.to_pylist()]
            digests[name] = [words[i] for i in coded.indices.to_pylist()]
        else:
            digests[name] = ["" if v is None else value_digest(name, v) for v in column.to_pylist()]
    for columns in sets:
        joined = ["".join(parts) for parts in zip(*(digests[c] for c in sorted(columns)), strict=True)]
        marks = {text: joined_digest([text]) for text in set(joined)}
        table = table.append_column(depends_key(columns), pa.array([marks[t] for t in joined], pa.string()))
    return table


def _noting_distinct(table: pa.Table, sets: Sequence[tuple[str, ...]]) -> pa.Table:
    keys = [key for key in map(depends_key, sets) if pc.count_distinct(table.column(key)).as_py() == table.num_rows]
    return table.replace_schema_metadata({**(table.schema.metadata or {}), DISTINCT: json.dumps(keys)})


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


@dataclass(frozen=True)
class Catalog:
    """The ledger of one store. Holds no state of its own, so any number of processes may use one."""

    storage: Storage

    def folder(self, step: str, fingerprint: str) -> str:
        """Where the parts of a step lie. Raises BadInput for a name that is no plain folder name."""
        for name in (step, fingerprint):
            if not is_safe_name(name):
                raise BadInput(f"{name!r} cannot name a table; use letters, digits, - and _")
        return f"{TABLES}/{step}/{fingerprint}"

    def commit(self, step: str, fingerprint: str, rows: Sequence[Row], schema: pa.Schema) -> None:
        """Add rows as one part: all of them, or none."""
        if rows:
            self.commit_table(step, fingerprint, to_table(rows, schema), f"part-{uuid.uuid4().hex}")

    def commit_table(self, step: str, fingerprint: str, table: pa.Table, name: str) -> None:
        """Add a part under a given name; a job's result carries the digest of its inputs."""
        crash_point("before_commit")
        self.storage.write(f"{self.folder(step, fingerprint)}/{name}.parquet", _to_parquet(table))
        crash_point("after_commit")

    def parts(self, step: str, fingerprint: str, prefix: str = "part-") -> list[str]:
        """The paths of the parts that are there now, in a stable order."""
        folder = self.folder(step, fingerprint)
        try:
            names = self.storage.fs.ls(folder, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(n for n in names if n.rsplit("/", 1)[-1].startswith(prefix) and n.endswith(".parquet"))

    def steps(self) -> list[tuple[str, str]]:
        """Every (step, fingerprint) that has a folder."""
        fs = self.storage.fs
        found = []
        for step in _folders(fs, TABLES):
            found += [(step.rsplit("/", 1)[-1], f.rsplit("/", 1)[-1]) for f in _folders(fs, step)]
        return sorted(found)

    def put_roots(
        self, rows: Sequence[Row] | pa.Table, schema: pa.Schema, digest: str, depends: Sequence[tuple[str, ...]] = ()
    ) -> str:
        """Keep the rows that a run starts from, under their digest. Writes nothing where they are already there.

        depends: sets of columns on which steps depend. A digest of each is kept beside the rows, so that planning
        compares instead of hashing, and a note of those that no two rows share (`distinct_keys`). Nulls stay nulls.
        Raises BadInput for values that do not fit the schema.
        """
        sets = sorted({tuple(sorted(s)) for s in depends if s})
        path = f"{ROOTS}/{digest_of(digest, sets)}.parquet"
        if not self.storage.exists(path):
            table = rows if isinstance(rows, pa.Table) else units_table(rows, schema)
            self.storage.write(path, _to_parquet(_noting_distinct(with_depends(table, sets), sets)))
        return path

    def distinct_keys(self, roots: str) -> frozenset[str]:
        """The columns of digests of a file of roots in which no two rows agree: what depends on one is never shared."""
        with self.storage.fs.open(roots, "rb") as file:
            notes = pq.read_metadata(file).metadata or {}
        return frozenset(json.loads(notes.get(DISTINCT, b"[]")))

    def scan(self, connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> str:
        """SQL for the rows of these files: read by DuckDB itself on local disk, through pyarrow elsewhere.

        On local disk a file that is compacted away later makes a query fail with duckdb.IOException; see `with_rows`.
        """
        if not paths:
            return NO_ROWS
        if (root := self.storage.local_root) is not None:
            files = ", ".join("'" + str(root / p).replace("'", "''") + "'" for p in paths)
            return f"read_parquet([{files}], union_by_name=true)"
        return _register(connection, list(self._fetch(paths).values()))

    def rows(self, connection: duckdb.DuckDBPyConnection, step: str, fingerprint: str) -> str:
        """SQL for all rows of a step that are there now, NO_ROWS where there are none."""
        if self.storage.local_root is not None:
            return self.scan(connection, self.parts(step, fingerprint))
        tables = self.tables(step, fingerprint)
        return _register(connection, tables) if tables else NO_ROWS

    def with_rows(
        self, connection: duckdb.DuckDBPyConnection, step: str, fingerprint: str, use: Callable[[str], T]
    ) -> T:
        """The answer of `use`, which is given SQL for all rows of a step (NO_ROWS where there are none).

        Where compaction takes a listed part away in the meantime, the folder is listed again and `use` called again:
        the rows are in the merged part.
        """
        for _ in range(LISTINGS):
            try:
                return use(self.rows(connection, step, fingerprint))
            except duckdb.IOException as error:
                if not has_vanished(error):
                    raise
        return use(self.rows(connection, step, fingerprint))

    def tables(self, step: str, fingerprint: str) -> list[pa.Table]:
        """The parts of a step, one table each. What was read is kept while the folder is listed again for parts that
        went missing, so that a busy compactor cannot hold a reader up for ever."""
        have: dict[str, pa.Table] = {}
        for _ in range(LISTINGS):
            wanted = [p for p in self.parts(step, fingerprint) if p not in have]
            have |= (found := self._fetch(wanted))
            if len(found) == len(wanted):
                return list(have.values())
        raise FileNotFoundError(f"parts of {self.folder(step, fingerprint)} vanish faster than they can be read")

    def _fetch(self, paths: Sequence[str]) -> dict[str, pa.Table]:
        """These files, read at once; without those that are gone."""
        found = self.storage.fs.cat(list(paths), on_error="return") if paths else {}
        tables = {}
        for path, data in found.items():
            if isinstance(data, FileNotFoundError):
                continue
            if isinstance(data, Exception):
                raise data
            tables[path] = pq.read_table(io.BytesIO(data))
        return tables

    def read_file(self, path: str) -> pa.Table | None:
        """One Parquet file; None where it was compacted away since it was listed."""
        try:
            return pq.read_table(io.BytesIO(self.storage.read(path)))
        except FileNotFoundError:
            return None


def _register(connection: duckdb.DuckDBPyConnection, tables: Sequence[pa.Table]) -> str:
    name = f"scan_{uuid.uuid4().hex}"
    connection.register(name, pa.concat_tables(tables, promote_options="default"))
    return name


def has_vanished(error: duckdb.IOException) -> bool:
    """Whether DuckDB fails because a file that was listed is gone."""
    return "No files found" in str(error) or "No such file" in str(error)


def _folders(fs: Any, path: str) -> list[str]:
    try:
        return sorted(e["name"] for e in fs.ls(path, detail=True) if e["type"] == "directory")
    except (FileNotFoundError, NotADirectoryError):
        return []


_instances: list[duckdb.DuckDBPyConnection] = []
_instances_lock = threading.Lock()


def _forget_instance() -> None:
    """A forked process has the memory of its parent's DuckDB, not its threads: it starts one of its own. To end that of
    its parent would crash, so one reference to it is never let go of."""
    global _instances_lock
    _instances_lock = threading.Lock()
    for instance in _instances:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(instance))
    _instances.clear()


atexit.register(_instances.clear)  # while its module is whole: DuckDB names what is left at the very end as leaks
os.register_at_fork(after_in_child=_forget_instance)


def connect() -> duckdb.DuckDBPyConnection:
    """A connection with tables and views of its own to this process's DuckDB, which is in memory and asks no network.

    One for all, as starting one takes 30 ms, and so that all share one limit of memory.
    """
    with _instances_lock:
        try:
            connection = _instances[-1].cursor() if _instances else _start()
            return connection.execute("SET TimeZone='UTC'")
        except duckdb.FatalException:  # an error within DuckDB ends the instance, for what reads later too
            _instances.clear()
    return connect()


def _start() -> duckdb.DuckDBPyConnection:
    instance = duckdb.connect(":memory:")
    instance.execute("SET autoinstall_known_extensions=false; SET autoload_known_extensions=false")
    _instances.append(instance)
    return instance.cursor()
