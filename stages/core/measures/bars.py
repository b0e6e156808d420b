"""Black bars around the picture: letterbox above and below, pillarbox at the sides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_DARK, _BLACK_LINE, _LOGO_LINE, _LEAST, _UNEQUAL = 24, 0.88, 0.5, 0.012, 0.04


class Bars(NamedTuple):
    """The share of the height (top, bottom) or width (left, right) that each bar takes, 0 to 1."""

    top: float
    bottom: float
    left: float
    right: float

    @property
    def letterbox(self) -> float:
        """The share of the height under bars."""
        return self.top + self.bottom

    @property
    def pillarbox(self) -> float:
        """The share of the width under bars."""
        return self.left + self.right

    def crop(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The picture within the bars as (x, y, width, height) in pixels, on even pixels."""
        x, y = round(self.left * width / 2) * 2, round(self.top * height / 2) * 2
        right, bottom = round((1 - self.right) * width / 2) * 2, round((1 - self.bottom) * height / 2) * 2
        return x, y, max(2, right - x), max(2, bottom - y)


def bars(luma: npt.NDArray[np.uint8]) -> Bars | None:
    """The bars of one frame from its luma [h, w] on the full scale; None where everything is black.

    A line of a bar is black for 88 % of it; lines black for half of it may lie between, so a logo or a subtitle in the
    bar does not hide it. Bars come in pairs: a dark area on one side only is picture.
    """
    dark = luma < _DARK
    top, bottom = _ends(dark.mean(1))
    if top + bottom >= len(luma):
        return None
    left, right = _ends(dark[top : len(luma) - bottom].mean(0))
    if left + right >= luma.shape[1]:
        return None
    height, width = luma.shape
    return Bars(*_pair(top / height, bottom / height), *_pair(left / width, right / width))


def _pair(one: float, other: float) -> tuple[float, float]:
    return (one, other) if min(one, other) >= _LEAST and abs(one - other) <= _UNEQUAL else (0.0, 0.0)


def lasting(found: Iterable[Bars]) -> Bars | None:
    """The bars that are there in every one of several frames; None where no frame tells."""
    columns = list(zip(*found, strict=True))
    return Bars(*(min(c) for c in columns)) if columns else None


def _ends(dark: npt.NDArray[np.floating]) -> tuple[int, int]:
    """How many lines at either end belong to bars, from the share of each line that is dark."""
    lit = np.flatnonzero(dark < _LOGO_LINE)
    if not len(lit):
        lit = np.flatnonzero(dark < _BLACK_LINE)
    if not len(lit):
        return len(dark), 0
    black = dark >= _BLACK_LINE
    head, tail = np.flatnonzero(black[: lit[0]]), np.flatnonzero(black[: lit[-1] : -1])
    return (int(head[-1]) + 1 if len(head) else 0), (int(tail[-1]) + 1 if len(tail) else 0)
