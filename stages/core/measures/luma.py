"""Brightness of a frame. Luma is given on the full scale, 0 black to 255 white, in whatever range it is coded."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

BLACK_LEVEL = 0.10  # the same share of white below which ffmpeg's blackdetect calls a pixel black


def brightness(luma: U8, limited: bool = True) -> tuple[float, float, float]:
    """(mean luma, contrast, share of black pixels) of a luma plane [h, w].

    Mean 0-255 and contrast (the standard deviation of luma, 0-127.5) are on the full scale; a pixel counts as black
    below a tenth of white. `limited` says that the plane holds 16-235 rather than 0-255.
    """
    low, scale = (16.0, 255.0 / 219.0) if limited else (0.0, 1.0)
    mean, spread = cv2.meanStdDev(luma)
    limit = low + BLACK_LEVEL * 255.0 / scale
    above = cv2.countNonZero(cv2.threshold(luma, limit, 1, cv2.THRESH_BINARY)[1])
    level = min(255.0, max(0.0, (float(mean[0, 0]) - low) * scale))
    return level, float(spread[0, 0]) * scale, 1.0 - above / luma.size


def flicker(luma: npt.NDArray[np.floating]) -> float:
    """How much the brightness of consecutive frames [n] flutters: mean absolute second difference, in grey levels.

    A steady or steadily changing brightness gives 0, one that alternates by d gives 2 d; under three frames give 0.
    """
    return float(np.abs(np.diff(luma, 2)).mean()) if len(luma) > 2 else 0.0
