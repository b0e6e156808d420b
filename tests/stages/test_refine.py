"""Refining long clips: window by window, and short ones as ever."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.errors import BadInput
from stages.core.identity import stage_seed
from stages.core.latents.artifacts import get_latent, get_text, get_tracks
from stages.core.ledger.storage import Storage
from stages.core.step import Workspace
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Given
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
    with pytest.raises(BadInput, match="overlap is 0; it must be at least 1"):
        Refine.Config(overlap=0)


@pytest.fixture(scope="module")
def upsampled(checkpoints, tmp_path_factory):
    """The refine stage, and a take of 17 frames that is ready for it."""
    workspace = Workspace(Storage(str(tmp_path_factory.mktemp("refine"))))
    stages = make_stages(ModelConfig(checkpoint=str(checkpoints("16x4"))), workspace)
    return stages["refine"], run_take(stages, take(), last="temporal")


def refine(upsampled, window: int, overlap: int = 2) -> np.ndarray:
    """What the stage makes of it in windows of so many frames."""
    stage, row = upsampled
    stage.config = replace(stage.config, window=window, overlap=overlap)
    return get_latent(stage.workspace, stage.process(inputs("refine", row)))[0]


def refine_at_once(upsampled) -> np.ndarray:
    """What one call of the denoiser makes of it."""
    stage, row = upsampled
    tracks, spec = get_tracks(stage.workspace, row["temporal"])
    spec, text = replace(spec, seed=stage_seed(row["seed"], "refine")), get_text(stage.workspace, row["text"])
    made = stage.denoiser.denoise(Given(text=text), spec, stage.config.sampling, tracks, stage.config.strength)
    return made["video"]


def test_what_one_window_holds_is_refined_as_a_whole(upsampled):
    np.testing.assert_array_equal(refine(upsampled, 0), refine_at_once(upsampled))
    np.testing.assert_array_equal(refine(upsampled, 17), refine(upsampled, 0))


def test_a_long_clip_is_refined_in_windows(upsampled):
    """Windows of three latent frames, over five: 0 to 2 and 2 to 4."""
    whole, parts = refine(upsampled, 0), refine(upsampled, 9, overlap=1)
    assert parts.shape == whole.shape
    assert np.isfinite(parts).all()
    assert np.abs(parts - whole).max() > 1e-3, "what is seen together is another clip"
    first = refine(upsampled, 9, overlap=2)[:, :2]  # of the first window alone, as there
    np.testing.assert_array_equal(parts[:, :2], first)


def test_a_window_is_longer_than_what_it_shares(upsampled):
    with pytest.raises(BadInput, match="a window of 5 frames has 2 latent ones"):
        refine(upsampled, 5, overlap=2)
