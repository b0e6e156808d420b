"""Edges or motion of footage as a lossless video, which a clip then follows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.core.condition_video import iter_clip
from stages.core.conditions import read_conditions
from stages.core.errors import BadInput, require
from stages.core.fitting import check_fit, fit_picture, fit_text
from stages.core.latents.artifacts import SIZE, media_of
from stages.core.lossless import SUFFIX, LosslessWriter
from stages.core.media import Frames
from stages.core.step import ARTIFACT, Inputs, Resources, Row, Step

MADE = ("edges", "flow")
"""The signals that are measured here; depth and pose come as files."""
STEEPEST = 2040
"""The largest gradient of Canny's filter."""


class Control(Step):
    """Loads no weights. Applies to takes whose `control` names `footage`; `see` is handed what it makes.

    The footage is first brought to the size and the frame rate of the take, so that lines stay thin, and motion is that
    from one frame of the clip to the next. `note` of a row says what was cut off, added or stretched.
    """

    kind = "control"
    writes = pa.schema([*ARTIFACT, *SIZE, ("signal", pa.string()), ("note", pa.string()),
                        ("made_from", pa.list_(pa.string()))])  # fmt: skip
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How edges and motion are drawn.

        edges_low   [0 to 2040] gradient above which a line goes on
        edges_high  [0 to 2040] gradient above which a line begins; raise both for fewer lines
        flow_full   [from 0] motion from frame to frame, in pixels, that has its full colour; 0 is the largest one of
                    each clip
        """

        edges_low: float = 100.0
        edges_high: float = 200.0
        flow_full: float = 0.0

        def __post_init__(self) -> None:
            require(
                (0 <= self.edges_low <= self.edges_high, "edges_low", self.edges_low, "0 or more, at most edges_high"),
                (self.edges_high <= STEEPEST, "edges_high", self.edges_high, f"at most {STEEPEST}"),
                (self.flow_full >= 0, "flow_full", self.flow_full, "0 or more"),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The footage by its content, the signal, and the shape of the take; where the footage lies is carried."""
        return Inputs(
            depends=("footage", "conditions", "width", "height", "frames", "fps", "fit"),
            carries=("media",),
            when=("footage",),
        )

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a signal that is not measured here, and for an unknown way to fit the footage."""
        check_fit(values["fit"])
        if (signal := signal_of(values)) not in MADE:
            raise BadInput(
                f"control: {signal} is not made from footage, only {' and '.join(MADE)} are: give a `video` of {signal}"
            )

    def process(self, row: Row) -> Row:
        """The signal of one take's footage. Raises BadMedia for footage that is broken or too short."""
        footage, signal = Footage(self.workspace.read(media_of(row, row["footage"])), row), signal_of(row)
        with tempfile.TemporaryDirectory(prefix="rushes-") as folder:
            target = Path(folder) / f"control{SUFFIX}"
            with LosslessWriter(target, row["fps"]) as video:
                for picture in self._drawn(footage, signal):
                    video.write(picture[None])
            made = self.workspace.put_file(target, SUFFIX)
        return {
            **made,
            "width": row["width"],
            "height": row["height"],
            "n_frames": video.count,
            "fps": float(row["fps"]),
            "signal": signal,
            "note": fit_text(*footage.size, row["width"], row["height"], row["fit"]),
            "made_from": [row["footage"]],
        }

    def _drawn(self, footage: Footage, signal: str) -> Iterator[Frames]:
        """Each frame's picture [H, W, 3]."""
        from stages.core.measures.control import edges, flow_colours

        if signal == "edges":
            yield from (edges(luma, self.config.edges_low, self.config.edges_high) for luma in footage.lumas())
            return
        full = self.config.flow_full or max(longest(flow) for flow in flows(footage))
        yield from (flow_colours(flow, full) for flow in flows(footage))


@dataclass
class Footage:
    """The footage of a take in the take's own shape; `size` is its own width and height, once it was read."""

    data: bytes
    take: Row
    size: tuple[int, int] = (0, 0)

    def lumas(self) -> Iterator[Any]:
        """The luma [H, W] of each frame."""
        import cv2

        for frame in iter_clip(self.data, self.take["frames"], self.take["fps"]):
            self.size = frame.shape[1], frame.shape[0]
            fitted = fit_picture(frame, self.take["width"], self.take["height"], self.take["fit"])
            yield cv2.cvtColor(fitted, cv2.COLOR_RGB2GRAY)


def flows(footage: Footage) -> Iterator[Any]:
    """The dense flow [H, W, 2] in pixels that leads to each frame; of the first one, that which leads on
    from it. A single frame stands still."""
    import numpy as np

    from stages.core.measures.motion import optical_flow

    before, count = None, 0
    for luma in footage.lumas():
        if before is not None:
            flow = optical_flow(before, luma)
            yield from [flow] if count > 1 else [flow, flow]
        before, count = luma, count + 1
    if count == 1 and before is not None:
        yield np.zeros((*before.shape, 2), np.float32)


def longest(flow: Any) -> float:
    """The longest motion of a flow, in pixels."""
    import numpy as np

    return float(np.hypot(flow[..., 0], flow[..., 1]).max())


def signal_of(values: Row) -> str:
    """The signal of a take's control."""
    return next((c.role or "" for c in read_conditions(values["conditions"]) if c.kind == "control"), "")
