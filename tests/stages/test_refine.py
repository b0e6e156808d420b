"""Refining long clips: window by window, and short ones as ever."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.artifacts import get_latent
from stages.core.checkpoint import ModelConfig
from stages.core.errors import BadInput
from stages.core.step import Workspace
from stages.core.storage import Storage
from stages.refine import Refine, fade_in, window_starts
from tests.stages.cascade import inputs, make_stages, run_take, take


@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_windows_cover_every_frame_and_share_at_least_the_overlap(frames, window, data):
    window = min(window, frames)
    overlap = data.draw(st.integers(1, max(window - 1, 1)))
    starts = window_starts(frames, window, overlap)
    assert starts[0] == 0
    assert starts[-1] + window == frames
    if window < frames and overlap < window:
        assert all(0 < b - a <= window - overlap for a, b in pairwise(starts))


@given(st.integers(2, 30), st.integers(2, 9), st.data())
def test_windows_of_one_value_make_that_value(frames, window, data):
    window = min(window, frames)
    overlap = data.draw(st.integers(1, window - 1))
    whole, end = np.full((1, frames, 1, 1), np.nan, np.float32), 0
    for start in window_starts(frames, window, overlap):
        fade_in(whole, np.full((1, window, 1, 1), 3, np.float32), start, end)
        end = start + window
    assert (whole == 3).all()


def test_a_window_comes_in_by_and_by_without_its_first_frame():
    whole = np.zeros((1, 6, 1, 1), np.float32)
    fade_in(whole, np.array([100, 8, 8, 8], np.float32).reshape(1, 4, 1, 1), 2, 4)
    assert whole.ravel().tolist() == [0, 0, 0, 4, 8, 8]


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(BadInput, match="overlap from 1"):
        Refine.Config(overlap=0)


@pytest.fixture(scope="module")
def refined(checkpoints, tmp_path_factory):
    """The refine stage with a window of this many frames, over one take's 17: its latent."""
    workspace = Workspace(Storage(str(tmp_path_factory.mktemp("refine"))))
    stages = make_stages(ModelConfig(checkpoint=str(checkpoints("16x4"))), workspace)
    row = run_take(stages, take(), last="temporal")

    def run(window: int, overlap: int = 2) -> np.ndarray:
        stage = stages["refine"]
        stage.config = replace(stage.config, window=window, overlap=overlap)
        return get_latent(workspace, stage.process(inputs("refine", row)))[0]

    return run


def test_what_one_window_holds_is_refined_as_a_whole(refined):
    np.testing.assert_array_equal(refined(17), refined(0))


def test_a_long_clip_is_refined_in_windows(refined):
    """Windows of three latent frames, over five: 0 to 2 and 2 to 4."""
    whole, parts = refined(0), refined(9, overlap=1)
    assert parts.shape == whole.shape
    assert np.isfinite(parts).all()
    assert np.abs(parts - whole).max() > 1e-3, "what is seen together is another clip"
    np.testing.assert_array_equal(parts[:, :2], refined(9, overlap=2)[:, :2])  # the first window's alone in both


def test_a_window_is_longer_than_what_it_shares(refined):
    with pytest.raises(BadInput, match="a window of 5 frames has 2 latent ones"):
        refined(5, overlap=2)
