"""Blocks left by compression: steps on the 8 x 8 grid that the picture itself does not have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GRID = 8
CROP = 512


def blockiness(luma: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> float | None:
    """How much greater the steps across block edges are than those elsewhere: 0 none, 1 twice as great; never negative.

    luma is the plane [h, w] as coded, before any scaling, as the grid is at coded pixels; the middle 512 x 512 are
    looked at. None where it is too small to tell. After Z. Wang, A. Bovik, B. Evans, "Blind measurement of blocking
    artifacts in images", ICIP 2000, in the spatial domain.
    """
    height, width = luma.shape
    if height < 4 * GRID or width < 4 * GRID:
        return None
    top, left = (max(0, (side - CROP) // 2) // GRID * GRID for side in (height, width))
    part = luma[top : top + CROP, left : left + CROP].astype(np.int32)
    return max(0.0, (_excess(part) + _excess(part.T)) / 2)


def _excess(part: npt.NDArray[np.int32]) -> float:
    steps = np.abs(np.diff(part, axis=1)).mean(0, dtype=np.float64)
    at_edge = np.arange(len(steps)) % GRID == GRID - 1
    return float((steps[at_edge].mean() + 0.25) / (steps[~at_edge].mean() + 0.25) - 1.0)
