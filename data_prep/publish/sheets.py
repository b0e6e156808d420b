"""Contact sheets: one picture per bucket that shows what is in it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.core.errors import BadInput, require
from stages.core.identity import digest
from stages.core.reach.containers import open_container
from stages.core.step import ARTIFACT, OWN_UNITS, Inputs, Job, Port, Resources, Row, Step

SHOWN = pa.struct([("clip_id", pa.string()), ("thumb_uri", pa.string()), ("media_uri", pa.string())])
CELL, LINE, MARGIN = (192, 108), 16, 8


class Sheets(Job):
    """One row per bucket: how many clips it has, and which of them are shown, as a hash picks them."""

    kind = "sheets"
    version = 1
    passes = True
    units = OWN_UNITS
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("path", pa.string()),
            ("bucket", pa.string()),
            ("n_clips", pa.int64()),
            ("hours", pa.float64()),
            ("shown", pa.list_(SHOWN)),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How clips are shared out among sheets.

        clips  [from 1] clips on one sheet, at most
        """

        clips: int = 40

        def __post_init__(self) -> None:
            if self.clips < 1:
                raise BadInput(f"publish.sheet_clips is {self.clips}; it must be at least 1")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The index."""
        return Inputs(ports={"index": Port(kind="index")})

    def columns(self, table: str) -> tuple[str, ...]:
        """What is shown, and in which bucket."""
        return ("bucket", "clip_id", "thumb_uri", "media_uri", "duration_s")

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`index`."""
        buckets: dict[str, list[Row]] = {}
        for row in tables["index"].select(list(self.columns("index"))).to_pylist():
            buckets.setdefault(row["bucket"], []).append(row)
        rows = [self._sheet(bucket, buckets[bucket]) for bucket in sorted(buckets)]
        return pa.Table.from_pylist(rows, self.writes)

    def _sheet(self, bucket: str, rows: list[Row]) -> Row:
        rows = sorted(rows, key=lambda r: hashlib.sha256(r["clip_id"].encode()).digest())
        sheet = {
            "path": f"sheets/{bucket}.jpg",
            "bucket": bucket,
            "n_clips": len(rows),
            "hours": sum(r["duration_s"] for r in rows) / 3600,
            "shown": [{n: r[n] for n in ("clip_id", "thumb_uri", "media_uri")} for r in rows[: self.config.clips]],
        }
        return {"id": digest("sheet", sheet), **sheet}


class Sheet(Step):
    """Draw one sheet as a JPEG."""

    kind = "sheet"
    version = 1
    writes = pa.schema([("path", pa.string()), ("bucket", pa.string()), ("n_clips", pa.int64()), *ARTIFACT])
    resources = Resources(batch_rows=4)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What a sheet looks like.

        columns  [from 1] pictures in a row
        quality  [1 to 95] quality of the JPEG
        """

        columns: int = 5
        quality: int = 85

        def __post_init__(self) -> None:
            require(
                (self.columns >= 1, "columns", self.columns, "at least 1"),
                (1 <= self.quality <= 95, "quality", self.quality, "1 to 95"),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What is on the sheet, and its place in the dataset."""
        return Inputs(depends=("path", "bucket", "n_clips", "hours", "shown"))

    def process(self, row: Row) -> Row:
        """The sheet of one bucket."""
        from PIL import Image, ImageDraw, ImageFont

        columns = min(self.config.columns, len(row["shown"]))
        lines = -(-len(row["shown"]) // columns)
        width, height = CELL[0] + MARGIN, CELL[1] + LINE + MARGIN
        title = f"{row['bucket']}: {row['n_clips']} clips, {row['hours'] * 60:.1f} min"
        picture = Image.new("RGB", (max(columns * width, 340) + MARGIN, lines * height + MARGIN + 24), (24, 24, 24))
        draw = ImageDraw.Draw(picture)
        draw.text((MARGIN, 6), title, fill=(240, 240, 240), font=ImageFont.load_default(14))
        for i, clip in enumerate(row["shown"]):
            x, y = MARGIN + (i % columns) * width, 28 + (i // columns) * height
            tile = self._picture(clip)
            tile.thumbnail(CELL)
            picture.paste(tile, (x + (CELL[0] - tile.width) // 2, y + (CELL[1] - tile.height) // 2))
            draw.text((x, y + CELL[1] + 1), clip["clip_id"][:12], fill=(170, 170, 170), font=ImageFont.load_default(10))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=self.config.quality)
        kept = self.workspace.put(buffer.getvalue(), ".jpg")
        return {**{n: row[n] for n in ("path", "bucket", "n_clips")}, **kept}

    def _picture(self, clip: Row) -> Any:
        """Its thumbnail, or the first frame where the pass kept none."""
        from PIL import Image

        if clip["thumb_uri"]:
            return Image.open(io.BytesIO(self.workspace.read(clip["thumb_uri"]))).convert("RGB")
        with open_container(self.workspace.read(clip["media_uri"])) as container:
            return next(container.decode(video=0)).to_image()
