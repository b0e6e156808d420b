"""Pictures of one shape in frames of another: what is seen of them, and that the words say as much as the pixels."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.errors import BadInput
from stages.core.fitting import FITS, fit_picture, fit_text

sides = st.integers(64, 220)


def ramp(wide: int, high: int) -> np.ndarray:
    """A picture whose red tells how far to the right a pixel is and whose green how far down, from 50 to 250."""
    picture = np.full((high, wide, 3), 200, np.uint8)
    picture[..., 0] = np.linspace(50, 250, wide)[None]
    picture[..., 1] = np.linspace(50, 250, high)[:, None]
    return picture


def seen(fitted: np.ndarray) -> tuple[float, float, float, float]:
    """(share of the width and height of a ramp that is seen, share of the frame's width and height that it fills)."""
    inside = fitted[..., 2] > 100
    columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
    shown = fitted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(int)
    red, green = np.ptp(shown[..., 0]) / 200, np.ptp(shown[..., 1]) / 200
    return red, green, len(columns) / fitted.shape[1], len(rows) / fitted.shape[0]


@given(sides, sides, sides, sides)
def test_each_way_shows_what_it_promises_and_says_what_it_costs(wide, high, width, height):
    picture, blur = ramp(wide, high), 0.06
    for fit in FITS:
        fitted, text = fit_picture(picture, width, height, fit), fit_text(wide, high, width, height, fit)
        assert fitted.shape == (height, width, 3)
        red, green, filled_w, filled_h = seen(fitted)
        shape = (wide * red / (filled_w * width)) / (high * green / (filled_h * height))
        lost = {"crop": 1 - red * green, "pad": 1 - filled_w * filled_h, "stretch": max(shape, 1 / shape) - 1}[fit]
        said = int(re.findall(r"(\d+) %", text)[0]) / 100 if text else 0
        assert said == pytest.approx(lost, abs=2 * blur, rel=2 * blur), (fit, text)
        if fit != "stretch":
            assert shape == pytest.approx(1, rel=4 * blur), "proportions stay"
        if fit != "crop":
            assert (red, green) == (pytest.approx(1, abs=blur), pytest.approx(1, abs=blur)), "all of it is seen"
        if fit != "pad":
            assert (filled_w, filled_h) == (1, 1), "there are no bars"


@pytest.mark.parametrize(
    ("fit", "size", "said"),
    [
        ("crop", (200, 100, 64, 64), "50 % of its width was cut off"),
        ("crop", (100, 125, 64, 64), "20 % of its height was cut off"),
        ("pad", (200, 100, 64, 64), "black bars above and below fill 50 % of the frame"),
        ("pad", (100, 125, 64, 64), "black bars left and right fill 20 % of the frame"),
        ("stretch", (100, 125, 64, 64), "its width was stretched by 25 %"),
        ("stretch", (200, 100, 64, 64), "its height was stretched by 100 %"),
        *((fit, (1920, 1080, 1280, 720), "") for fit in FITS),
    ],
)
def test_the_words(fit, size, said):
    assert fit_text(*size, fit) == said


def test_a_side_that_shrinks_does_not_alias_while_the_other_grows():
    stripes = np.zeros((8, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(fit_picture(stripes, 32, 64, "stretch").astype(int)) <= 2, "grey, not stripes"


def test_an_unknown_way_is_refused():
    for call in (lambda: fit_picture(ramp(8, 8), 8, 8, "squash"), lambda: fit_text(8, 8, 8, 8, "squash")):
        with pytest.raises(BadInput, match="'squash'; it must be one of crop, pad, stretch"):
            call()
