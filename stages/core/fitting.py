"""A picture of one shape in a frame of another: cut off, with bars, or stretched; and what that does, in words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stages.core.errors import BadInput

Picture = npt.NDArray[np.uint8]
"""RGB [H, W, 3], 0 to 255."""

FITS = ("crop", "pad", "stretch")
"""crop keeps the middle and fills the frame, pad keeps the whole picture and adds black bars, stretch changes its
shape."""


def fit_picture(picture: Picture, width: int, height: int, fit: str = "crop") -> Picture:
    """The picture as [height, width, 3]. Raises BadInput for a word that is not in FITS."""
    wide, high = picture.shape[1], picture.shape[0]
    if check_fit(fit) == "pad":
        inner_w, inner_h = _inside(wide, high, width, height)
        framed = np.zeros((height, width, 3), np.uint8)
        x, y = (width - inner_w) // 2, (height - inner_h) // 2
        framed[y : y + inner_h, x : x + inner_w] = _resized(picture, inner_w, inner_h)
        return framed
    cut_w, cut_h = _kept(wide, high, width, height) if fit == "crop" else (wide, high)
    x, y = (wide - cut_w) // 2, (high - cut_h) // 2
    return _resized(picture[y : y + cut_h, x : x + cut_w], width, height)


def _resized(picture: Picture, width: int, height: int) -> Picture:
    """Scaled without aliasing, also where one side shrinks and the other grows: each in a pass of its own."""
    import cv2

    for wide, high, method in (
        (min(width, picture.shape[1]), min(height, picture.shape[0]), cv2.INTER_AREA),
        (width, height, cv2.INTER_CUBIC),
    ):
        if picture.shape[:2] != (high, wide):
            scaled = cv2.resize(np.ascontiguousarray(picture), (wide, high), interpolation=method)
            picture = np.asarray(scaled, dtype=np.uint8)
    return np.ascontiguousarray(picture)


def fit_text(wide: int, high: int, width: int, height: int, fit: str = "crop") -> str:
    """What fitting a picture of `wide` x `high` pixels into `width` x `height` does to it; "" where it keeps all of it
    as it is, but for less than half a percent. Raises BadInput for a word that is not in FITS."""
    if check_fit(fit) == "crop":
        kept_w, kept_h = _kept(wide, high, width, height)
        cut = [(1 - kept_w / wide, "width"), (1 - kept_h / high, "height")]
        return next((f"{_percent(share)} of its {side} was cut off" for share, side in cut if _counts(share)), "")
    if fit == "pad":
        inner_w, inner_h = _inside(wide, high, width, height)
        bars = [(1 - inner_w / width, "left and right"), (1 - inner_h / height, "above and below")]
        text = "black bars {} fill {} of the frame"
        return next((text.format(where, _percent(share)) for share, where in bars if _counts(share)), "")
    ratio = (width / height) / (wide / high)
    side, factor = ("width", ratio) if ratio > 1 else ("height", 1 / ratio)
    return f"its {side} was stretched by {_percent(factor - 1)}" if _counts(factor - 1) else ""


def check_fit(fit: str) -> str:
    """The word itself. Raises BadInput where it is not in FITS."""
    if fit not in FITS:
        raise BadInput(f"fit is {fit!r}; it must be one of {', '.join(FITS)}")
    return fit


def _kept(wide: int, high: int, width: int, height: int) -> tuple[int, int]:
    """Size of the middle of a picture that has the shape of the frame."""
    scale = max(width / wide, height / high)
    return max(1, round(width / scale)), max(1, round(height / scale))


def _inside(wide: int, high: int, width: int, height: int) -> tuple[int, int]:
    """Size of the whole picture, scaled to fit into the frame."""
    scale = min(width / wide, height / high)
    return max(1, round(wide * scale)), max(1, round(high * scale))


def _counts(share: float) -> bool:
    return share >= 0.005


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
