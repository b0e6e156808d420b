"""What the LTX adapter can make, in sizes and schedules, and its codec on VAEs that the split test does not have."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTXVideo
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flows.render.campaign import load_campaign
from stages.base import Base
from stages.core.config import load_class
from stages.core.errors import BadInput
from stages.core.latents.form import DecodeRecipe
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Sampling, families, load_family
from stages.families.ltx.size import ratios_of, size_rule
from stages.families.ltx.upsample import load_upsampler
from stages.refine import Refine
from tests.stages.conftest import SHAPES, build

RATIO_PAIRS = {"16x4": (16, 4), "32x8": (32, 8), "8x2": (8, 2)}


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 400), st.sampled_from(sorted(RATIO_PAIRS)))
def test_the_nearest_size_that_is_named_can_be_made(width, height, frames, ratio):
    ratios = RATIO_PAIRS[ratio]
    for _ in range(2):  # pixels are looked at first, then frames
        try:
            size_rule(ratios).check("ltx", width, height, frames)
            break
        except BadInput as error:
            said = str(error).rsplit("the nearest is ", 1)[1]
            if "x" in said:
                new = tuple(map(int, said.split("x")))
                assert max(abs(new[0] - width), abs(new[1] - height)) <= 32
                width, height = new
            else:
                assert abs(int(said) - frames) <= ratios[1]
                frames = int(said)
    size_rule(ratios).check("ltx", width, height, frames)
    assert width % ratios[0] == height % ratios[0] == (frames - 1) % ratios[1] == 0


@pytest.mark.parametrize("ratio", sorted(RATIO_PAIRS))
def test_ratios_are_read_as_the_library_computes_them(checkpoints, ratio):
    folder = checkpoints(ratio) / "vae"
    vae = AutoencoderKLLTXVideo.from_pretrained(folder)
    read = ratios_of(json.loads((folder / "config.json").read_text()))
    assert read == (vae.spatial_compression_ratio, vae.temporal_compression_ratio) == RATIO_PAIRS[ratio]
    assert ratios_of(None) == (32, 8)


def test_base_refuses_sizes_while_planning(model):
    config, size = Base.Config(model=model), {"width": 64, "height": 64, "frames": 9, "fps": 8.0}
    Base.check_unit(config, size)
    for wrong, near in (({"width": 70}, "64x64"), ({"frames": 10}, "9")):
        with pytest.raises(BadInput, match=f"the nearest is {near}"):
            Base.check_unit(config, {**size, **wrong})
    with pytest.raises(BadInput, match=r"frames is given neither by the prompt, .*: give `frames`"):
        Base.check_unit(config, {**size, "frames": None})
    for rate in (0.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="fps must be above 0"):
            Base.check_unit(config, {**size, "fps": rate})


@pytest.mark.parametrize(
    ("settings", "strength", "reason"),
    [({}, 1.0, "above 0 and below 1"), ({}, 0.0, "above 0 and below 1"), ({"steps": 3}, 0.3, "less than one step")],
)
def test_refine_refuses_what_would_do_nothing_or_start_anew(settings, strength, reason):
    with pytest.raises(BadInput, match=reason):
        Refine.Config(sampling=Sampling(**settings), strength=strength)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"shift": 0}, {"guidance": -1}, {"rescale": 2}, {"schedule": "linea"}, {"timesteps": (1, 2)},
     {"timesteps": (2000, 1)}],
)  # fmt: skip
def test_sampling_refuses_nonsense(settings):
    with pytest.raises(BadInput):
        Sampling(**settings)


def test_a_linear_schedule_falls_from_pure_noise_and_shift_raises_it():
    plain, shifted = (Sampling(steps=4, schedule="linear", shift=s).levels() for s in (1.0, 3.0))
    assert plain == [1000, 750, 500, 250]
    assert shifted[0] == 1000
    assert all(a < b for a, b in zip(plain[1:], shifted[1:], strict=True))
    assert Sampling(steps=4).levels() == []
    assert Sampling(timesteps=(1000, 421, 0)).levels() == [1000, 421, 0]


def test_families_are_found_and_a_typo_names_its_nearest():
    assert "ltx" in families()
    with pytest.raises(BadInput, match="did you mean 'ltx'"):
        load_family("ltxv")


def codec_of(folder):
    return load_family("ltx").codec(ModelConfig(checkpoint=str(folder), device="cpu"))


def test_encode_is_the_posterior_mean_and_its_latent_decodes(checkpoint):
    codec = codec_of(checkpoint)
    frames = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), dtype=np.uint8)
    latent = codec.encode(frames)
    assert latent.shape == (8, 3, 4, 6)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        wanted = codec.network.encode(pixels).latent_dist.mode()[0]
    np.testing.assert_array_equal(latent, wanted.numpy())
    assert codec.decode(latent, DecodeRecipe()).shape == frames.shape


def test_tiles_and_chunks_do_not_stay_on_and_keep_the_size(checkpoint):
    codec = codec_of(checkpoint)
    latent = np.random.default_rng(0).standard_normal((8, 5, 8, 8)).astype(np.float32)
    whole = codec.decode(latent, DecodeRecipe())
    for recipe in (DecodeRecipe(tiling=64), DecodeRecipe(chunk=8), DecodeRecipe(tiling=64, chunk=8)):
        assert codec.decode(latent, recipe).shape == whole.shape == (17, 128, 128, 3)
    assert (codec.decode(latent, DecodeRecipe(tiling=64)) != whole).any()
    np.testing.assert_array_equal(codec.decode(latent, DecodeRecipe()), whole)


@pytest.fixture
def noisy_vae(tmp_path):
    """A VAE that denoises while decoding and injects noise from the global generator, as LTX-Video 0.9.1 does."""
    folder = build(tmp_path / "noisy", SHAPES["16x4"])
    old = AutoencoderKLLTXVideo.from_pretrained(folder / "vae")
    torch.manual_seed(0)
    new = AutoencoderKLLTXVideo.from_config(
        {**old.config, "timestep_conditioning": True, "decoder_inject_noise": (True, True, True)}
    )
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            if "per_channel_scale" in name:
                parameter.fill_(0.5)
    new.save_pretrained(folder / "vae")
    return folder


def test_a_vae_that_draws_noise_is_steered_by_the_recipes_seed(noisy_vae):
    codec = codec_of(noisy_vae)
    latent = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32)
    assert (codec.vae.decode.timestep, codec.vae.decode.noise_scale) == (0.05, 0.025)
    recipe = DecodeRecipe(timestep=0.05, noise_scale=0.025, seed=3)
    state = torch.get_rng_state()
    first = codec.decode(latent, recipe)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    np.testing.assert_array_equal(codec.decode(latent, recipe), first)
    for other in ({"seed": 4}, {"timestep": 0.5}, {"noise_scale": 0.9}):
        changed = DecodeRecipe(**{"timestep": 0.05, "noise_scale": 0.025, "seed": 3, **other})
        assert (codec.decode(latent, changed) != first).any(), other


def test_an_upsampler_in_one_published_file_equals_the_folder(checkpoint, tmp_path):
    folder = checkpoint / "temporal_upsampler"
    config = {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if k[0] != "_"}
    header = {"config": json.dumps({"_class_name": "LatentUpsampler", **config})}
    save_file(load_file(folder / "diffusion_pytorch_model.safetensors"), tmp_path / "up.safetensors", header)
    one, other = (load_upsampler(p, torch.float32).state_dict() for p in (folder, tmp_path / "up.safetensors"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)
    save_file({"w": torch.ones(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(BadInput, match="no config"):
        load_upsampler(tmp_path / "bare.safetensors", torch.float32)


def test_a_family_names_all_weights_that_the_stages_load() -> None:
    """What the doctor looks for, against what each stage says that it loads."""
    campaign = load_campaign([], {"prompts": ["a test"], "cascade": "tiny"}, [])
    loaded: dict[str, set[str]] = {}
    for ref in campaign.steps.values():
        for key, parts in load_class(ref.use).weights_of(ref.config).items():
            if key.startswith("model."):
                loaded.setdefault(key.removeprefix("model."), set()).update(parts)
    offered = load_family("ltx").offers(campaign.steps["base"].config.model).everything()
    assert loaded == {key: set(parts) for key, parts in offered.items()}
