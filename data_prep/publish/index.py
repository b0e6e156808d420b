"""The index of a dataset: a row per clip that was cut, with its caption, its split and its bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from data_prep.publish.buckets import BucketConfig, bucket_columns, split_of
from stages.core.errors import BadInput
from stages.core.step import Inputs, Job, Port

CAPTION = pa.struct(
    [
        ("kind", pa.string()),
        ("text", pa.string()),
        ("model", pa.string()),
        ("status", pa.string()),
        ("window", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)
CLIP_ROOTS = pa.schema(
    [
        ("id", pa.string()),
        ("clip_id", pa.string()),
        ("position", pa.int64()),
        ("source_id", pa.string()),
        ("uri", pa.string()),
        ("bytes", pa.int64()),
        ("source_sha256", pa.string()),
        ("source_version", pa.string()),
        ("signals_uri", pa.string()),
        ("siblings", pa.binary()),
        ("codec", pa.string()),
        ("has_audio", pa.bool_()),
        ("stream_index", pa.int64()),
        ("time_base_num", pa.int64()),
        ("time_base_den", pa.int64()),
        ("start_pts", pa.int64()),
        ("end_pts", pa.int64()),
        ("start_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("label", pa.string()),
        ("licence", pa.string()),
        ("duplicate_group", pa.string()),
        ("copy_sources", pa.list_(pa.string())),
        ("thumb_uri", pa.string()),
        ("motion", pa.float64()),
        ("captions", pa.list_(CAPTION)),
    ]
)
"""What a publication starts from: one kept clip with all that cutting, splitting and indexing need, and the scores of
its curation and what manifests say as further columns. motion is null where it was not measured. siblings: the frame
ranges of the clips of its source that are published with it (`data_prep.publish.origin.pack_spans`)."""

FOR_CUTTING = frozenset({"bytes", "source_sha256", "source_version", "signals_uri", "siblings", "codec", "has_audio"})
"""Columns of these that no index is made of: a source that was only touched changes none."""
KINDS = {
    "number": pa.float64(),
    "integer": pa.int64(),
    "truth": pa.bool_(),
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
}
"""The types that a further column may have, by the names that `Index` is told them by."""
SPOKEN = """coalesce(string_agg(trim(text), ' ' ORDER BY text) FILTER ("window" = 0),
    string_agg(trim(text), ' ' ORDER BY "window", text))"""
"""SQL: what captions of one clip and kind say together; that of the whole clip, else those of its windows in order."""
SAID = "status = 'ok' AND trim(text) <> ''"
"""SQL: whether a caption counts."""

OWN_COLUMNS = """c.width, c.height, c.n_frames, c.fps, c.duration_s, c.has_audio, c.method, c.sha256, c.size,
    c.uri AS media_uri"""
CLIP_COLUMNS = """r.source_id, r.uri AS source_uri, r.start_pts, r.end_pts, r.time_base_num, r.time_base_den,
    r.start_frame, r.end_frame, r.start_s, r.end_s, r.label, r.licence, r.duplicate_group, r.thumb_uri,
    r.captions"""


class Index(Job):
    """One row per clip that was cut. `path` is relative to the dataset's folder, `media_uri` to the store."""

    kind = "index"
    version = 4
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("clip_id", pa.string()),
            ("path", pa.string()),
            ("caption", pa.string()),
            ("split", pa.string()),
            ("bucket", pa.string()),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("n_frames", pa.int64()),
            ("fps", pa.float64()),
            ("duration_s", pa.float64()),
            ("has_audio", pa.bool_()),
            ("bucket_resolution", pa.string()),
            ("bucket_aspect", pa.string()),
            ("bucket_frames", pa.string()),
            ("bucket_fps", pa.string()),
            ("bucket_motion", pa.string()),
            ("source_id", pa.string()),
            ("source_uri", pa.string()),
            ("start_pts", pa.int64()),
            ("end_pts", pa.int64()),
            ("time_base_num", pa.int64()),
            ("time_base_den", pa.int64()),
            ("start_frame", pa.int64()),
            ("end_frame", pa.int64()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("label", pa.string()),
            ("licence", pa.string()),
            ("duplicate_group", pa.string()),
            ("method", pa.string()),
            ("sha256", pa.string()),
            ("size", pa.int64()),
            ("thumb_uri", pa.string()),
            ("media_uri", pa.string()),
            ("captions", pa.list_(CAPTION)),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How clips are told apart.

        val_share  [0 to 1] share of the sources whose clips are for validation
        salt       seed of the split: another text gives another split
        caption    kind of caption in the index; a clip that has none of this kind gets long, medium, short or source
        buckets    limits of the buckets
        further    set by the flow: columns of the clips beside its own, such as scores and what manifests say, and the
                   type of each
        """

        val_share: float = 0.05
        salt: str = "rushes"
        caption: str = "long"
        buckets: BucketConfig = field(default_factory=BucketConfig)
        further: dict[str, str] = field(default_factory=dict)

        def __post_init__(self) -> None:
            if not 0 <= self.val_share <= 1:
                raise BadInput(f"publish.val_share is {self.val_share:g}; it must be 0 to 1")
            if not all(c.isalnum() or c in "-_." for c in self.salt):
                raise BadInput(f"publish.salt is {self.salt!r}; it may have letters, digits and -_. only")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What was cut, and all that is known of the clips."""
        known = dict.fromkeys((*CLIP_ROOTS.names, *config.further))
        return Inputs(
            ports={"cut": Port(kind="cut")}, units=tuple(n for n in known if n != "id" and n not in FOR_CUTTING)
        )

    @classmethod
    def writes_of(cls, config: Config) -> pa.Schema:
        """The columns of every index, then the further ones."""
        return pa.schema([*cls.writes, *((name, KINDS[kind]) for name, kind in config.further.items())])

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`cut` (a row per clip) and `units` (`CLIP_ROOTS` and further columns). What could not be cut is left out."""
        from stages.core.ledger.catalog import connect

        sql = connect()
        for name, table in tables.items():
            sql.register(f"t_{name}", table)
        sql.execute(
            "CREATE TEMP TABLE wanted AS SELECT * FROM (VALUES (?, 0), ('long', 1), ('medium', 2), ('short', 3), "
            "('source', 4), ('label', 5)) AS w(kind, rank)",
            [self.config.caption],
        )
        buckets = bucket_columns(self.config.buckets)
        own = ", ".join(f"{expression} AS {name}" for name, expression in buckets.items())
        split = split_of(self.config.val_share, self.config.salt)
        names = ", ".join(f'"{n}"' for n in self.writes_of(self.config).names)
        more = "".join(f', r."{name}"' for name in dict.fromkeys(["motion", *self.config.further]))
        return sql.sql(
            f"""WITH spoken AS (SELECT id, unnest(captions, max_depth := 2) FROM t_units),
            told AS (SELECT id, rank, {SPOKEN} AS text FROM spoken
                JOIN wanted USING (kind) WHERE {SAID} GROUP BY id, rank),
            best AS (SELECT id, first(text ORDER BY rank) AS caption FROM told GROUP BY id),
            clips AS (SELECT r.id, r.clip_id,
                {OWN_COLUMNS}, {CLIP_COLUMNS}, r.copy_sources, coalesce(b.caption, '') AS caption
                {more} FROM t_cut c JOIN t_units r ON r.id = c.unit_id LEFT JOIN best b ON b.id = r.id
                WHERE c.status = 'ok')
            SELECT {names} FROM (SELECT *,
                'clips/' || split || '/' || left(clip_id, 2) || '/' || clip_id || '.mp4' AS path
                FROM (SELECT *, {split} AS split, {own} FROM clips)) ORDER BY clip_id"""
        ).to_arrow_table()
