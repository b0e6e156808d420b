"""The latent contract: what goes in comes out, and nothing that breaks it gets through."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from stages.core.latents.form import (
    STD_BAND,
    BadLatent,
    DecodeRecipe,
    LatentSpec,
    Tensors,
    pack,
    pack_seen,
    pack_text,
    unpack,
    unpack_seen,
    unpack_text,
    unpack_tracks,
)


def spec_of(frames: int, height: int, width: int, s: int = 16, t: int = 4, **changes) -> LatentSpec:
    size = {"width": width * s, "height": height * s, "n_frames": (frames - 1) * t + 1}
    known = {"family": "ltx", "vae_id": "vae-a", "spatial_ratio": s, "temporal_ratio": t}
    return LatentSpec(**{**known, **size, "fps": 8.0, "fps_conditioning": 8.0, **changes})


def noise(spec: LatentSpec, channels: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((channels, *spec.grid)).astype(np.float32)


specs = st.builds(
    spec_of,
    frames=st.integers(1, 5),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    s=st.sampled_from([1, 8, 16, 32]),
    t=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 2**63 - 1),
    fps=st.floats(0.1, 240),
    parents=st.lists(st.text(max_size=70), max_size=3).map(tuple),
    decode=st.builds(DecodeRecipe, timestep=st.floats(0, 1), seed=st.integers(0, 2**63 - 1)),
)


@settings(max_examples=60, deadline=None)
@given(spec=specs, channels=st.integers(2, 6), seed=st.integers(0, 9))
def test_a_latent_comes_back_bit_for_bit_with_its_spec(spec, channels, seed):
    video = noise(spec, channels + 8, seed)
    data = pack(video, spec)
    back, told = unpack(data, "vae-a")
    assert told == spec
    assert back.dtype == np.float32
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, video)
    assert pack(back, told) == data


@settings(max_examples=60, deadline=None)
@given(spec=specs, axis=st.integers(1, 3), more=st.sampled_from([-1, 1, 2]))
def test_a_latent_of_another_size_than_its_spec_is_refused(spec, axis, more):
    shape = [16, *spec.grid]
    shape[axis] = max(0, shape[axis] + more)
    with pytest.raises(BadLatent, match="F, H, W"):
        pack(np.random.default_rng(0).standard_normal(shape).astype(np.float32), spec)


@given(spec=specs, where=st.integers(0, 2**20), value=st.sampled_from([np.nan, np.inf, -np.inf]))
@settings(max_examples=40, deadline=None)
def test_a_single_value_that_is_not_finite_is_refused(spec, where, value):
    video = noise(spec, 16)
    video.flat[where % video.size] = value
    with pytest.raises(BadLatent, match="1 of the"):
        pack(video, spec)


def test_the_order_of_memory_does_not_change_the_bytes():
    spec = spec_of(3, 2, 4)
    video = noise(spec)
    turned = np.asfortranarray(video)
    assert not turned.flags.c_contiguous
    assert pack(turned, spec) == pack(video, spec)
    np.testing.assert_array_equal(unpack(pack(turned, spec))[0], video)


@pytest.mark.parametrize(
    ("video", "reason"),
    [
        (np.ones((1, 12, 8), np.float32), "packed"),
        (np.ones((1, 4, 3, 2, 4), np.float32), "packed"),
        (np.ones((4, 3, 2, 4), np.float64), "float64"),
        (np.ones((4, 3, 2, 4), np.float16), "float16"),
        (np.zeros((4, 3, 2, 4), np.float32), "standard deviation 0"),
    ],
)
def test_other_forms_are_refused(video, reason):
    with pytest.raises(BadLatent, match=reason):
        pack(video, spec_of(3, 2, 4))


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_band_follows_the_scale_of_the_vae(scale):
    spec = spec_of(3, 2, 4, scale=scale)
    video = noise(spec)
    pack(video * np.float32(scale), spec)
    for factor in (STD_BAND[0] / 10, STD_BAND[1] * 10):
        with pytest.raises(BadLatent, match="sane"):
            pack(video * np.float32(scale * factor), spec)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 65}, "65x32"),
        ({"n_frames": 10}, "10 frames"),
        ({"n_frames": 0}, "0 frames"),
        ({"fps": 0.0}, "frame rates"),
        ({"fps_conditioning": -1.0}, "frame rates"),
        ({"spatial_ratio": 0}, "ratios"),
        ({"height": 0}, "64x0"),
    ],
)
def test_a_spec_that_no_vae_could_have_is_refused(changes, reason):
    spec = spec_of(3, 2, 4)
    with pytest.raises(BadLatent, match=reason):
        pack(noise(spec), dataclasses.replace(spec, **changes))


def test_the_hand_off_to_another_vae_is_refused():
    spec = spec_of(3, 2, 4)
    with pytest.raises(BadLatent, match="vae-a, not to vae-b"):
        unpack(pack(noise(spec), spec), "vae-b")


@given(st.binary(max_size=64))
@settings(max_examples=50, deadline=None)
def test_anything_else_is_refused_in_one_sentence(data):
    with pytest.raises(BadLatent):
        unpack(data)


def test_damaged_and_foreign_files_are_refused():
    spec = spec_of(3, 2, 4)
    data = pack(noise(spec), spec)
    for broken in (data[:-1], data[:20], b"", data + b"x"):
        with pytest.raises(BadLatent):
            unpack(broken)
    with pytest.raises(BadLatent, match="not written by a stage"):
        unpack(save({"video": noise(spec)}))
    with pytest.raises(BadLatent, match="no `video`"):
        unpack(pack_text(some_text(), "ltx"))
    with pytest.raises(BadLatent, match="no text embeddings"):
        unpack_text(data)


def some_text(length: int = 6, width: int = 3) -> Tensors:
    rng = np.random.default_rng(1)
    embeds, negative = rng.standard_normal((2, length, width)).astype(np.float32)
    mask = np.arange(length) < 4
    return {"embeds": embeds, "mask": mask, "negative_embeds": negative, "negative_mask": mask[::-1].copy()}


def test_text_embeddings_come_back():
    text = some_text()
    back = unpack_text(pack_text(text, "ltx"), "ltx")
    assert set(back) == set(text)
    for name, tensor in text.items():
        np.testing.assert_array_equal(back[name], tensor)
    assert pack_text(back, "ltx") == pack_text(text, "ltx")
    with pytest.raises(BadLatent, match="'ltx', not 'wan'"):
        unpack_text(pack_text(text, "ltx"), "wan")


def test_what_was_seen_and_further_tracks_come_back_and_keep_their_vae():
    spec = spec_of(2, 1, 1)
    seen = {"image_embeds": np.ones((3, 4), np.float32), "frames": np.full((2, 8, 8, 3), 9, np.uint8)}
    back, told = unpack_seen(pack_seen(seen, spec), spec.vae_id)
    assert told == spec
    for name, tensor in seen.items():
        np.testing.assert_array_equal(back[name], tensor)
    video, audio = np.arange(8, dtype=np.float32).reshape(4, 2, 1, 1), np.ones((2, 5), np.float32)
    tracks, _ = unpack_tracks(pack(video, spec, {"audio": audio}))
    np.testing.assert_array_equal(tracks["audio"], audio)
    np.testing.assert_array_equal(unpack(pack(video, spec, {"audio": audio}))[0], video)
    for broken in (lambda: unpack_seen(pack_seen(seen, spec), "other"), lambda: pack_seen({}, spec)):
        with pytest.raises(BadLatent):
            broken()
    with pytest.raises(BadLatent, match="audio must be finite"):
        pack(video, spec, {"audio": audio * np.inf})


@pytest.mark.parametrize(
    "changes",
    [
        {"embeds": np.full((6, 3), np.nan, np.float32)},
        {"embeds": np.ones((6, 3), np.float64)},
    ],
)
def test_unsound_embeddings_are_refused(changes):
    with pytest.raises(BadLatent):
        pack_text({**some_text(), **changes}, "ltx")


def test_the_bytes_are_the_same_on_every_machine():
    spec = spec_of(2, 1, 1, seed=3, parents=("a",))
    video = np.arange(8, dtype=np.float32).reshape(4, 2, 1, 1)
    found = hashlib.sha256(pack(video, spec)).hexdigest()
    assert found == "bf77df02ba99a39e6466d879ab8dcfa179eb29598e50e1c6332172d7a4d60881"
