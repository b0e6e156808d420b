"""Motion between two frames a short time apart: how fast things move, and how the camera does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

LONG_SIDE = 128
"""The longer side, in pixels, at which flow is computed."""
_STATIC_SPEED, _STATIC_PIXELS, _TEXTURE = 0.005, 0.1, 4.0
_RIDGE = 1e-6 * np.eye(4)


@dataclass(frozen=True)
class Motion:
    """Speeds per second, lengths as shares of the picture's diagonal.

    speed   mean length of the flow: 0.01 is a hundredth of the diagonal a second
    static  share of the picture that moves slower than 0.005 (or a tenth of a pixel of the flow field in all), 0-1
    pan     camera to the right (what is seen moves left), per second; tilt: camera down
    zoom    growth of the picture per second, 0.1 is 10 % (positive: nearer)
    roll    turn of what is seen in radians per second, clockwise
    """

    speed: float
    static: float
    pan: float
    tilt: float
    zoom: float
    roll: float


@lru_cache(maxsize=1)
def _dis() -> Any:
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flow.setFinestScale(1)  # the preset's 2 sees only four fifths of a zoom
    return flow


def optical_flow(before: U8, after: U8) -> F32:
    """Dense flow [h, w, 2] in pixels (x to the right, y down) between two luma pictures [h, w] of the same size.

    T. Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016, as OpenCV's ultrafast preset, one
    scale finer.
    """
    return np.asarray(_dis().calc(before, after, None), np.float32)


def motion(before: U8, after: U8, seconds: float) -> Motion:
    """How the picture moved between two luma pictures [h, w] that lie `seconds` apart (longer side 128 pixels)."""
    flow = optical_flow(before, after)
    height, width = before.shape
    diagonal = float(np.hypot(height, width))
    length = cv2.magnitude(flow[..., 0], flow[..., 1])
    still = max(_STATIC_PIXELS, _STATIC_SPEED * diagonal * seconds)
    x, y, zoom, roll = camera_step(flow, before)
    return Motion(
        speed=float(length.mean()) / diagonal / seconds,
        static=float((length < still).mean()),
        pan=-x / diagonal / seconds,
        tilt=-y / diagonal / seconds,
        zoom=zoom / seconds,
        roll=roll / seconds,
    )


def camera_step(flow: F32, luma: U8) -> tuple[float, float, float, float]:
    """The shift x, y (pixels), growth and turn (radians) of the whole picture that explain most of a flow [h, w, 2].

    A similarity transform about the picture's middle by reweighted least squares, so that what moves by itself counts
    little; flat areas, where flow is a guess, do not count.
    """
    design, picks, gradient = _design(*luma.shape)
    vectors = flow.reshape(-1, 2)[picks].astype(np.float64)
    target = vectors.T.ravel()
    level = luma.ravel()[gradient].astype(np.float64)
    texture = np.minimum(1.0, (np.abs(level[0] - level[1]) + np.abs(level[2] - level[3])) / _TEXTURE) + 1e-3
    weight, step = np.tile(texture, 2), np.zeros(4)
    for _ in range(3):
        weighted = design.T * weight
        step = np.linalg.solve(weighted @ design + _RIDGE, weighted @ target)
        left = (target - design @ step) ** 2
        off = left[: len(picks)] + left[len(picks) :]
        scale = max(0.15, 1.5 * float(np.sqrt(np.partition(off, len(off) // 2)[len(off) // 2])))
        weight = np.tile(texture / (1.0 + off / scale**2) ** 2, 2)
    return float(step[0]), float(step[1]), float(step[2]), float(step[3])


@lru_cache(maxsize=8)
def _design(height: int, width: int) -> tuple[F64, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The similarity model at a grid of points, their flat indices, and those of their four neighbours."""
    ys, xs = np.mgrid[3 : height - 3 : 7, 3 : width - 3 : 7]
    picks = (ys * width + xs).ravel()
    x, y = xs.ravel() - (width - 1) / 2, ys.ravel() - (height - 1) / 2
    one, none = np.ones_like(x), np.zeros_like(x)
    rows_x, rows_y = np.stack([one, none, x, -y], 1), np.stack([none, one, y, x], 1)
    around = np.stack([picks + 1, picks - 1, picks + width, picks - width])
    return np.concatenate([rows_x, rows_y]), picks, around
