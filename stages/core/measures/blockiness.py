"""Blocks left by compression: steps on the 8 x 8 grid that the picture itself does not have."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

GRID = 8
CROP = 512


def blockiness(luma: npt.NDArray[np.uint8]) -> float | None:
    """How much greater the steps across block edges are than those elsewhere: 0 none, 1 twice as great; never negative.

    luma is the plane [h, w] as coded, before any scaling, as the grid is at coded pixels; the middle 512 x 512 are
    looked at. None where it is too small to tell. After Z. Wang, A. Bovik, B. Evans, "Blind measurement of blocking
    artifacts in images", ICIP 2000, in the spatial domain.
    """
    height, width = luma.shape
    if height < 4 * GRID or width < 4 * GRID:
        return None
    top, left = (max(0, (side - CROP) // 2) // GRID * GRID for side in (height, width))
    part = luma[top : top + CROP, left : left + CROP]
    return max(0.0, (_excess(part, 1) + _excess(part, 0)) / 2)


def _excess(part: npt.NDArray[np.uint8], axis: int) -> float:
    one, other = (part[:, 1:], part[:, :-1]) if axis == 1 else (part[1:], part[:-1])
    steps = cv2.reduce(cv2.absdiff(one, other), 1 - axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
    at_edge = np.arange(len(steps)) % GRID == GRID - 1
    return float((steps[at_edge].mean() + 0.25) / (steps[~at_edge].mean() + 0.25) - 1.0)
