"""What can be measured of a finished clip from its frames alone, without a model: the metrics of QC.

    found = measure_take(frames, fps)     # frames uint8 RGB [F, H, W, 3]
    found["flicker"]

Frames are looked at one by one, small, so that memory does not grow with a clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from stages.core.measures.constancy import brightness_step, colour_drift, relative_flicker
from stages.core.measures.held import change, doubled_share, frozen_share, held_pairs
from stages.core.measures.motion import LONG_SIDE as SMALL_SIDE
from stages.core.measures.motion import optical_flow
from stages.core.measures.sharpness import LONG_SIDE, edge_blur, sharpness, size_at
from stages.core.measures.shots.detector import PRESETS, find_in
from stages.core.measures.signature import picture_cells, signature

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
T = TypeVar("T", bound=np.generic)

_DETAILS, _KEYS = 12, 9
_SHARP = 0.75
"""Sigma, in pixels, of the sharpest edges that an encoded picture has, as its colours have half its size."""
_FASTEST = 0.05
_BLANK = 1.0
"""Spread of red, green and blue, in grey levels, below which a frame is blank."""
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def measure_take(frames: U8, fps: float) -> dict[str, float | None]:
    """The `take_metrics.METRICS` of a clip: uint8 RGB [F, H, W, 3], its frames a second. None: it cannot be told."""
    meter = TakeMeter(len(frames), fps)
    for frame in frames:
        meter.add(frame)
    return meter.result()


class TakeMeter:
    """`measure_take` for frames that come one by one. n_frames: how many are to come, about."""

    def __init__(self, n_frames: int, fps: float) -> None:
        self.fps, self.count = fps, 0
        self._detail_every = max(1, -(-n_frames // _DETAILS))
        self._keys = {round(i * (n_frames - 1) / (_KEYS - 1)) for i in range(_KEYS)}
        self._before: F32 | None = None
        self._key_pictures: list[F32] = []
        self._signatures: list[U8] = []
        self._pairs: list[tuple[float, float, float, float]] = []
        self._blurs: list[float] = []
        self._sharpness: list[float] = []
        self._blank = 0

    def add(self, frame: U8) -> None:
        """The next frame, uint8 RGB [H, W, 3]."""
        height, width = frame.shape[:2]
        side = min(LONG_SIDE, max(width, height))
        picture = _shrunk(frame, size_at(width, height, side))
        small = _shrunk(picture.astype(np.float32), size_at(width, height, SMALL_SIDE))
        luma = np.asarray(small @ _LUMA, np.float32)
        self._signatures.append(signature(*_planes(small)))
        self._blank += bool(small.std(axis=(0, 1)).max() < _BLANK)
        if self.count % self._detail_every == 0:
            self._add_detail(picture, size_at(width, height, LONG_SIDE))
        if self.count in self._keys:
            self._key_pictures.append(small)
        if self._before is not None:
            self._pairs.append(_pair(self._before, luma))
        self._before, self.count = luma, self.count + 1

    def _add_detail(self, picture: U8, size: tuple[int, int]) -> None:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if (sigma := edge_blur(grey)) is not None:
            beyond = float(np.sqrt(max(0.0, sigma**2 - _SHARP**2)))
            self._blurs.append(beyond * max(size) / max(grey.shape))
        if grey.shape[::-1] != size:
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
        self._sharpness.append(sharpness(grey))

    def result(self) -> dict[str, float | None]:
        """The metrics of the frames so far."""
        changes, steps, speeds, errors = np.array(self._pairs, np.float64).reshape(-1, 4).T
        held, moves = held_pairs(changes), len(changes) > 0
        return {
            "flicker": relative_flicker(steps),
            "frozen": frozen_share(held) if moves else None,
            "stutter": doubled_share(held) if moves else None,
            "jerk": _jerk(speeds),
            "blur": float(np.median(self._blurs)) if self._blurs else None,
            "sharpness": float(np.median(self._sharpness)) if self._sharpness else None,
            "cuts": self._cuts(),
            "colour_drift": colour_drift(self._key_pictures),
            "dynamic_degree": float(speeds.mean() * self.fps) if moves else None,
            "warp_error": float(errors.mean()) if moves else None,
            "blank": self._blank / self.count if self.count else None,
        }

    def _cuts(self) -> float | None:
        if self.count < 2:
            return None
        signatures = np.stack(self._signatures)
        return float(len(find_in(signatures, picture_cells(signatures), self.fps, PRESETS["broadcast"]).transitions))


def _shrunk(picture: npt.NDArray[T], size: tuple[int, int]) -> npt.NDArray[T]:
    if picture.shape[1::-1] == size:
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), picture.dtype)


def _planes(picture: F32) -> Iterable[U8]:
    """Luma and chroma of an RGB picture [h, w, 3] in limited range, as decoders give them (BT.709)."""
    luma = picture @ _LUMA
    blue, red = ((picture[..., i] - luma) / (2 * (1 - _LUMA[i])) for i in (2, 0))
    planes = (16 + luma * (219 / 255), 128 + blue * (224 / 255), 128 + red * (224 / 255))
    return [np.clip(np.rint(p), 0, 255).astype(np.uint8) for p in planes]


def _pair(before: F32, after: F32) -> tuple[float, float, float, float]:
    """Of two luma pictures [h, w]: their `change`, the step of the brightness, the speed of the fastest parts in
    diagonals, and what motion leaves unexplained, in grey levels."""
    one, two = (np.clip(np.rint(p), 0, 255).astype(np.uint8) for p in (before, after))
    flow = optical_flow(two, one)
    length = cv2.magnitude(flow[..., 0], flow[..., 1]).ravel()
    count = max(1, round(_FASTEST * length.size))
    speed = float(np.partition(length, length.size - count)[-count:].mean())
    y, x = np.mgrid[0 : one.shape[0], 0 : one.shape[1]].astype(np.float32)
    moved = cv2.remap(before, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = float(np.abs(moved - after).mean())
    return change(before, after), brightness_step(before, after), speed / float(np.hypot(*one.shape)), error


def _jerk(speeds: npt.NDArray[np.float64]) -> float | None:
    """The mean absolute second difference of speeds [n] over their mean; None where nothing moves, or under three."""
    if len(speeds) < 3 or speeds.mean() < 1e-4:
        return None
    bends = [abs(after - now) for now, after in pairwise(np.diff(speeds))]
    return float(np.mean(bends) / speeds.mean())
