"""What the camera does over a clip, from its motion between frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

LABELS = ("static", "pan", "tilt", "zoom", "roll", "handheld")
_MOVES, _SHAKES = 0.015, 0.02
_LEVER = 0.26  # mean distance of a pixel from the middle, as a share of the diagonal (16:9)


def shake(pan: F64, tilt: F64, seconds: F64) -> float:
    """The jitter of the camera: rms speed about its smooth course, in diagonals per second.

    pan and tilt [n] are speeds at successive times, each over `seconds` [n]. The smooth course is a moving average over
    half a second; a steady or slowly changing pan gives about 0, a shake to and fro its rms speed.
    """
    if len(pan) < 3:
        return 0.0
    window = max(3, round(0.5 / max(float(np.median(seconds)), 1e-3)) | 1)
    off = [series - _smooth(series, min(window, len(series))) for series in (pan, tilt)]
    return float(np.sqrt(np.mean(off[0] ** 2 + off[1] ** 2)))


def _smooth(series: F64, window: int) -> F64:
    kernel = np.ones(window)
    count = np.convolve(np.ones_like(series), kernel, mode="same")
    return np.asarray(np.convolve(series, kernel, mode="same") / count)


def camera_motion(pan: F64, tilt: F64, zoom: F64, roll: F64, jitter: float) -> str:
    """One of static, pan, tilt, zoom, roll, handheld, from speeds [n] (see `motion.Motion`) and the clip's shake.

    The greatest of the mean speeds names the move, if it carries the picture by 0.015 of the diagonal a second or more
    and does not drown in the jitter; turning and zooming count by what they do to a typical pixel.
    """
    if not len(pan):
        return "static"
    speeds = {
        "pan": abs(float(np.mean(pan))),
        "tilt": abs(float(np.mean(tilt))),
        "zoom": _LEVER * abs(float(np.mean(zoom))),
        "roll": _LEVER * abs(float(np.mean(roll))),
    }
    name = max(speeds, key=lambda key: speeds[key])
    if speeds[name] >= max(_MOVES, 0.7 * jitter):
        return name
    return "handheld" if jitter >= _SHAKES else "static"
