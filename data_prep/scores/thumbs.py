"""One picture of each clip: of those that `analyse` kept, the one nearest to its middle."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pyarrow as pa

from stages.core.step import ARTIFACT, Inputs, Port, Resources, Row, Step


class Thumbs(Step):
    """A row per clip with a JPEG of 256 pixels on its longer side; none where no picture was kept within the clip."""

    kind = "thumbs"
    version = 1
    writes = pa.schema([("clip_id", pa.string()), ("thumb_frame", pa.int64()), *ARTIFACT])
    fan_out = True
    resources = Resources(batch_rows=16)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """There is nothing to set: pictures are as `analyse` made them."""

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips of a source, and its signals."""
        return Inputs(ports={"clips": Port(kind="clips"), "signals": Port(kind="signals")})

    def process(self, row: Row) -> Row:
        """The pictures of one source's clips."""
        import pyarrow.parquet as pq

        clips = row["clips"]["rows"]
        if not clips:
            return {"rows": []}
        pictures = pq.read_table(io.BytesIO(self.workspace.read(row["signals"]["pictures_uri"])))
        frames = pictures.column("frame").to_pylist()
        rows = []
        for clip in clips:
            middle = (clip["start_frame"] + clip["end_frame"] - 1) / 2
            inside = [i for i, f in enumerate(frames) if clip["start_frame"] <= f < clip["end_frame"]]
            if inside:
                best = min(inside, key=lambda i: abs(frames[i] - middle))
                kept = self.workspace.put(pictures.column("jpeg")[best].as_py(), ".jpg")
                rows.append({"clip_id": clip["clip_id"], "thumb_frame": frames[best], **kept})
        return {"rows": rows}
