"""Freeze a dataset: index, captions, clips, card and contact sheets become one version that never changes again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from data_prep.publish.buckets import share_for
from data_prep.publish.folder import MANIFEST, LocalFolder, RemoteFolder, check_name, new_folder, versions
from data_prep.publish.metadata import metadata_files
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.step import Inputs, Job, Port, Row

FORMAT = 2
HIDDEN = ("id", "thumb_uri", "media_uri", "captions")
"""Columns of the job `index` that a dataset's index does not carry: they only mean something inside the store, or have
a file of their own."""
LANCE_ROWS = 16


class Version(Job):
    """One row: the version that holds these clips, made now, or there already with the same content."""

    kind = "version"
    version = 3
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("name", pa.string()),
            ("version", pa.int64()),
            ("clips", pa.int64()),
            ("hours", pa.float64()),
            ("folder", pa.string()),
            ("fingerprint", pa.string()),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What the version is called and how it was made.

        name       name of the dataset: letters from a to z, digits, `-` and `_`
        lance      also write a Lance dataset that holds the videos
        val_share  share of the sources whose clips are for validation, as in the index
        salt       seed of the split, as in the index
        settings   set by the flow: how the dataset was made, for the card
        yields     set by the flow: what became of the footage, for the card; no part of the identity
        """

        name: str = "dataset"
        lance: bool = False
        val_share: float = 0.05
        salt: str = "rushes"
        settings: dict[str, Any] = field(default_factory=dict)
        yields: dict[str, Any] = field(default_factory=dict, metadata={"identity": False})

        def __post_init__(self) -> None:
            check_name(self.name)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """All that goes into a version; packs where there are any."""
        needed = {name: Port(kind=name) for name in ("cut", "index", "sheet")}
        return Inputs(ports={**needed, "pack": Port(kind="pack", required=False)})

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`cut`, `index`, `sheet`, and `pack` where there are shards. Raises BadInput where a clip or a shard
        failed for a reason that may pass."""
        for name in ("cut", "sheet", "pack"):
            _refuse_unfinished(name, tables.get(name))
        if not tables["index"].num_rows:
            raise BadInput("none of the kept clips could be cut; there is nothing to make a version of")
        made = Frozen(self.config, tables)
        there = [v for v in versions(self.workspace.storage, self.config.name) if v["fingerprint"] == made.fingerprint]
        manifest = there[-1] if there else made.write(new_folder(self.workspace.storage, self.config.name))
        return pa.Table.from_pylist([{"id": made.fingerprint, "folder": manifest["uri"], **manifest}], self.writes)


def _refuse_unfinished(name: str, table: pa.Table | None) -> None:
    """A version lacks only what failed for good; a pack never fails for good."""
    rows = [] if table is None else table.select(["status", "error", "error_kind"]).to_pylist()
    bad = [r for r in rows if r["status"] == "error" and (r["error_kind"] == "transient" or name == "pack")]
    if bad:
        rows = f"{len(bad)} row{'' if len(bad) == 1 else 's'} of {name}"
        raise BadInput(
            f"{rows} failed ({bad[0]['error']}); run the same command again, with --retry-errors where that was in vain"
        )


class Frozen:
    """The content of one version."""

    def __init__(self, config: Any, tables: Mapping[str, pa.Table]) -> None:
        self.config, self.tables = config, tables
        self.captions = captions_of(tables["index"])
        packs = tables.get("pack")
        self.packs = [] if packs is None else [r for r in packs.to_pylist() if r["status"] == "ok"]
        self.sheets = sorted((r for r in tables["sheet"].to_pylist() if r["status"] == "ok"), key=lambda r: r["path"])
        marks = sorted([p["path"], p["sha256"]] for p in self.packs)
        settings = [FORMAT, config.name, config.lance, config.settings]
        # what makes a dataset the same: not where its sources lie, nor where the store keeps its files
        clips = tables["index"].drop_columns(["source_uri", "thumb_uri", "media_uri", "captions"])
        self.fingerprint = digest(settings, content_hash(clips), content_hash(self.captions), marks)

    def write(self, folder: LocalFolder | RemoteFolder) -> Row:
        """Write all of it and commit it. Returns the manifest, with its uri."""
        from data_prep.publish.card import card

        try:
            rows = self.tables["index"].select(["media_uri", "path"]).to_pylist()
            for row in rows:
                folder.take(row["media_uri"], row["path"])
            for kept in [*self.sheets, *self.packs]:
                folder.take(kept["uri"], kept["path"])
            index = flat_index(self.tables["index"])
            tables = {"index.parquet": index, "captions.parquet": self.captions}
            hashes = {kept["path"]: kept["sha256"] for kept in [*self.sheets, *self.packs]}
            for path, table in {**tables, **metadata_files(index, self.captions)}.items():
                data = _parquet(table)
                hashes[path] = hashlib.sha256(data).hexdigest()
                folder.write(path, data)
            if self.config.lance:
                media = [row["media_uri"] for row in rows]
                write_lance(folder.folder("lance"), index, media, folder.storage.read)
            facts = self._facts(index)

            def ending(number: int) -> dict[str, bytes]:
                manifest = {**facts, "version": number}
                text = card(manifest, index, self.captions, self.sheets, self.config.yields).encode()
                files = {**hashes, "README.md": hashlib.sha256(text).hexdigest()}
                told = json.dumps({**manifest, "files": files}, indent=1)
                return {"README.md": text, MANIFEST: told.encode() + b"\n"}

            number = folder.commit(ending)
        finally:
            folder.discard()
        return {**facts, "version": number, "uri": f"datasets/{self.config.name}/v{number}"}

    def _facts(self, index: pa.Table) -> Row:
        splits = index["split"].to_pylist()
        failed = [r for r in self.tables["cut"].select(["status"]).to_pylist() if r["status"] != "ok"]
        return {
            "format": FORMAT,
            "name": self.config.name,
            "version": 0,
            "fingerprint": self.fingerprint,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "clips": index.num_rows,
            **{split: splits.count(split) for split in ("train", "val", "excluded")},
            "not_cut": len(failed),
            "notes": empty_splits(index, self.config.val_share, self.config.salt),
            "hours": sum(index["duration_s"].to_pylist()) / 3600,
            "captions": self.captions.num_rows,
            "sheets": len(self.sheets),
            "shards": len(self.packs),
            "lance": self.config.lance,
            "settings": self.config.settings,
        }


def empty_splits(index: pa.Table, share: float, salt: str) -> list[str]:
    """A sentence for each split that was asked for and has no clips, with what to do about it."""
    splits, sources = set(index["split"].to_pylist()), sorted(set(index["source_id"].to_pylist()))
    count = f"{len(sources)} sources" if len(sources) != 1 else "1 source"
    found = []
    if share > 0 and "val" not in splits:
        least = share_for(sources, salt)
        found.append(
            f"There are no clips in the validation split `val`: a share of {share:g} gives it none of {count}. Set "
            f"publish.val_share={least:g} for at least one source; another publish.salt draws other sources."
        )
    if share < 1 and "train" not in splits:
        found.append(
            f"There are no clips in `train`: a share of {share:g} for `val` leaves it none of {count}. Lower "
            "publish.val_share, set another publish.salt, or add footage."
        )
    return found


def captions_of(index: pa.Table) -> pa.Table:
    """Every caption of the clips, one row each."""
    from stages.core.ledger.catalog import connect

    sql = connect()
    sql.register("clips", index.select(["clip_id", "captions"]))
    return sql.sql(
        """SELECT clip_id, kind, text, model, status, "window", start_s, end_s FROM
        (SELECT clip_id, unnest(captions, max_depth := 2) FROM clips) ORDER BY ALL"""
    ).to_arrow_table()


def flat_index(index: pa.Table) -> pa.Table:
    """The index as a dataset carries it: without what only means something inside the store."""
    return index.drop_columns(list(HIDDEN)).rename_columns({"path": "uri"})


def content_hash(table: pa.Table) -> list[str]:
    """A hash of a table's rows that does not depend on their order."""
    from stages.core.ledger.catalog import connect

    sql = connect()
    sql.register("rows", table)
    row = sql.execute(
        "SELECT count(*), sum(md5_number_lower(t)::HUGEINT), bit_xor(md5_number_upper(t)) "
        "FROM (SELECT to_json(r)::VARCHAR AS t FROM rows r)"
    ).fetchone()
    return [str(value) for value in row or ()]


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def check_lance() -> Any:
    """The library. Raises BadInput naming the extra where it is not installed."""
    try:
        import lance
    except ImportError:
        raise BadInput(
            "publish.lance=true needs the extra `lance`: pip install -c constraints.txt -e '.[lance]'"
        ) from None
    return lance


def write_lance(path: str, index: pa.Table, media: Sequence[str], read: Callable[[str], bytes]) -> None:
    """A Lance dataset of the index and a column `video` with the bytes of each clip, some rows at a time.

    media: where the store keeps the clip of each row; read: gives the bytes of such a file.
    """
    lance = check_lance()
    schema = index.schema.append(pa.field("video", pa.large_binary()))

    def batches() -> Iterator[pa.RecordBatch]:
        for at in range(0, index.num_rows, LANCE_ROWS):
            part = index.slice(at, LANCE_ROWS)
            videos = pa.array([read(uri) for uri in media[at : at + LANCE_ROWS]], pa.large_binary())
            yield from part.append_column(schema.field("video"), videos).combine_chunks().to_batches()

    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), path)
