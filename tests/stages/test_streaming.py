"""Clips decoded in pieces: the frames of the whole clip, each once and in its place, and no more memory for more."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from data_prep.world.captions import scene_from_prompt
from data_prep.world.rendering import render
from stages.core.config_files import ROOT
from stages.core.latents.artifacts import put_latent
from stages.core.latents.form import DecodeRecipe
from stages.core.media import read_frames
from stages.core.step import InputRow, PermanentError
from stages.core.weights.checkpoint import ModelConfig
from stages.decode import Decode
from stages.families.contract import load_family, load_maker
from stages.families.engine.causal import decode_causally
from stages.families.engine.chunks import LEAST, chunks

VARIANTS = {"wan": "t2v", "svd": "image-to-video", "animatediff": "text-to-video"}
CHUNK = {"ltx": 24, "wan": 0, "svd": 8, "animatediff": 0}
"""Pixel frames of a chunk; those of the longer clips below are several."""


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    """The codec of a family on a tiny checkpoint."""
    root, made = tmp_path_factory.mktemp("streaming"), {}

    def get(family):
        if family not in made:
            folder = EMBEDDED if family == "ltx" else root / family
            if family != "ltx":
                load_maker(family)(folder, VARIANTS[family], 0)
            model = ModelConfig(family=family, checkpoint=str(folder), device="cpu")
            made[family] = load_family(family).codec(model)
        return made[family]

    return get


EMBEDDED = ROOT / "stages" / "pretrained" / "world"


def latent_of(codec, latent_frames, height=2, width=3):
    shape = (codec.vae.channels, latent_frames, height, width)
    return (np.random.default_rng(0).standard_normal(shape) * codec.vae.scale).astype(np.float32)


@given(st.integers(1, 90), st.integers(0, 200), st.sampled_from([1, 4, 8]), st.booleans())
@settings(deadline=None)
def test_chunks_keep_every_frame_once_and_in_order(latent_frames, size, ratio, overlap):
    """Each chunk is numbered by the pixel frames that decoding its latent frames gives: the first stands for one."""
    kept = []
    for chunk in chunks(latent_frames, size, ratio, overlap or ratio > 1):
        assert 0 <= chunk.start < chunk.end <= latent_frames
        decoded = range(chunk.start * ratio, (chunk.end - 1) * ratio + 1)
        assert len(decoded[chunk.first : chunk.last]) == chunk.last - chunk.first > 0
        kept += decoded[chunk.first : chunk.last]
        if size:
            assert chunk.end - chunk.start <= max(LEAST, (size - 1) // ratio + 1)
    assert kept == list(range((latent_frames - 1) * ratio + 1))


@pytest.mark.parametrize(("family", "largest"), [("ltx", 6), ("wan", 0), ("animatediff", 1), ("svd", 200)])
def test_pieces_are_the_frames_of_the_whole_clip(codecs, family, largest):
    """Against the library's own decoding of the whole clip. svd mixes all frames of a chunk (group norms over time), so
    that untrained weights change much; what the overlap is worth there is measured by the next test."""
    codec = codecs(family)
    latent = latent_of(codec, 24 if codec.vae.temporal_ratio == 1 else 9)
    if family == "ltx":  # trained, so that what it makes of a clip says something
        latent = codec.encode(render(scene_from_prompt("a red circle moving left", 1), 96, 64, 41, 16))
    z = torch.from_numpy(latent)
    with torch.no_grad():
        if family == "svd":
            whole = codec.network.decode(z.transpose(0, 1), num_frames=24).sample
        elif family == "animatediff":
            whole = codec.network.decode(z.transpose(0, 1)).sample
        else:
            whole = codec.network.decode(z[None], return_dict=False)[0][0].transpose(0, 1)
    wanted = ((whole / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round().astype(int)
    pieces = list(codec.stream(latent, DecodeRecipe(chunk=CHUNK[family])))
    assert len(pieces) > 2
    made = np.concatenate(pieces)
    assert made.shape == wanted.shape
    off = np.abs(made - wanted)
    assert off.max() <= largest
    for late in (-1, 1):  # frames of another moment are much further off
        moved = np.abs(np.roll(wanted, late, axis=0)[1:-1] - made[1:-1])
        assert off[1:-1].mean() < moved.mean() / 4
    np.testing.assert_array_equal(made, codec.decode(latent, DecodeRecipe(chunk=CHUNK[family])))


def test_overlapping_chunks_of_a_temporal_decoder_are_nearer_to_the_whole(codecs):
    codec = codecs("svd")
    latent = latent_of(codec, 24)
    whole = codec.decode(latent, DecodeRecipe()).astype(int)
    overlapping = np.abs(codec.decode(latent, DecodeRecipe(chunk=8)) - whole)
    with torch.no_grad():
        parts = [
            codec.network.decode(p, num_frames=8).sample for p in torch.from_numpy(latent).transpose(0, 1).split(8)
        ]
    cut = ((torch.cat(parts) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round().astype(int)
    assert overlapping.mean() < 0.9 * np.abs(cut - whole).mean()


@pytest.mark.parametrize("patch", [None, 2])
def test_the_causal_vae_in_pieces_is_the_librarys_own_bit_for_bit(patch):
    """Whole frames, and tiles with a memory each, with and without patches as in Wan 2.2 5B."""
    torch.manual_seed(0)
    more = {"patch_size": patch, "in_channels": 12, "out_channels": 12, "is_residual": True} if patch else {}
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        scale_factor_spatial=16 if patch else 8, **more,
    ).eval()  # fmt: skip
    latent = torch.randn(1, 8, 4, 6, 9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for tiled in (False, True):
            vae.use_tiling = tiled
            if tiled:
                vae.enable_tiling(64, 64, 48, 48)
            wanted = vae.decode(latent).sample
            pieces = list(decode_causally(vae, latent))
            assert [p.shape[2] for p in pieces] == [1, 4, 4, 4]
            assert torch.equal(torch.cat(pieces, dim=2), wanted)


class Largest(TorchDispatchMode):
    """Keeps the number of values of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.values = max(self.values, made.numel())
        return made


@pytest.mark.parametrize("family", ["ltx", "wan", "animatediff", "svd"])
def test_three_times_as_long_a_clip_holds_no_more_at_once(codecs, workspace, family):
    """Neither larger tensors in the VAE, nor more decoded frames alive between it and the encoder."""
    codec, found = codecs(family), []
    for latent_frames in (12, 36):
        frames = (latent_frames - 1) * codec.vae.temporal_ratio + 1
        s = codec.vae.spatial_ratio
        spec = codec.vae.spec(family=family, width=3 * s, height=2 * s, n_frames=frames, fps=8.0, fps_conditioning=8.0)
        row = put_latent(workspace, latent_of(codec, latent_frames), spec)
        step = Decode(Decode.Config(model=codec.model, chunk=CHUNK[family], crf=0, preset="ultrafast"), workspace)
        step.codec, step.draws, step.vocoder = Counting(codec), False, None
        with Largest() as largest:
            made = step.process(InputRow(latent=row))
        assert (made["n_frames"], len(read_frames(workspace.read(made["uri"])))) == (frames, frames)
        found.append((largest.values, step.codec.alive))
    assert found[0] == found[1]


class Counting:
    """A codec that keeps count of the decoded frames that are alive at once."""

    def __init__(self, codec):
        self.vae, self.inner, self.alive = codec.vae, codec, 0

    def stream(self, video, recipe):
        alive: dict[int, int] = {}
        for number, frames in enumerate(self.inner.stream(video, recipe)):
            weakref.finalize(frames, alive.pop, number)
            alive[number] = len(frames)
            self.alive = max(self.alive, sum(alive.values()))
            yield frames


def test_what_fails_on_the_way_leaves_no_video(codecs, workspace):
    codec = codecs("wan")
    spec = codec.vae.spec(family="wan", width=24, height=16, n_frames=5, fps=8.0, fps_conditioning=8.0)
    row = put_latent(workspace, latent_of(codec, 2), spec)
    step = Decode(Decode.Config(model=codec.model), workspace)
    step.draws, step.vocoder = False, None
    for frames, error in ((1, PermanentError), (3, OSError)):

        class Broken:
            vae = codec.vae

            def stream(self, video, recipe, frames=frames, error=error):
                yield np.zeros((frames, 16, 24, 3), np.uint8)
                if error is OSError:
                    raise OSError("gone")

        step.codec = Broken()
        with pytest.raises(error, match=r"gone|the VAE made 1 frames, fewer than the latent says"):
            step.process(InputRow(latent=row))
    assert not [f for f in workspace.storage.files("media") if f.uri.endswith((".mp4", ".jpg"))]
