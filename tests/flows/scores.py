"""Scores of one's own for tests: a row per clip from its span alone."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from stages.core.step import Inputs, Port, Row, Step


class Halves(Step):
    """Half the number of a clip's frames."""

    kind = "scores"
    fan_out = True
    writes = pa.schema([("clip_id", pa.string()), ("halves", pa.float64())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"clips": Port(kind="clips")})

    def process(self, row: Row) -> Row:
        return {"rows": [{"clip_id": c["clip_id"], "halves": c["n_frames"] / 2} for c in row["clips"]["rows"]]}


class Signs(Step):
    """A text that is said to be readable in every clip."""

    kind = "scores"
    fan_out = True
    writes = pa.schema([("clip_id", pa.string()), ("text", pa.string())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"clips": Port(kind="clips")})

    def process(self, row: Row) -> Row:
        return {"rows": [{"clip_id": c["clip_id"], "text": "EXIT"} for c in row["clips"]["rows"]]}
