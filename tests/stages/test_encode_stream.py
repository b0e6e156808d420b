"""Clips encoded in pieces: the latent of the whole clip, and no more memory for more frames."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTXVideo
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family, load_maker
from stages.families.engine.chunks import regrouped
from stages.families.engine.remembering import WHOLE, encoder_of
from tests.stages.test_streaming import EMBEDDED, VARIANTS, Largest

FAMILIES = ("ltx", "ltx2", "wan", "animatediff", "svd")
TINY = {**VARIANTS, "ltx2": "2.0"}


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("encoding"), {}

    def get(family):
        if family not in made:
            folder = EMBEDDED if family == "ltx" else load_maker(family)(root / family, TINY[family], 0)
            model = ModelConfig(family=family, checkpoint=str(folder), device="cpu")
            made[family] = load_family(family).codec(model)
        return made[family]

    return get


def moving(count, height=32, width=64):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None)
def test_regrouped_frames_are_the_same_in_the_same_order(sizes, first, rest):
    frames = np.arange(sum(sizes), dtype=np.uint8).reshape(-1, 1, 1, 1)
    found = list(regrouped(np.split(frames, np.cumsum(sizes)[:-1]), first, rest))
    assert [f for piece in found for f in piece.ravel().tolist()] == list(range(len(frames)))
    counts = [len(piece) for piece in found]
    assert counts[:-1] == [first, *[rest] * len(counts)][: len(counts) - 1] if counts else not len(frames)
    assert all(0 < count <= (rest if number else first) for number, count in enumerate(counts))


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_give_the_latent_of_the_whole_clip(codecs, family):
    codec = codecs(family)
    frames = moving(5 * codec.vae.temporal_ratio + 1)
    whole = codec.encode(frames)
    made = codec.encode_stream(frames[i : i + 3] for i in range(0, len(frames), 3))
    assert made.shape == whole.shape
    assert np.abs(made - whole).max() <= (0 if family == "wan" else 1e-4 * whole.std())
    late = codec.encode_stream([np.roll(frames, 1, axis=0)])
    assert np.abs(late - whole).max() > 0.01 * whole.std()


@pytest.mark.parametrize("plain", [True, False], ids=["as 0.9.0", "as 0.9.5"])
def test_each_kind_of_ltx_encoder_remembers_what_it_saw(plain):
    """Strided convolutions, and frames folded into channels where a clip's first frame fills up the stride."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("LTXVideo095DownBlock3D",) * 3, "downsample_type": ("spatiotemporal",) * 3}
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 16, 16) if plain else (8, 16, 32, 32),
        decoder_block_out_channels=(8, 16), decoder_inject_noise=(False,) * 3, upsample_residual=(True,) * 2,
        upsample_factor=(1, 2), decoder_spatio_temporal_scaling=(True,) * 2, decoder_layers_per_block=(1,) * 3,
        layers_per_block=(1,) * 4, spatio_temporal_scaling=(True, True, not plain),
        **({"down_block_types": ("LTXVideoDownBlock3D",) * 3} if plain else blocks),
    ).eval()  # fmt: skip
    ratio = 4 if plain else 8
    pixels = torch.randn(1, 3, 5 * ratio + 1, 64, 64)
    with torch.no_grad():
        whole = vae.encode(pixels).latent_dist.mode()
        for first, rest in ((1, ratio), (ratio + 1, 2 * ratio)):
            encode, *_ = encoder_of(vae, ratio)
            cuts = [0, *range(first, pixels.shape[2], rest), pixels.shape[2]]
            made = torch.cat([encode(pixels[:, :, a:b]) for a, b in pairwise(cuts)], dim=2)
            torch.testing.assert_close(made, whole, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(vae.encode(pixels).latent_dist.mode(), whole, atol=0, rtol=0)


def test_an_encoder_that_looks_ahead_is_given_the_whole_clip_and_said_so(caplog):
    vae = AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8), layers_per_block=(1,) * 4,
        decoder_layers_per_block=(1,) * 3, down_block_types=("LTXVideoDownBlock3D",) * 3,
        spatio_temporal_scaling=(True, True, False), decoder_spatio_temporal_scaling=(True,) * 2, encoder_causal=False,
        decoder_inject_noise=(False,) * 3, upsample_residual=(True,) * 2, upsample_factor=(1, 1),
    )  # fmt: skip
    _, first, rest = encoder_of(vae, 4)
    assert first == rest == WHOLE
    assert "the encoder of this VAE looks ahead in time: a clip is encoded whole" in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
def test_three_times_as_long_a_clip_holds_no_more_at_once(codecs, family):
    """Neither larger tensors in the VAE, nor more frames of what is given."""
    codec, found = codecs(family), []
    for latent_frames in (5, 15):
        count, drawn, taken = (latent_frames - 1) * codec.vae.temporal_ratio + 1, [0], [0]

        def pieces(count=count, drawn=drawn):
            for number in range(count):
                drawn[0] += 1
                yield moving(1) if number % 2 else moving(1)[:, ::-1]

        encoded, before = codec._encoded, [0]

        def watched(frames, encode, drawn=drawn, before=before, taken=taken, encoded=encoded):
            taken[0], before[0] = max(taken[0], drawn[0] - before[0]), drawn[0]
            return encoded(frames, encode)

        codec._encoded = watched
        with Largest() as largest:
            codec.encode_stream(pieces())
        del codec._encoded
        found.append((largest.values, taken[0]))
    assert found[0] == found[1]
