"""What is measured on each decoded frame, and the columns it fills."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from data_prep.sources.display import orientation_of, pixel_aspect, square_size
from stages.core.measures.bars import Bars, bars
from stages.core.measures.blockiness import blockiness
from stages.core.measures.luma import brightness
from stages.core.measures.motion import LONG_SIDE as FLOW_SIDE
from stages.core.measures.motion import motion
from stages.core.measures.phash import phash
from stages.core.measures.sharpness import LONG_SIDE as SHARP_SIDE
from stages.core.measures.sharpness import sharpness, size_at
from stages.core.measures.signature import SIZE, signature

ANALYSIS_SIDE = 256
"""The longer side, in pixels, of the picture that the cheap signals are taken of."""

FULL_RANGE = 2
"""AVCOL_RANGE_JPEG."""
_B_PICTURE, _PATIENCE_S = PictureType.B, 0.5
"""Details are taken of frames that are fully decoded: see `signals.DECODER`; after half a second, of any."""

_PER_FRAME = [
    pa.field("frame", pa.int64(), nullable=False),
    pa.field("pts", pa.int64(), nullable=False),
    pa.field("said", pa.int64()),
    pa.field("epoch", pa.int32(), nullable=False),
    pa.field("time_s", pa.float64(), nullable=False),
    pa.field("keyframe", pa.bool_(), nullable=False),
    pa.field("luma", pa.float32(), nullable=False),
    pa.field("contrast", pa.float32(), nullable=False),
    pa.field("black", pa.float32(), nullable=False),
    pa.field("change", pa.float32()),
    pa.field("signature", pa.list_(pa.uint8(), SIZE), nullable=False),
]
_FLOW = [("flow_from", pa.int64()), *[(n, pa.float32()) for n in ("speed", "static", "pan", "tilt", "zoom", "roll")]]
_DETAIL = [
    ("sharpness", pa.float32()),
    ("blockiness", pa.float32()),
    ("phash", pa.uint64()),
    *[(f"bar_{side}", pa.float32()) for side in Bars._fields],
]
FRAMES = pa.schema([*_PER_FRAME, *[pa.field(n, t) for n, t in [*_FLOW, *_DETAIL]]])
"""One row a frame. pts rises strictly (see `signals.Clock`), said is what the container said, epoch how often its times
had jumped before. time_s counts from the first frame. luma, contrast (0-255 scale) and black (share of black pixels)
are of this frame, change is the mean absolute luma difference to the frame before. Null where not sampled: flow against
frame `flow_from` (units of `measures.motion.Motion`), and the details: sharpness at 512 pixels, blockiness at coded
pixels, a 64-bit perceptual hash, and the share of each black bar."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How often the costly signals are taken, in Hz of the source's own time (at the most, as frames are whole).

    flow        optical flow: motion, static share, camera; each against the frame before by this rate
    detail      sharpness, blockiness, perceptual hash, bars
    thumbnails  pictures, at the most
    """

    flow: float = 8.0
    detail: float = 1.0
    thumbnails: float = 1.0


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG picture of one frame, 256 pixels on its longer side, as displayed."""

    frame: int
    pts: int
    jpeg: bytes


class FrameMeter:
    """Measures frames one after the other and hands their rows out in batches."""

    def __init__(self, first: Any, stream: Any, rates: Rates, most_thumbnails: int) -> None:
        self.turn = orientation_of(first)
        wide = square_size(first.width, first.height, pixel_aspect(stream))
        self.display = self.turn.size(*wide)
        self.size = size_at(*wide, ANALYSIS_SIDE)
        self.sharp_size = size_at(*wide, SHARP_SIDE)
        self.flow_size = size_at(*self.display, FLOW_SIDE)
        self.time_base, self.rates = float(stream.time_base), rates
        self.thumbnails: list[Thumbnail] = []
        self.bars: list[Bars] = []
        self._most_thumbnails, self._picture_gap = most_thumbnails, 1 / rates.thumbnails
        self._frame, self._first_pts = 0, 0
        self._scaler = VideoReformatter()
        self._before: np.ndarray | None = None
        self._flow: tuple[int, float, np.ndarray] | None = None
        self._next_detail = self._next_picture = 0.0
        self._rows: dict[str, list[Any]] = {name: [] for name in FRAMES.names}

    @property
    def pending(self) -> int:
        """How many rows wait to be handed out."""
        return len(self._rows["frame"])

    def flush(self) -> pa.RecordBatch:
        """The rows measured since the last flush."""
        flat = pa.array(np.concatenate(self._rows["signature"]))
        columns = {
            name: pa.array(values, FRAMES.field(name).type)
            for name, values in self._rows.items()
            if name != "signature"
        }
        columns["signature"] = pa.FixedSizeListArray.from_arrays(flat, SIZE)
        self._rows = {name: [] for name in FRAMES.names}
        return pa.record_batch([columns[name] for name in FRAMES.names], schema=FRAMES)

    def measure(self, frame: Any, pts: int, said: int | None, epoch: int) -> None:
        """Add the row of the next frame: its time, what its container said, and its epoch; see FRAMES."""
        if self._frame == 0:
            self._first_pts = pts
        now = (pts - self._first_pts) * self.time_base
        small = self._scaler.reformat(frame, *self.size, "yuv420p", interpolation="FAST_BILINEAR", threads=1)
        y, u, v = (self.turn.apply(plane) for plane in planes(small))
        luma, contrast, black = brightness(y, limited=small.color_range != FULL_RANGE)
        change = None if self._before is None else cv2.norm(y, self._before, cv2.NORM_L1) / y.size
        row = {
            "frame": self._frame,
            "pts": pts,
            "said": said,
            "epoch": epoch,
            "time_s": now,
            "keyframe": bool(frame.key_frame),
            "luma": luma,
            "contrast": contrast,
            "black": black,
            "change": change,
            "signature": signature(y, u, v),
        }
        row |= self._flow_row(y, now)
        if now >= self._next_detail and (frame.pict_type != _B_PICTURE or now >= self._next_detail + _PATIENCE_S):
            row |= self._detail_row(frame, y)
            self._next_detail = now + 1 / self.rates.detail - 1e-6
        if now >= self._next_picture:
            self._keep_picture(y, u, v, pts, now)
        for name, values in self._rows.items():
            values.append(row.get(name))
        self._before, self._frame = y, self._frame + 1

    def _flow_row(self, y: np.ndarray, now: float) -> dict[str, Any]:
        if self._flow is not None and now - self._flow[1] < 0.85 / self.rates.flow:
            return {}
        small = cv2.resize(y, self.flow_size, interpolation=cv2.INTER_AREA)
        before, self._flow = self._flow, (self._frame, now, small)
        if before is None or now - before[1] > 1.0:
            return {}
        return {"flow_from": before[0], **vars(motion(before[2], small, now - before[1]))}

    def _detail_row(self, frame: Any, y: np.ndarray) -> dict[str, Any]:
        grey = frame.reformat(*self.sharp_size, format="gray", interpolation="AREA", threads=1)
        picture = self.turn.apply(planes(grey)[0])
        row = {"sharpness": sharpness(picture), "blockiness": _coded(frame, blockiness), "phash": phash(y)}
        if (found := bars(picture)) is not None:
            self.bars.append(found)
            row |= {f"bar_{side}": share for side, share in found._asdict().items()}
        return row

    def _keep_picture(self, y: np.ndarray, u: np.ndarray, v: np.ndarray, pts: int, now: float) -> None:
        if len(self.thumbnails) >= self._most_thumbnails:
            self.thumbnails = self.thumbnails[::2]
            self._picture_gap *= 2
        big = [cv2.resize(c, y.shape[::-1], interpolation=cv2.INTER_LINEAR) for c in (v, u)]
        picture = cv2.cvtColor(cv2.merge([y, *big]), cv2.COLOR_YCrCb2BGR)
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        self.thumbnails.append(Thumbnail(self._frame, pts, jpeg))
        self._next_picture = now + self._picture_gap - 1e-6


def signature_of(frame: Any, stream: Any) -> tuple[np.ndarray, bool]:
    """The signature of a frame, made as the pass makes it: uint8 [864], and whether its values are of full
    range (0 to 255, not 16 to 235)."""
    turn = orientation_of(frame)
    size = size_at(*square_size(frame.width, frame.height, pixel_aspect(stream)), ANALYSIS_SIDE)
    small = frame.reformat(*size, "yuv420p", interpolation="FAST_BILINEAR", threads=1)
    return signature(*(turn.apply(plane) for plane in planes(small))), small.color_range == FULL_RANGE


def planes(frame: Any) -> list[np.ndarray]:
    """The 8-bit planes of a frame as views [h, w], valid as long as the arrays are held."""
    return [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]


def _coded(frame: Any, measure: Callable[[np.ndarray], float | None]) -> float | None:
    """A measure of the luma plane as coded; None for pixel formats without one of 8 bits or of 9 to 16."""
    name, component = frame.format.name, frame.format.components[0]
    if not (name.startswith(("yuv", "gray")) and frame.format.is_planar) and name != "nv12":
        return None
    plane = frame.planes[0]
    kind = np.uint8 if component.bits == 8 else np.uint16
    stride = plane.line_size // np.dtype(kind).itemsize
    luma = np.frombuffer(plane, kind).reshape(plane.height, stride)[:, : frame.width]
    return measure(luma if kind == np.uint8 else (luma >> (component.bits - 8)).astype(np.uint8))
