"""What QC measures grows with the strength of a defect, each metric with its own, and stays low on a sound clip."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stages.core.measures.take import measure_take
from stages.core.measures.take_metrics import METRICS
from tests import defects

FPS, COUNT, SIDE = 16.0, 25, 128


def moving(seed: int, speed: float = 2.0) -> np.ndarray:
    """A camera that pans over a coloured texture with sharp edges; speed in pixels a frame."""
    rng = np.random.default_rng(seed)
    small = rng.integers(30, 226, (16, 24, 3)).astype(np.uint8)
    wide = cv2.resize(small, (SIDE * 2, SIDE), interpolation=cv2.INTER_NEAREST)
    moves = (np.array([[1, 0, -speed * i], [0, 1, 0]], np.float32) for i in range(COUNT))
    return np.stack([cv2.warpAffine(wide, m, (SIDE, SIDE), flags=cv2.INTER_LINEAR) for m in moves])


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    return moving(0)


RISING = {
    "flicker": (lambda f, s: defects.flicker(f, s, np.random.default_rng(1)), (0, 0.01, 0.04, 0.1)),
    "frozen": (lambda f, s: defects.freeze(f, s, np.random.default_rng(1)), (0, 0.2, 0.4, 0.6)),
    "stutter": (lambda f, s: defects.double(f, s, np.random.default_rng(1)) if s else f, (0, 8, 4, 2)),
    "blur": (lambda f, s: defects.blur(f, s, np.random.default_rng(1)) if s else f, (0, 4, 6, 8)),
    "colour_drift": (lambda f, s: defects.drift(f, s, np.random.default_rng(1)), (0, 4, 10, 20)),
    "cuts": (lambda f, s: f if not s else defects.cut_to(f, moving(7), s, np.random.default_rng(1)), (0, 0.5)),
}


@pytest.mark.parametrize("metric", RISING)
def test_a_metric_grows_with_its_defect(metric, sound):
    make, strengths = RISING[metric]
    found = [measure_take(make(sound, s), FPS)[metric] for s in strengths]
    assert found == sorted(set(found)), found


def test_a_sound_clip_has_no_defect(sound):
    found = measure_take(sound, FPS)
    assert set(found) == set(METRICS)
    assert {m: found[m] for m in ("frozen", "stutter", "cuts", "blank")} == dict.fromkeys(
        ("frozen", "stutter", "cuts", "blank"), 0.0
    )
    assert found["flicker"] < 0.005
    assert found["colour_drift"] < 2


def test_measures_are_about_what_they_are_called(sound):
    """The strength of a defect can be read off."""
    rng = np.random.default_rng(2)
    assert measure_take(defects.freeze(sound, 0.4, rng), FPS)["frozen"] == pytest.approx(0.4, abs=0.05)
    assert measure_take(defects.double(sound, 4, rng), FPS)["stutter"] == pytest.approx(0.25, abs=0.06)
    assert measure_take(defects.drift(sound, 12.0, rng), FPS)["colour_drift"] == pytest.approx(12, rel=0.25)
    alternating = np.stack([np.rint(f * (1 - 0.05 * (i % 2))).astype(np.uint8) for i, f in enumerate(sound)])
    assert measure_take(alternating, FPS)["flicker"] == pytest.approx(0.1, rel=0.15)


def test_a_clip_that_stands_still_is_not_frozen():
    """It may have been asked to; how much moves is a metric of its own."""
    still = measure_take(np.repeat(moving(0)[:1], COUNT, axis=0), FPS)
    assert (still["frozen"], still["stutter"], still["dynamic_degree"]) == (0.0, 0.0, pytest.approx(0, abs=1e-3))
    assert measure_take(moving(0, speed=3.0), FPS)["dynamic_degree"] > measure_take(moving(0), FPS)["dynamic_degree"]


def test_frames_without_a_picture_are_counted(sound):
    made = sound.copy()
    made[:5] = 0
    assert measure_take(made, FPS)["blank"] == pytest.approx(5 / COUNT)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_very_short_clip_is_measured_as_far_as_it_goes(count, sound):
    found = measure_take(sound[:count], FPS)
    assert (found["flicker"] is None) == (count < 3)
    assert (found["frozen"] is None) == (count < 2)
    assert found["blur"] is not None


def test_what_is_dark_throughout_is_not_told(sound):
    found = measure_take(np.zeros_like(sound), FPS)
    assert (found["flicker"], found["blur"], found["blank"]) == (None, None, 1.0)
