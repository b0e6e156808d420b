"""Checking a store (every part reads, every row's file is there with the right hash) and clearing what kills left.

Temporary files, files that no row names and rows computed twice are what an interrupted or a concurrent run leaves:
they are counted and listed, but are no fault.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.core.errors import BadInput
from stages.core.identity import row_id
from stages.core.ledger.catalog import LEDGER, LISTINGS, RESULTS, ROOTS, Catalog
from stages.core.ledger.records import RUN_SCHEMA, RUNS, STORE_TABLE
from stages.core.ledger.storage import MEDIA, TEMPORARY, FileInfo
from stages.core.rows import Row

DAY = timedelta(days=1)
HASHERS = 4
REQUIRED = {"id", "parents", "depends", "status", "attempt"}
STATUSES = {"ok", "rejected", "skipped", "error"}


@dataclass
class Report:
    """What `verify` found. The store is sound where `faults` is empty.

    twice       ids of rows that were computed more than once with the same result
    temporaries files that a killed write left
    orphans     media that no row names, and strangers among the parts
    outside     how many files rows name that lie outside the store (sources, by path or URL): these are not opened
    """

    parts: int = 0
    rows: int = 0
    files: int = 0
    outside: int = 0
    faults: list[str] = field(default_factory=list)
    temporaries: list[FileInfo] = field(default_factory=list)
    orphans: list[FileInfo] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def verify(catalog: Catalog) -> Report:
    """Read every part and hash every file that a row names. Changes nothing; safe beside live runs and compaction."""
    return _Verifier(catalog).run()


def repair(catalog: Catalog, report: Report, older_than: timedelta = DAY) -> list[str]:
    """Remove the orphans and temporaries of a report that are older than this. Returns what was removed.

    A live run never looks that old: its temporaries live for seconds, and media that it puts again are rewritten.
    """
    removed = []
    for listed in [*report.temporaries, *report.orphans]:
        now = catalog.storage.info(listed.uri)
        if now is not None and datetime.now(UTC) - now.modified > older_than:
            catalog.storage.remove(listed.uri)
            removed.append(listed.uri)
    return removed


class _Verifier:
    """One reading of a store. wanted: uri -> (sha256, the row that names it); roots: path -> the run that needs it."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog, self.report = catalog, Report()
        self.wanted: dict[str, tuple[str, str]] = {}
        self.roots: dict[str, str] = {}

    def run(self) -> Report:
        """Everything, in an order that a live run does not upset."""
        storage = self.catalog.storage
        self.report.temporaries = storage.files(TEMPORARY)
        media = storage.files(MEDIA)  # before the parts: what is written after this is no orphan
        for step, fingerprint in self.catalog.steps():
            self.folder(step, fingerprint)
        self.check_roots({info.uri for info in storage.files(ROOTS)})
        self.check_files()
        self.report.orphans += [info for info in media if info.uri not in self.wanted]
        return self.report

    def fault(self, text: str) -> None:
        """Something is wrong."""
        self.report.faults.append(text)

    def folder(self, step: str, fingerprint: str) -> None:
        """All parts of one step and fingerprint, and what its rows say about each other."""
        seen: Counter[tuple[str, int]] = Counter()
        files: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        before: pa.Schema | None = None
        for path, table in self.tables(step, fingerprint):
            whole = PurePosixPath(path).name.startswith(RESULTS)
            free = whole or (fingerprint == STORE_TABLE and step != RUNS)
            before = self.check_schema(path, table.schema, before, RUN_SCHEMA if step == RUNS else LEDGER, whole, free)
            self.check_integers(path, table)
            for row in table.select(_columns_to_check(table.schema)).to_pylist():
                self.report.rows += 1
                self.add_files(f"{step} {row.get('id', '')}", row)
                if step == RUNS:
                    self.add_roots(row)
                elif not whole and row.keys() >= REQUIRED:
                    self.check_row(path, fingerprint, row)
                    seen[row["id"], row["attempt"]] += 1
                    if row["status"] == "ok":
                        files[row["id"]].add(tuple(_hashes(row)))
        self.report.twice += sorted({f"{step} {key}" for (key, _), n in seen.items() if n > 1})
        for key in (key for key, found in files.items() if len(found) > 1):
            self.fault(f"{step} {key}: the same work gave different files")

    def tables(self, step: str, fingerprint: str) -> Iterator[tuple[str, pa.Table]]:
        """Every part once; what compaction moves in the meantime is read where it is then."""
        done: set[str] = set()
        for _ in range(LISTINGS):
            vanished = False
            for info in self.catalog.storage.files(self.catalog.folder(step, fingerprint)):
                if info.uri in done:
                    continue
                table = self.read(info.uri) if info.uri.endswith(".parquet") else None
                if table is None and not self.catalog.storage.exists(info.uri):
                    vanished = True
                    continue
                done.add(info.uri)
                if table is not None:
                    yield info.uri, table
                elif not info.uri.endswith(".parquet"):
                    self.report.orphans.append(info)
            if not vanished:
                return

    def read(self, path: str) -> pa.Table | None:
        """One part; None where it is gone, or broken, which is a fault."""
        try:
            table = self.catalog.read_file(path)
        except Exception as error:  # whatever a broken file makes the reader raise
            self.fault(f"{path} cannot be read: {error}")
            return None
        self.report.parts += table is not None
        return table

    def check_schema(
        self, path: str, schema: pa.Schema, before: pa.Schema | None, ledger: pa.Schema, whole: bool, free: bool
    ) -> pa.Schema | None:
        """A part has the ledger's columns and those of the parts beside it; results of jobs, and what people write,
        need an id alone. Returns what the next must match."""
        for column in pa.schema([("id", pa.string())]) if free else ledger:
            found = schema.field(column.name).type if column.name in schema.names else "missing"
            if found != column.type:
                self.fault(f"{path}: column {column.name} is {found}, not {column.type}")
        if whole:
            return before
        if before is not None and not schema.equals(before):
            self.fault(f"{path}: its columns differ from those of the parts beside it")
        return before or schema

    def check_integers(self, path: str, table: pa.Table) -> None:
        """Integers are never null, inside lists and structs neither."""
        for name, column in _leaves(table):
            if pa.types.is_integer(column.type) and column.null_count:
                self.fault(f"{path}: column {name} holds {column.null_count} nulls; integers are never null")

    def check_row(self, path: str, fingerprint: str, row: Row) -> None:
        """A row's id follows from its folder and what it was made of, and its status is one that there is."""
        if row["id"] != row_id(fingerprint, row["parents"], row["depends"]):
            self.fault(f"{path}: row {row['id']} does not follow from its parents, its values and its folder")
        if row["status"] not in STATUSES:
            self.fault(f"{path}: row {row['id']} has the status {row['status']!r}")

    def add_roots(self, row: Row) -> None:
        """Remember what a run started from."""
        try:
            self.roots[json.loads(row["plan"])["roots"]] = row["run_id"]
        except (ValueError, KeyError, TypeError):
            self.fault(f"{RUNS} {row.get('run_id')}: its plan cannot be read")

    def check_roots(self, there: set[str]) -> None:
        """What runs started from is there and reads."""
        for path in sorted(there):
            self.read(path)
        for path, run_id in self.roots.items():
            if path not in there:
                self.fault(f"{RUNS} {run_id}: what it started from, {path}, is missing")

    def add_files(self, label: str, row: Row) -> None:
        """Remember the files that a row names."""
        for uri, sha in _named_files(row):
            if "://" in uri or uri.startswith("/"):
                self.report.outside += 1
                continue
            known = self.wanted.setdefault(uri, (sha, label))
            if sha and not known[0]:
                self.wanted[uri] = (sha, label)
            elif sha and sha != known[0]:
                self.fault(f"{label}: {uri} has another hash here than in {known[1]}")

    def check_files(self) -> None:
        """Hash each file once, some at a time."""
        with ThreadPoolExecutor(HASHERS) as pool:
            for fault in pool.map(lambda item: _file_fault(self.catalog, *item), self.wanted.items()):
                if fault:
                    self.fault(fault)
        self.report.files = len(self.wanted)


def _leaves(table: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Every column, those inside lists of structs too."""
    for name in table.column_names:
        column = table[name]
        while pa.types.is_list(column.type):
            column = pc.list_flatten(column)
        if pa.types.is_struct(column.type):
            valid = column.drop_null()
            yield from ((f"{name}.{f.name}", pc.struct_field(valid, f.name)) for f in column.type)
        else:
            yield name, column


def _columns_to_check(schema: pa.Schema) -> list[str]:
    own = {*REQUIRED, "rows", "files", "run_id", "plan"}
    return [n for n in schema.names if n in own or n.endswith(("uri", "sha256"))]


def _named_files(row: Row) -> Iterator[tuple[str, str]]:
    """(uri, sha256) wherever the two stand in a row; `x_uri` goes with `x_sha256`. "" where no hash is kept."""
    for name, value in row.items():
        if isinstance(value, list):
            for child in value:
                if isinstance(child, dict):
                    yield from _named_files(child)
        elif (name == "uri" or name.endswith("_uri")) and value:
            yield value, row.get(name.removesuffix("uri") + "sha256") or ""


def _hashes(row: Row) -> list[str]:
    return [sha for _, sha in _named_files(row)]


def _file_fault(catalog: Catalog, uri: str, expected: tuple[str, str]) -> str:
    sha, label = expected
    try:
        digest = _hash(catalog, uri)
    except FileNotFoundError:
        return f"{label}: its file {uri} is missing"
    except (OSError, BadInput) as error:
        return f"{label}: its file {uri} cannot be read: {error}"
    named = PurePosixPath(uri).name.split(".")[0] if uri.startswith(f"{MEDIA}/") else digest
    return "" if digest == (sha or digest) and digest == named else f"{label}: {uri} does not have the expected hash"


def _hash(catalog: Catalog, uri: str) -> str:
    with catalog.storage.fs.open(catalog.storage.check_relative(uri), "rb") as file:
        hasher: Any = hashlib.sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
    return str(hasher.hexdigest())
