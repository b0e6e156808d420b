"""What the camera does over a clip, from its motion between frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

LABELS = ("static", "pan", "tilt", "zoom", "roll", "handheld")
_MOVES, _SHAKES, _STANDS = 0.015, 0.02, 0.8
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


def camera_motion(pan: F64, tilt: F64, zoom: F64, roll: F64, jitter: float, static: float = 0.0) -> str:
    """One of static, pan, tilt, zoom, roll, handheld, from speeds [n] (see `motion.Motion`) and the clip's shake.

    The greatest of the lasting speeds names the move, if it carries the picture by 0.015 of the diagonal a second or
    more and does not drown in the jitter; turning and zooming count by what they do to a typical pixel. `static` is the
    share of the picture that does not move: where nearly all of it stands, so does the camera.
    """
    if not len(pan) or static >= _STANDS:
        return "static"
    speeds = {
        "pan": lasting_speed(pan),
        "tilt": lasting_speed(tilt),
        "zoom": _LEVER * lasting_speed(zoom),
        "roll": _LEVER * lasting_speed(roll),
    }
    name = max(speeds, key=lambda key: speeds[key])
    if speeds[name] >= max(_MOVES, 0.7 * jitter):
        return name
    return "handheld" if jitter >= _SHAKES else "static"


def lasting_speed(series: F64) -> float:
    """The mean of a speed [n], or less: what two fifths of the time reach in that direction. Something large that
    passes before a camera that stands is fast for a moment and does not last."""
    mean = float(np.mean(series))
    return max(0.0, min(abs(mean), float(np.quantile(np.sign(mean) * series, 0.6))))
