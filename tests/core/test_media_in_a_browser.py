"""Pixel truth: the colours that a model made are the colours that a browser shows."""

from __future__ import annotations

import numpy as np
import pytest

from stages.core.formats import Shape, convert
from stages.core.media import with_tags, write_video
from tests.core.browser import EXACT, PLAIN, chromium, shown_pixels

FOUND = (212, 25, 45)
"""Shown as (197, 6, 48) before every colour tag was there."""
COLOURS = [
    *(
        FOUND,
        (30, 158, 56),
        (36, 64, 214),
        (236, 230, 50),
        (200, 40, 200),
        (40, 200, 210),
        (255, 128, 0),
        (120, 60, 20),
    ),
    *((0, 0, 0), (16, 16, 16), (64, 64, 64), (128, 128, 128), (192, 192, 192), (238, 238, 238), (255, 255, 255)),
]
PATCH, COLUMNS = 64, 4


def patches() -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Eight frames of squares, one a colour, and the middle (x, y) of each."""
    rows = -(-len(COLOURS) // COLUMNS)
    picture = np.zeros((rows * PATCH, COLUMNS * PATCH, 3), np.uint8)
    middles = []
    for number, colour in enumerate(COLOURS):
        y, x = (PATCH * k for k in divmod(number, COLUMNS))
        picture[y : y + PATCH, x : x + PATCH] = colour
        middles.append((x + PATCH // 2, y + PATCH // 2))
    return np.stack([picture] * 8), middles


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium here")
@pytest.mark.parametrize("tagged", [False, True], ids=["as written", "with tags copied in"])
def test_chromium_shows_every_colour_within_three(tagged, tmp_path):
    frames, middles = patches()
    video = write_video(frames, 8)
    video = with_tags(video, {"title": "patches"}) if tagged else video
    shown = np.array(shown_pixels(video, middles, tmp_path / "profile", EXACT))
    off = np.abs(shown - np.array(COLOURS)).max(axis=1)
    assert off.max() <= 3, list(zip(COLOURS, shown.tolist(), strict=True))


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium here")
def test_without_a_graphics_processor_too(tmp_path):
    """There Chromium computes with factors of 8 bits, and blue of strong blues and yellows is up to 8 off."""
    frames, middles = patches()
    shown = np.array(shown_pixels(write_video(frames, 8), middles, tmp_path / "profile", PLAIN))
    off = np.abs(shown - np.array(COLOURS))
    assert off[:, :2].max() <= 3, shown.tolist()
    assert off[:, 2].max() <= 8, shown.tolist()
    assert off[COLOURS.index(FOUND)].max() <= 3


DELIVERED = {
    "mp4-h264": "video/mp4",
    "webm-vp9": "video/webm",
    "webm-av1": "video/webm",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
}
"""Format -> media type. Chromium has no decoder for ProRes and, without the system's, none for HEVC."""


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium here")
@pytest.mark.parametrize("name", DELIVERED)
def test_chromium_shows_the_colours_of_every_delivered_format(name, tmp_path):
    frames, middles = patches()
    (tmp_path / "stored.mp4").write_bytes(write_video(frames, 8))
    (tmp_path / "out").mkdir()
    crf = None if name in ("png", "gif", "webp") else 18
    made = convert(tmp_path / "stored.mp4", name, Shape(crf=crf), {"comment": "{}"}, False, tmp_path / "out")
    data = (min(made.iterdir()) if made.is_dir() else made).read_bytes()
    size = (frames.shape[2], frames.shape[1])
    shown = np.array(shown_pixels(data, middles, tmp_path / "profile", EXACT, DELIVERED[name], size))
    off = np.abs(shown - np.array(COLOURS)).max(axis=1)
    assert off.max() <= (4 if name in ("gif", "webp") else 3), list(zip(COLOURS, shown.tolist(), strict=True))
