"""Measure what a finished video shows, without a model: what `qc` holds against its thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.core.measures.take_metrics import METRICS
from stages.core.step import Inputs, Port, Resources, Row, Step, reason

FAULT = pa.struct([(name, pa.string()) for name in ("metric", "value", "op", "threshold")])


class Measure(Step):
    """Decodes a video once. Null: not measured.

    `faults` says where the file is not what its row says: frames, size, rate, length, colour tags, sound.
    """

    kind = "measures"
    writes = pa.schema([*((name, pa.float64()) for name in METRICS), ("faults", pa.list_(FAULT))])
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """There is nothing to set: thresholds are set under `qc`."""

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The video alone."""
        return Inputs(ports={"video": Port(kind="video")})

    def process(self, row: Row) -> Row:
        """The metrics of one video. A file that cannot be read to its end is a fault, and no error."""
        from stages.core.measures.take import TakeMeter
        from stages.core.media import BadMedia
        from stages.core.video_facts import faults, read_facts

        video = row["video"]
        source: Any = self.workspace.storage.local_path(video["uri"]) or self.workspace.read(video["uri"])
        meter = TakeMeter(video["n_frames"], video["fps"])
        try:
            facts = read_facts(source, meter.add)
        except BadMedia as error:
            return {**dict.fromkeys(METRICS), "faults": [reason("file", str(error), "==", "a whole video")]}
        return {**meter.result(), "faults": faults(facts, video)}
