"""Footage as a latent: what the VAE itself makes of its frames, and where refine goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTXVideo

from stages.core.errors import BadInput
from stages.core.latents.artifacts import get_latent
from stages.core.media import BadMedia, read_frames, write_video
from stages.core.step import InputRow
from stages.core.weights.checkpoint import ModelConfig
from stages.encode import Encode
from stages.families.contract import load_maker
from stages.refine import Refine
from tests.stages.cascade import SETTINGS, make_stages, run_take, take

SHA = "b" * 64
SHAPE = {"width": 96, "height": 64, "frames": 9, "fps": 8.0, "fit": "crop"}
VIDEO = {"kind": "source", "sha256": SHA}


def test_a_video_is_encoded_at_the_takes_own_times_and_refined(model, workspace):
    """Footage of twice the rate: every second of its frames; the latent of the library's own VAE, by another way."""
    frames = np.random.default_rng(0).integers(0, 256, (18, 8, 12, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    data = write_video(frames, 16.0, crf=1)
    uri = workspace.put(data, ".mp4")["uri"]
    media = [{"sha256": SHA, "uri": uri, "name": "x.mp4"}]
    step = Encode(Encode.Config(model=model), workspace)
    step.setup()
    given = InputRow({**SHAPE, "conditions": [VIDEO], "media": media})
    made = step.process(given)
    assert sorted(made) == sorted(step.writes.names)
    video, spec = get_latent(workspace, made)
    vae = AutoencoderKLLTXVideo.from_pretrained(f"{model.checkpoint}/vae")
    pixels = torch.from_numpy(read_frames(data)[::2]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        wanted = vae.encode(pixels).latent_dist.mode()[0].numpy()
    np.testing.assert_allclose(video, wanted, atol=1e-5)
    assert (made["note"], made["made_from"], spec.n_frames, spec.fps) == ("", [SHA], 9, 8.0)
    stages = make_stages(model, workspace, setup=False)
    stages["text"].setup()
    text = run_take({"text": stages["text"]}, take())["text"]
    refined = []
    for strength in (0.4, 0.9):
        refine = Refine(
            Refine.Config(model=model, **{**SETTINGS["refine"][1], "strength": strength}), workspace, "refine"
        )
        refine.setup()
        refined.append(refine.process(InputRow({"text": text, "latent": made, "seed": 1, "guidance": 2.0})))
    near, far = (np.abs(get_latent(workspace, r)[0] - video).mean() for r in refined)
    assert 0 < near < far
    assert "cut off" in step.process(InputRow({**given, "width": 64}))["note"]
    with pytest.raises(BadMedia, match=r"the clip has 17"):
        step.process(InputRow({**given, "frames": 17}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"conditions": None}, r"there is no video to begin from: give `video`"),
        ({"conditions": [{**VIDEO, "level": 0.5}]}, r"`level` is for `base`; leave it out and set `refine\.strength`"),
        ({"conditions": [VIDEO, {"kind": "still", "role": "first", "sha256": SHA}]}, "leave `image` out"),
        ({"frames": 10}, r"ltx cannot make 10 frames: .* the nearest is 9"),
        ({"fps": None}, "fps is given neither by the prompt"),
    ],
)
def test_what_cannot_be_encoded_is_said_before_any_work(model, values, said):
    with pytest.raises(BadInput, match=said):
        Encode.check_unit(Encode.Config(model=model), {**SHAPE, "conditions": [VIDEO], **values})


def test_a_family_that_refines_after_pictures_or_makes_no_latents_is_refused(tmp_path):
    load_maker("svd")(tmp_path / "svd", "image-to-video", 0)
    model = ModelConfig(family="svd", checkpoint=str(tmp_path / "svd"), device="cpu")
    with pytest.raises(BadInput, match="svd refines a clip after its pictures, which this step does not encode"):
        Encode.check_unit(Encode.Config(model=model), {**SHAPE, "conditions": [VIDEO]})
