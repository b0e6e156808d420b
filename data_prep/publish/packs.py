"""WebDataset shards: which clips go into which tar, and the tars themselves, byte for byte the same every time."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.publish.index import Index
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.step import ARTIFACT, OWN_UNITS, Inputs, Job, Port, Resources, Row, Step

META = ("split", "bucket", "width", "height", "n_frames", "fps", "duration_s", "label", "licence", "source_id")
"""Columns of the index that stand in a clip's JSON file."""
MEMBER = pa.struct(
    [
        ("clip_id", pa.string()),
        ("media_uri", pa.string()),
        ("caption", pa.string()),
        ("meta", pa.struct([Index.writes.field(name) for name in META])),
    ]
)


class Shards(Job):
    """One row per shard: its path in the dataset and its clips, shuffled by a hash."""

    kind = "shards"
    version = 2
    passes = True
    units = OWN_UNITS
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("path", pa.string()),
            ("split", pa.string()),
            ("members", pa.list_(MEMBER)),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How large shards are.

        mb  [above 0] megabytes of video in one shard
        """

        mb: float = 256.0

        def __post_init__(self) -> None:
            if self.mb <= 0:
                raise BadInput(f"publish.shard_mb is {self.mb:g}; it must be above 0")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The index."""
        return Inputs(ports={"index": Port(kind="index")})

    def columns(self, table: str) -> tuple[str, ...]:
        """What stands in a shard, and what decides in which."""
        return ("clip_id", "media_uri", "caption", "size", *META)

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`index`. Excluded clips are in no shard."""
        rows = [_shard(split, n, group) for split in ("train", "val") for n, group in self._groups(tables, split)]
        return pa.Table.from_pylist(rows, self.writes)

    def _groups(self, tables: Mapping[str, pa.Table], split: str) -> Iterator[tuple[int, list[Row]]]:
        names = ["clip_id", "media_uri", "caption", "size", *META]
        rows = [r for r in tables["index"].select(names).to_pylist() if r["split"] == split]
        rows.sort(key=lambda r: hashlib.sha256(r["clip_id"].encode()).digest())
        group: list[Row] = []
        number = size = 0
        for row in rows:
            if group and size + row["size"] > self.config.mb * 1e6:
                yield number, group
                group, number, size = [], number + 1, 0
            group.append(row)
            size += row["size"]
        if group:
            yield number, group


def _shard(split: str, number: int, rows: list[Row]) -> Row:
    members = [
        {
            **{name: row[name] for name in ("clip_id", "media_uri", "caption")},
            "meta": {name: row[name] for name in META},
        }
        for row in rows
    ]
    path = f"shards/{split}/{number:06d}.tar"
    return {"id": digest("shard", path, members), "path": path, "split": split, "members": members}


class Pack(Step):
    """One tar per shard: CLIP.mp4, CLIP.txt (the caption) and CLIP.json of every member."""

    kind = "pack"
    version = 2
    writes = pa.schema([("path", pa.string()), ("n_clips", pa.int64()), *ARTIFACT])
    resources = Resources(batch_rows=1)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """There is nothing to set: the shards say what goes in."""

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What goes in, and the shard's place in the dataset."""
        return Inputs(depends=("path", "members"))

    def process(self, row: Row) -> Row:
        """Write the tar of one shard."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for member in row["members"]:
                name = member["clip_id"]
                _add(tar, f"{name}.mp4", self.workspace.read(member["media_uri"]))
                _add(tar, f"{name}.txt", member["caption"].encode())
                meta = json.dumps(member["meta"], ensure_ascii=False, sort_keys=True)
                _add(tar, f"{name}.json", meta.encode())
        kept = self.workspace.put(buffer.getvalue(), ".tar")
        return {"path": row["path"], "n_clips": len(row["members"]), **kept}


def _add(tar: Any, name: str, data: bytes) -> None:
    """A member without owner or time, so that equal content makes equal tars."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
