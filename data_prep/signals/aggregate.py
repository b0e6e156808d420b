"""A clip's metrics, from the signals of its frames. Nothing is decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.signals.store import signatures_of
from stages.core.measures.bars import Bars, lasting
from stages.core.measures.camera import camera_motion, shake
from stages.core.measures.colours import colour_shares, dominant
from stages.core.measures.luma import flicker
from stages.core.measures.signature import cells_within

METRICS = (
    "motion",
    "static_ratio",
    "shake",
    "camera_motion",
    "luma",
    "contrast",
    "sharpness",
    "flicker",
    "black_ratio",
    "blockiness",
    "letterbox",
    "pillarbox",
)
"""The metrics of `aggregate` that thresholds are set on; beside them it gives bars, phash and colours."""

_COLOUR_FRAMES = 12


def aggregate(table: pa.Table, start_frame: int, end_frame: int) -> dict[str, Any]:
    """The metrics of frames [start_frame, end_frame); None means not measured.

    motion        mean speed of the optical flow, in diagonals a second
    static_ratio  mean share of the picture that does not move, 0-1
    shake         jitter of the camera, rms, in diagonals a second
    camera_motion static, pan, tilt, zoom, roll or handheld
    luma          mean brightness, 0-255; contrast: mean standard deviation of luma
    sharpness     median variance of the Laplacian at 512 pixels
    flicker       mean absolute second difference of the brightness, in grey levels
    black_ratio   mean share of black pixels, 0-1
    blockiness    mean relative excess of the steps at block edges, 0 and up
    letterbox     share of the height under black bars throughout; pillarbox: of the width
    bars          {top, bottom, left, right}, each a share
    phash         one 64-bit hash per sampled frame
    colours       names of the dominant colours
    """
    span = table.slice(start_frame, end_frame - start_frame)
    picture = _bars(span)
    return {
        **_motion(span, start_frame),
        "luma": _mean(span, "luma"),
        "contrast": _mean(span, "contrast"),
        "sharpness": _median(span, "sharpness"),
        "flicker": flicker(np.asarray(span.column("luma"), np.float64)),
        "black_ratio": _mean(span, "black"),
        "blockiness": _mean(span, "blockiness"),
        "letterbox": picture.letterbox if picture else None,
        "pillarbox": picture.pillarbox if picture else None,
        "bars": picture._asdict() if picture else None,
        "phash": pc.drop_null(span.column("phash")).to_pylist(),
        "colours": _colours(table, start_frame, end_frame, picture),
    }


def _motion(span: pa.Table, start_frame: int) -> dict[str, Any]:
    """From the flow whose both frames lie in the span."""
    inside = span.filter(pc.greater_equal(span.column("flow_from"), start_frame))
    if not len(inside):
        return dict.fromkeys(("motion", "static_ratio", "shake", "camera_motion"))
    pan, tilt, zoom, roll = (np.asarray(inside.column(n), np.float64) for n in ("pan", "tilt", "zoom", "roll"))
    times = np.asarray(span.column("time_s"), np.float64)
    origin = np.asarray(inside.column("flow_from"), np.int64) - start_frame
    seconds = np.asarray(inside.column("time_s"), np.float64) - times[origin]
    jitter, static = shake(pan, tilt, seconds), _mean(inside, "static") or 0.0
    return {
        "motion": _mean(inside, "speed"),
        "static_ratio": static,
        "shake": jitter,
        "camera_motion": camera_motion(pan, tilt, zoom, roll, jitter, static),
    }


def _mean(span: pa.Table, name: str) -> float | None:
    """By numpy: Arrow's own sum depends on threads and chunks in its last digits."""
    values = pc.drop_null(span.column(name)).to_numpy()
    return float(np.mean(values, dtype=np.float64)) if len(values) else None


def _median(span: pa.Table, name: str) -> float | None:
    values = pc.drop_null(span.column(name)).to_numpy()
    return float(np.median(values)) if len(values) else None


def _bars(span: pa.Table) -> Bars | None:
    columns = [pc.drop_null(span.column(f"bar_{side}")).to_pylist() for side in Bars._fields]
    return lasting(Bars(*row) for row in zip(*columns, strict=True))


def _colours(table: pa.Table, start: int, end: int, picture: Bars | None) -> list[str]:
    """Of the picture within its bars."""
    picks = np.unique(np.linspace(start, end - 1, _COLOUR_FRAMES).astype(int))
    signatures = np.concatenate([signatures_of(table, int(i), int(i) + 1) for i in picks])
    return dominant(colour_shares(signatures, cells_within(*picture) if picture else None))
