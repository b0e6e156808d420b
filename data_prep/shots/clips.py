"""Make clips: the spans between transitions, split where they are too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.shots.cuts import TRIM, frame_times
from stages.core.errors import require
from stages.core.identity import digest
from stages.core.step import Inputs, Port, Resources, Row, Step

CLIPS = pa.schema(
    [
        ("id", pa.string()),
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("start_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("n_frames", pa.int64()),
        ("start_pts", pa.int64()),
        ("end_pts", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("boundary_in", pa.string()),
        ("boundary_out", pa.string()),
        ("addressable", pa.bool_()),
    ]
)


class Clips(Step):
    """A row per clip. Its id is made of the source and the span alone, so it outlives a change of any threshold.

    `addressable`: whether the times of its source lead to its frames; see `data_prep.sources.counting`.
    """

    kind = "clips"
    version = 2
    writes = CLIPS
    fan_out = True
    child_key = "clip_id"
    resources = Resources(batch_rows=16)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Lengths in seconds; see `SpanConfig`. Without a step that makes cuts a source is one clip.

        min_s   [from 0] shorter shots make no clip
        max_s   [from 0] longer shots are split into equal parts; 0 never splits
        trim_s  [from 0] seconds cut off at each transition, beyond its own frames
        """

        min_s: float = 1.0
        max_s: float = 20.0
        trim_s: float = 0.0

        def __post_init__(self) -> None:
            require(
                (self.min_s >= 0, "min_s", self.min_s, "0 or more"),
                (
                    self.max_s == 0 or self.max_s >= self.min_s,
                    "max_s",
                    self.max_s,
                    f"0, or at least min_s ({self.min_s:g})",
                ),
                (self.trim_s >= 0, "trim_s", self.trim_s, "0 or more"),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The signals of a source, and its cuts where a step looks for them."""
        ports = {"signals": Port(kind="signals"), "cuts": Port(kind="cuts", required=False)}
        return Inputs(ports=ports, depends=("source_id",))

    def process(self, row: Row) -> Row:
        """The clips of one source."""
        from data_prep.shots.spans import SpanConfig, clip_spans
        from data_prep.signals.store import read_signals
        from data_prep.sources.counting import times_rise

        table = read_signals(self.workspace, row["signals"], ("pts", "time_s", "said"))
        config = SpanConfig(**{name: getattr(self.config, name) for name in ("min_s", "max_s", "trim_s")})
        if row["cuts"] is None:
            config = SpanConfig(min_s=0, max_s=0, trim_s=0)
        spans = clip_spans(shots_of(row["cuts"], table.num_rows), table, config)
        _, seconds = frame_times(table)
        rise = times_rise(table)
        return {"rows": [{**_row(row["source_id"], span, seconds), "addressable": rise} for span in spans]}


def shots_of(cuts: Row | None, n_frames: int) -> Any:
    """What the detector found, from its stored rows."""
    from stages.core.measures.shots.detector import Shots, Transition

    rows = cuts["rows"] if cuts else []
    kept = [r for r in rows if r["kind"] != TRIM]
    transitions = [Transition(r["kind"], r["first_frame"], r["last_frame"], r["score"]) for r in kept]
    trims = [r for r in rows if r["kind"] == TRIM]
    first = max((r["last_frame"] for r in trims if r["first_frame"] == 0), default=0)
    end = min((r["first_frame"] for r in trims if r["first_frame"] > 0), default=n_frames)
    return Shots(tuple(sorted(transitions, key=lambda t: t.first_frame)), first, end)


def _row(source_id: str, span: Any, seconds: Any) -> Row:
    clip_id = digest("clip", source_id, span.start_pts, span.end_pts)
    return {
        "id": clip_id,
        "clip_id": clip_id,
        "source_id": source_id,
        "start_frame": span.start_frame,
        "end_frame": span.end_frame,
        "n_frames": span.end_frame - span.start_frame,
        "start_pts": span.start_pts,
        "end_pts": span.end_pts,
        "start_s": float(seconds[span.start_frame]),
        "end_s": float(seconds[span.end_frame]),
        "boundary_in": span.boundary_in,
        "boundary_out": span.boundary_out,
    }
