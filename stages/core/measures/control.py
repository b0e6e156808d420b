"""Pictures of a signal that a clip follows: edges, and motion as colours."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

_SPANS = ((15, 0, 1, True), (6, 1, 0, False), (4, 1, 2, True), (11, 2, 1, False), (13, 2, 0, True), (6, 0, 2, False))
"""The colour wheel of Baker et al.: in how many steps, beside which full channel, which other one rises or falls."""


def edges(luma: U8, low: float, high: float) -> U8:
    """Canny's edges [h, w, 3] of a luma picture [h, w]: white lines, one pixel wide, on black.

    low, high: gradients, 0 to 2040 (of Sobel's filter over 3x3 pixels): a line begins where it is above `high`, and
    goes on as long as it stays above `low`. J. Canny, 1986, as OpenCV has it.
    """
    return np.repeat(cv2.Canny(luma, low, high)[..., None], 3, axis=2)


def flow_colours(flow: F32, full: float) -> U8:
    """A dense flow [h, w, 2] in pixels as RGB [h, w, 3]: hue is the direction, and white stands still. A motion of
    `full` pixels has its full colour; a longer one is darker.

    The colour wheel of S. Baker et al., "A database and evaluation methodology for optical flow", IJCV 2011, in which
    control networks for flow are trained.
    """
    wheel = _wheel()
    length = cv2.magnitude(flow[..., 0], flow[..., 1]) / max(full, 1e-6)
    place = (np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi + 1) / 2 * (len(wheel) - 1)
    before = np.floor(place).astype(int) % len(wheel)
    share = (place - np.floor(place))[..., None]
    colour = (1 - share) * wheel[before] + share * wheel[(before + 1) % len(wheel)]
    inside = (length <= 1)[..., None]
    shown = np.where(inside, 1 - length[..., None] * (1 - colour), colour * 0.75)
    return np.asarray(np.floor(255 * shown), np.uint8)


@lru_cache(maxsize=1)
def _wheel() -> F32:
    """[55, 3], 0 to 1: from red by yellow, green, cyan, blue and magenta back to red."""
    rows = np.zeros((sum(count for count, *_ in _SPANS), 3), np.float32)
    start = 0
    for count, full, other, rises in _SPANS:
        share = np.arange(count) / count
        rows[start : start + count, full] = 1
        rows[start : start + count, other] = share if rises else 1 - share
        start += count
    return rows
