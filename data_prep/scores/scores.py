"""The basic scores of each clip, from the stored signals. Nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from stages.core.step import Inputs, Port, Resources, Row, Step

FLOATS = (
    "motion", "static_ratio", "shake", "luma", "contrast", "sharpness", "flicker", "black_ratio", "blockiness",
    "letterbox", "pillarbox",
)  # fmt: skip
COLUMNS = (
    "frame", "time_s", "luma", "contrast", "black", "signature", "flow_from", "speed", "static", "pan", "tilt", "zoom",
    "roll", "sharpness", "blockiness", "phash", "bar_top", "bar_bottom", "bar_left", "bar_right",
)  # fmt: skip


class Scores(Step):
    """A row per clip; the columns are described in `data_prep.signals.aggregate.aggregate`. Null: not measured."""

    kind = "scores"
    version = 2
    writes = pa.schema(
        [
            ("clip_id", pa.string()),
            *[(name, pa.float64()) for name in FLOATS],
            ("camera_motion", pa.string()),
            ("colours", pa.list_(pa.string())),
        ]
    )
    fan_out = True
    resources = Resources(batch_rows=16)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """There is nothing to set: thresholds are set under `select`."""

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips of a source, and its signals."""
        return Inputs(ports={"clips": Port(kind="clips"), "signals": Port(kind="signals")})

    def process(self, row: Row) -> Row:
        """The scores of one source's clips."""
        from data_prep.signals.aggregate import aggregate
        from data_prep.signals.store import read_signals

        clips = row["clips"]["rows"]
        table = read_signals(self.workspace, row["signals"], COLUMNS) if clips else None
        names = [n for n in self.writes.names if n != "clip_id"]
        rows = []
        for clip in clips:
            metrics = aggregate(table, clip["start_frame"], clip["end_frame"])
            rows.append({"clip_id": clip["clip_id"], **{name: metrics[name] for name in names}})
        return {"rows": rows}
