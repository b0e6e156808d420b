"""Whether light and colour stay as they are over a clip, whatever moves in it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from stages.core.measures.motion import optical_flow

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_LIT, _FULL = 16.0, 240.0
"""Grey levels between which a pixel has brightness that can be told in per cent, and has room to change."""
_ENOUGH = 0.01
"""The least share of the picture that must be lit, or be seen in both of two frames, to say anything."""
_OUTLIERS = 0.1
"""The share of the steps, the largest, that do not count for flicker: a cut is none."""
_SAME_PLACE, _FEWEST = 1.0, 0.2
_BLACK, _WHITE = 6.0, 249.0
_TEXTURE = 4.0


def brightness_step(before: F32, after: F32) -> float:
    """By which share the light of a picture has changed from one frame to the next: 0.04 is 4 % brighter.

    before, after: luma [h, w], 0-255. The median over pixels that are lit in both: what moves changes some pixels one
    way and some the other, and light changes all alike. Of these the brighter half counts, where a per cent is more
    than what encoders round off, and white ones do not where there are others. nan where next to nothing is lit.
    """
    lit = (before > _LIT) & (after > _LIT)
    graded = lit & (before < _FULL) & (after < _FULL)
    where = graded if graded.mean() >= _ENOUGH else lit
    if where.mean() < _ENOUGH:
        return float("nan")
    one, two = before[where], after[where]
    both = one + two
    bright = both >= np.median(both)
    return float(np.median(2 * (two - one)[bright] / both[bright]))


def relative_flicker(steps: F64) -> float | None:
    """How much the light flutters, as a share of it: the mean absolute second difference of the brightness, from the
    `brightness_step` of all pairs of frames [n].

    Light that alternates by 4 % gives 0.08. A steady change gives 0. The largest tenth does not count, as it may be a
    cut. None under three frames, or where it is dark throughout.
    """
    bends = np.abs(np.diff(steps))
    bends = np.sort(bends[np.isfinite(bends)])
    if not len(bends):
        return None
    return float(bends[: max(1, int(np.ceil((1 - _OUTLIERS) * len(bends))))].mean())


def lab_of(picture: F32) -> F32:
    """CIE L*a*b* (D65) of an sRGB picture [h, w, 3], 0-255."""
    return np.asarray(cv2.cvtColor(picture / np.float32(255), cv2.COLOR_RGB2LAB), np.float32)


def colour_drift(pictures: Sequence[F32]) -> float | None:
    """How far colours stray from those at the beginning, in CIE76 delta E: of RGB pictures [h, w, 3], 0-255, that are
    some frames of one clip in their order.

    From one picture to the next the same surfaces are compared, found by dense optical flow there and back; black and
    white ones, whose colour is clipped, do not count where there are others. The median shift of each step is added up.
    Steps over which nothing is found again count as none. None where no step tells anything.
    """
    shifts = [s for s in map(_shift, pictures[:-1], pictures[1:]) if s is not None]
    if not shifts:
        return None
    return float(np.linalg.norm(np.cumsum(shifts, axis=0), axis=1).max())


def _shift(before: F32, after: F32) -> F64 | None:
    """The median change of L*, a* and b* [3] of what both pictures show."""
    lumas = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (before, after)]
    mean = [float(p.mean()) for p in lumas]
    lumas[1] = lumas[1] + (mean[0] - mean[1])  # a change of light must not look like motion
    one, two = (np.clip(p, 0, 255).astype(np.uint8) for p in lumas)
    there, back = _flow(one, two), _flow(two, one)
    y, x = np.mgrid[0 : one.shape[0], 0 : one.shape[1]].astype(np.float32)
    x, y = x + there[..., 0], y + there[..., 1]
    returned = cv2.remap(back, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (x >= 0) & (x <= one.shape[1] - 1) & (y >= 0) & (y <= one.shape[0] - 1)
    same = inside & (np.linalg.norm(there + returned, axis=2) < _SAME_PLACE)
    if same.mean() < _FEWEST:
        return None
    moved = cv2.remap(after, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    coloured = same & _graded(before) & _graded(moved)
    where = coloured if coloured.mean() >= _ENOUGH else same
    return np.asarray(np.median((lab_of(moved) - lab_of(before))[where], axis=0), np.float64)


def _flow(before: U8, after: U8) -> F32:
    """Optical flow [h, w, 2], none where there is no texture: on a gradient, light that changes looks like motion."""
    across, down = (cv2.Sobel(before, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    drawn = cv2.dilate((np.hypot(across, down) >= _TEXTURE).astype(np.uint8), np.ones((5, 5), np.uint8))
    return np.asarray(optical_flow(before, after) * drawn[..., None].astype(np.float32))


def _graded(picture: F32) -> Mask:
    """Where a picture is neither black nor white."""
    return np.asarray((picture.max(axis=2) > _BLACK) & (picture.min(axis=2) < _WHITE))
