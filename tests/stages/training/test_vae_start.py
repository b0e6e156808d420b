"""The linear start of a VAE: good before the first step, kept beside the run, refused where it cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stages.core.errors import BadInput
from stages.training.data.batches import load_source, to_video
from stages.training.latents import latents_digest
from stages.training.settings import Bucket
from stages.training.start.components import blocks, components, project
from stages.training.start.vae import start_linear
from stages.training.tasks.models import load_part
from stages.training.tasks.quality import reconstruction

BUCKET = Bucket(width=64, height=64, frames=9, fps=8)


def clips(n: int, split: str = "train") -> list[Any]:
    source = load_source("data_prep.world.clips:WorldClips", {"split": split})
    return [source.clip(seed, BUCKET).frames for seed in range(n)]


def test_blocks_count_the_first_frame_as_a_whole_block():
    video = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 3, 5, 4, 4)
    found = blocks(video, (2, 4))
    assert found.shape == (1, 3 * 4 * 2 * 2, 2, 2, 2)
    assert torch.equal(found[0, :, 0, 0, 0].unique(), torch.tensor([0.0]))
    assert torch.equal(found[0, :, 1, 0, 0].unique(), torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_components_have_unit_spread_and_do_not_correlate():
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(1, 6, 4, 8, 8, generator=generator) * torch.arange(1, 7).view(1, 6, 1, 1, 1) + 3
    made = project(found, components(iter([found]), 4)).flatten(2)[0]
    assert torch.allclose(torch.cov(made), torch.eye(4), atol=0.02)


def test_components_keep_so_much_of_their_relative_spreads_as_is_asked():
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(1, 2, 4, 32, 32, generator=generator) * torch.tensor([16.0, 1.0]).view(1, 2, 1, 1, 1)
    spreads = project(found, components(iter([found]), 2), 0.5).flatten(2)[0].std(dim=1)
    assert float(spreads[0] / spreads[1]) == pytest.approx(4, rel=0.05)
    assert float(spreads.square().mean()) == pytest.approx(1, rel=0.02)


@pytest.mark.soak
def test_channels_that_were_not_whitened_keep_one_common_scale(settings):
    from stages.training.loop import Trainer

    config = settings("vae", max_steps=1, reconstruction={"start_clips": 4, "whiten": 0.5})
    std = load_part(Trainer(config).run().model, "vae").latents_std
    assert float(std.min()) == float(std.max()) > 0


def test_start_reconstructs_unseen_clips_before_any_training(start):
    vae, seen = load_part(start, "vae"), [to_video(c)[None] for c in clips(8)]
    unseen = clips(4, "heldout")
    before = reconstruction(vae, unseen)["psnr"]
    start_linear(vae, seen)
    after = reconstruction(vae, unseen)["psnr"]
    assert after > before + 4


def test_blocks_begin_as_nothing_and_are_not_blind(start):
    """Their inner channels vary with what comes, each as much as the next, where only a few are held steady."""
    vae, seen = load_part(start, "vae"), [to_video(c)[None] for c in clips(4)]
    start_linear(vae, seen)
    made: list[torch.Tensor] = []
    resnet = vae.decoder.up_blocks[-1].resnets[0]
    resnet.conv1.register_forward_hook(lambda module, given, output: made.append(output[0].flatten(1)))
    found: list[bool] = []
    resnet.register_forward_hook(lambda module, given, output: found.append(torch.equal(given[0], output)))
    with torch.no_grad():
        for video in seen:
            vae.decode(vae.encode(video).latent_dist.mode())
    spread = torch.cat(made, dim=1).std(dim=1)
    steady = len(spread) // 8
    assert all(found)
    assert float(spread[:steady].max()) == 0
    assert spread[steady:].tolist() == pytest.approx([1.0] * (len(spread) - steady), rel=0.1)


def test_start_is_kept_beside_the_run(settings):
    from stages.training.loop import Trainer

    reconstruction = {"start_clips": 4}
    config = settings("vae", max_steps=2, reconstruction=reconstruction, model={"trainable": ["vae.decoder.*"]})
    first = Trainer(config)
    begun = latents_digest(first.task.vae)
    outcome = first.run()
    assert latents_digest(Trainer(config).task.vae) == begun
    exported = load_part(outcome.model, "vae").encoder.state_dict()
    for name, tensor in first.task.vae.encoder.state_dict().items():
        assert np.array_equal(exported[name].half().numpy(), tensor.half().numpy())


def test_digest_of_latents_leaves_the_decoder_out(start):
    vae = load_part(start, "vae")
    before = latents_digest(vae)
    with torch.no_grad():
        vae.decoder.conv_out.conv.bias.add_(1)
    assert latents_digest(vae) == before
    with torch.no_grad():
        vae.encoder.conv_in.conv.bias.add_(1)
    assert latents_digest(vae) != before


def test_start_refuses_other_builds(start):
    vae = load_part(start, "vae")
    vae.decoder.up_blocks[0].upsamplers[0].residual = False
    with pytest.raises(BadInput, match="start_clips needs an LTX VAE"):
        start_linear(vae, [])
