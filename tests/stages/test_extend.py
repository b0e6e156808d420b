"""A clip whose motion is spread over a longer time moves on to its end, where windows that go on would rest."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.world import render, sample_scene
from stages.core.config_files import ROOT
from stages.core.latents.artifacts import get_latent, put_latent
from stages.core.latents.form import LatentSpec
from stages.core.ledger.storage import Storage
from stages.core.measures.world.words import Attributes
from stages.core.step import InputRow, Workspace
from stages.core.weights.checkpoint import ModelConfig
from stages.extend import Extend, retimed

MODEL = ModelConfig(checkpoint=str(ROOT / "stages/pretrained/world"),
                    temporal_upsampler=str(ROOT / "stages/pretrained/world/temporal_upsampler"))  # fmt: skip


def places(frames: np.ndarray) -> np.ndarray:
    """How far to the right the coloured object is in each frame, as a share of the width; the background is grey."""
    colour = np.ptp(frames.astype(int), axis=3) > 80
    return np.array([np.nonzero(mask)[1].mean() / mask.shape[1] for mask in colour])


def test_spread_motion_goes_on_to_the_end(tmp_path):
    scene = sample_scene(1, fixed=Attributes(motion="moving right", background="black"), two_objects=False)
    clip = render(scene, 128, 128, 17, 8)
    step = Extend(Extend.Config(model=MODEL, motion="spread"), Workspace(Storage(str(tmp_path))))
    step.setup()
    vae = step.codec.vae
    spec = LatentSpec(
        family="ltx", vae_id=vae.vae_id, spatial_ratio=vae.spatial_ratio, temporal_ratio=vae.temporal_ratio,
        scale=vae.scale, width=128, height=128, n_frames=17, fps=8.0, fps_conditioning=8.0, seed=1, parents=(),
        decode=vae.decode,
    )  # fmt: skip
    parent = put_latent(step.workspace, step.codec.encode(clip), spec)
    row = step.process(InputRow({"latent": parent, "longer": 3}))
    assert (row["n_frames"], row["fps"]) == (49, 8.0)
    video, made = get_latent(step.workspace, row)
    found, true = places(step.codec.decode(video, made.decode)), places(clip)
    way = true[-1] - true[0]
    assert way > 0.2
    np.testing.assert_allclose(found, np.interp(np.arange(49) / 3, np.arange(17), true), atol=0.1 * way)


@pytest.mark.parametrize("count", [2, 17, 33, 40])
def test_frames_between_others_are_blends_of_their_neighbours(count):
    frames = np.tile(np.arange(0, 170, 10, dtype=np.uint8)[:, None, None, None], (1, 2, 2, 3))
    found = retimed(frames, count)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found[:, 0, 0, 0], np.linspace(0, 160, count), atol=0.5)
