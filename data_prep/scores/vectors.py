"""One embedding of each clip by a CLIP-like model, for the step `text_match`. Weights by path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from data_prep.models.clip_model import CHECKPOINT_ADVICE
from data_prep.sources.carried import FILE
from stages.core.errors import BadInput, require
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import device_rule


class Vectors(Step):
    """A row per clip: clip_vector, the mean of the unit vectors of its pictures, so that its product with the vector
    of a text is their mean cosine. Null where no picture can be read."""

    kind = "scores"
    version = 1
    writes = pa.schema([("clip_id", pa.string()), ("clip_vector", pa.list_(pa.float32()))])
    fan_out = True
    weights = {"clip": ()}  # noqa: RUF012
    resources = Resources(batch_rows=1, memory_gb=3.0)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Which model, and how many pictures of each clip it is shown.

        clip      folder of a CLIP checkpoint, or a hub id in the local cache with a revision; required
        revision  revision of a hub id
        frames    [from 1] pictures of each clip
        device    [auto, cpu, cuda] where the model runs; `auto` is a GPU where there is one
        """

        clip: str = ""
        revision: str = field(default="", metadata={"identity": False})
        frames: int = 3
        device: str = field(default="auto", metadata={"identity": False})

        def __post_init__(self) -> None:
            if not self.clip:
                raise BadInput(f"clip: {CHECKPOINT_ADVICE}")
            require(
                (self.frames >= 1, "frames", self.frames, "at least 1"),
                device_rule(self.device),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips of a source, their times, and where its file lies."""
        return Inputs(ports={"clips": Port(kind="clips"), "signals": Port(kind="signals")}, carries=FILE)

    def setup(self) -> None:
        """Load the model."""
        from data_prep.models.clip_model import TwoTowers

        c = self.config
        self.towers = TwoTowers(c.clip, c.revision, "vectors.clip", c.device, self.workspace.threads)

    def process(self, row: Row) -> Row:
        """The vectors of one source's clips."""
        from data_prep.signals.pictures import Fit, clip_pictures

        pairs = clip_pictures(self.workspace, row, self.config.frames, Fit(short=336))
        return {"rows": [{"clip_id": clip["clip_id"], "clip_vector": self.vector(p)} for clip, p in pairs]}

    def vector(self, pictures: list[Any]) -> list[float] | None:
        """Of pictures [h, w, 3] RGB; None where there are none."""
        return [float(x) for x in self.towers.pictures(pictures).mean(0)] if pictures else None
