"""LTX-2: the sound beside the pictures, the settings of both, and what is refused."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import asdict, replace

import diffusers
import numpy as np
import pytest
from diffusers.pipelines.ltx2.utils import apply_image_conditioning_crf

from stages.base import Base
from stages.core.errors import BadInput
from stages.core.latents.form import BadLatent, DecodeRecipe
from stages.core.sound import BadSound
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Given, Sampling, load_family
from stages.families.engine.schedule import noise_levels
from stages.families.ltx2.pictures import compressed
from stages.refine import Refine
from stages.text import Text
from tests.stages.families_cases import CASES, FIRST, LAST, OTHER, SEED, Stages, call_whole, condition, library, made

RATE = {"2.0": 24000, "2.3": 48000}


def name(case):
    return case.name


LTX2 = [c for c in CASES if c.family == "ltx2"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root, loaded = tmp_path_factory.mktemp("ltx2"), {}

    def get(case):
        if case.name not in loaded:
            loaded[case.name] = Stages(case, made(case, root))
        return loaded[case.name]

    return get


@pytest.mark.parametrize("case", [LTX2[0], LTX2[2]], ids=name)
def test_the_sound_of_the_split_chain_is_that_of_the_librarys_one_call(case, tiny):
    stages = tiny(case)
    given = stages.given()
    tracks, pipeline = stages.tracks(given), library(case, stages.folder)
    seconds = case.size[2] / 8.0
    sound = stages.family.sound(stages.model).decode(tracks["audio"], seconds)
    wave = call_whole(case, pipeline, "np").audio[0].numpy()
    assert sound.rate == RATE[case.maker] == pipeline.vocoder.config.output_sampling_rate
    assert sound.samples.shape == (2, round(seconds * sound.rate))
    both = min(wave.shape[1], sound.samples.shape[1])
    np.testing.assert_allclose(sound.samples[:, :both], wave[:, :both], rtol=0, atol=1e-6)
    assert abs(wave.shape[1] / sound.rate - seconds) < 0.05, "what is added is less than two frames of a film"
    assert not sound.samples[:, both:].any()
    assert np.isfinite(sound.loudness)
    for what, moved in {
        "seed": stages.tracks(given, seed=SEED + 1),
        "prompt": stages.tracks(stages.given(prompt=OTHER)),
        **{knob: stages.tracks(given, knobs={knob: 0.2}) for knob in stages.offers.knobs if knob.startswith("audio")},
    }.items():
        assert np.abs(moved["audio"] - tracks["audio"]).max() >= 100 * case.bound, what
    for knob in {"modality", "rescale", "stg"} & set(stages.offers.knobs):
        moved = stages.tracks(given, knobs={knob: 0.2})["video"]
        assert np.abs(moved - tracks["video"]).max() >= 100 * case.bound, knob


def test_a_scale_of_0_for_the_sound_is_0(tiny):
    """The library takes it for one that is not given, and then that of the pictures."""
    stages = tiny(LTX2[1])
    given = stages.given()
    for knob in ("audio_guidance", "audio_stg", "audio_modality", "audio_rescale"):
        none, little = (stages.tracks(given, knobs={knob: value})["audio"] for value in (0, 1e-5))
        np.testing.assert_allclose(none, little, atol=1e-3)
        pictures = {"audio_guidance": 3.0, "audio_stg": 1.0, "audio_modality": 3.0, "audio_rescale": 0.7}[knob]
        assert np.abs(none - stages.tracks(given, knobs={knob: pictures})["audio"]).max() > 1e-2, knob


def test_both_tracks_are_refined_by_the_tail_as_the_library_goes_on_from_latents(tiny):
    """As in its two stages: by the noise levels themselves, without a shift."""
    case = LTX2[0]
    stages = tiny(case)
    given, start = stages.given(), stages.tracks(stages.given(prompt=OTHER), seed=9)
    scheduler = type(stages.denoiser.scheduler).from_config(stages.denoiser.scheduler.config)
    scheduler.set_timesteps(4, **stages.denoiser.schedule(stages.spec(SEED), 4))
    levels = noise_levels(scheduler)
    ours = stages.tracks(given, start=start, level=levels[2])
    pipeline = library(case, stages.folder)
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    import torch

    more = {
        "sigmas": levels[2:],
        "noise_scale": levels[2],
        "latents": torch.from_numpy(start["video"])[None],
        "audio_latents": torch.from_numpy(start["audio"])[None],
    }
    whole = call_whole(replace(case, one_call=lambda media: more), pipeline, "latent", steps=2)
    np.testing.assert_allclose(ours["video"], whole.frames[0].numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours["audio"], whole.audio[0].numpy(), rtol=0, atol=1e-5)
    other = stages.tracks(given, start={**start, "audio": start["audio"] * 0.5}, level=levels[2])
    assert np.abs(other["audio"] - ours["audio"]).max() > 1e-3
    with pytest.raises(BadInput, match="this latent has no sound"):
        stages.tracks(given, start={"video": start["video"]}, level=levels[2])
    with pytest.raises(BadInput, match=r"refine\.window: .* pictures and sound at once"):
        Refine.check_unit(Refine.Config(model=stages.model, window=9), {})


def test_the_sound_goes_by_the_rate_of_playback_and_the_model_by_the_other(tiny):
    stages = tiny(LTX2[0])
    given, spec, sampling = stages.given(), stages.spec(SEED), Sampling(steps=2, guidance=3.0)
    plain, told, slow = (
        stages.denoiser.denoise(given, s, sampling)
        for s in (spec, replace(spec, fps_conditioning=16.0), replace(spec, fps=16.0, fps_conditioning=16.0))
    )
    assert plain["audio"].shape == told["audio"].shape
    assert slow["audio"].shape[1] == plain["audio"].shape[1] // 2
    assert np.abs(plain["video"] - told["video"]).max() > 1e-4


def test_sound_that_is_not_that_of_the_pictures_is_refused(tiny):
    stages = tiny(LTX2[0])
    sound, audio = stages.family.sound(stages.model), stages.tracks(stages.given())["audio"]
    with pytest.raises(BadSound, match=r"the sound lasts 1\.090 s and the pictures 2\.125 s"):
        sound.decode(audio, 17 / 8)
    with pytest.raises(BadSound, match="samples of the sound are not finite"):
        sound.decode(np.full_like(audio, np.nan), 9 / 8)
    with pytest.raises(BadLatent, match=r"audio is \[2, length, mel bins\]"):
        sound.decode(audio[:1], 9 / 8)
    with pytest.raises(BadLatent, match="ltx2 takes the embeddings"):
        stages.denoiser.denoise(Given(), stages.spec(SEED), Sampling(steps=1))


def test_pictures_are_compressed_as_the_library_does_with_one_thread(tiny):
    """A small picture has no slices; of a larger one the library makes another picture on another machine."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for crf in (18, 33):
        np.testing.assert_array_equal(np.asarray(compressed(picture, crf)), apply_image_conditioning_crf(picture, crf))
    np.testing.assert_array_equal(np.asarray(compressed(picture, 0)), picture)
    stages = tiny(LTX2[2])
    plain, rough = stages.given().seen["encoded.0"], stages.given(crf=51).seen["encoded.0"]
    assert np.abs(plain - rough).max() > 1e-3


KEYFRAME = condition("still", "keyframe", frame=9)
REFUSED = [
    ({"width": 80}, (), r"width and height must be multiples of 32, at least 64; the nearest is"),
    ({"width": 32}, (), r"must be multiples of 32, at least 64; the nearest is 64x64"),
    ({"frames": 16}, (), r"they must be k \* 8 \+ 1; the nearest is 17"),
    ({}, (replace(KEYFRAME, frame=4),), r"names frame 4: ltx2 \(2\.0\) takes it at frames k \* 8 \+ 1 only; .* is 1"),
    ({}, (KEYFRAME, LAST), r"`keyframes` and `last_image` both name frames 9 to 16; leave one out"),
    ({}, (replace(FIRST, level=0.5),), r"does not use the level of `image`"),
    ({}, (condition("source", level=0.5),), r"takes no `video`; these do: animatediff, ltx, skyreels, svd, wan"),
    ({}, (condition("sound"),), r"takes no `sound`; no family here does"),
]


@pytest.mark.parametrize(("size", "conditions", "said"), REFUSED)
def test_what_it_cannot_make_is_said_before_any_work(tiny, size, conditions, said):
    unit = {"width": 64, "height": 64, "frames": 17, "fps": 8.0, "guidance": 3.0, **size}
    with pytest.raises(BadInput, match=said):
        Base.check_unit(Base.Config(model=tiny(LTX2[0]).model), {**unit, "conditions": [asdict(c) for c in conditions]})


def test_settings_that_would_change_nothing_are_refused(tiny):
    older, newer = tiny(LTX2[0]), tiny(LTX2[1])
    assert {"stg", "audio_stg"} == set(newer.offers.knobs) - set(older.offers.knobs), "only what can be perturbed"
    for sampling, said in (
        (Sampling(knobs={"stg": 1.0}), r"ltx2 \(2\.0\) has no such setting"),
        (Sampling(steps=1), r"sampling\.steps is 1; ltx2 \(2\.0\) needs 2 at least"),
        (Sampling(rescale=0.5), r"sampling\.rescale: ltx2 \(2\.0\) does not use it"),
        (Sampling(scheduler={"name": "UniPCMultistepScheduler"}), "cannot sample with 'UniPCMultistepScheduler'"),
    ):
        unit = {"width": 64, "height": 64, "frames": 9, "fps": 8.0, "guidance": 3.0, "conditions": None}
        with pytest.raises(BadInput, match=said):
            Base.check_unit(Base.Config(model=older.model, sampling=sampling), unit)
    with pytest.raises(BadInput, match=r"text\.max_tokens is 64; for ltx2 it must be a multiple of 128, or 0"):
        Text.check_unit(Text.Config(model=older.model, max_tokens=64), {})
    Text.check_unit(Text.Config(model=older.model, max_tokens=256), {})


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("text_encoder", {"model_type": "gemma4"}, "is of the kind gemma4; ltx2 runs LTX-2 and LTX-2.3"),
        ("vae", {"timestep_conditioning": True}, "denoises while it decodes, which ltx2 does not run"),
    ],
)
def test_checkpoints_that_it_was_not_made_for_are_refused(tiny, tmp_path, part, change, said):
    folder = shutil.copytree(tiny(LTX2[0]).folder, tmp_path / "copy")
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadInput, match=said):
        load_family("ltx2").offers(ModelConfig(family="ltx2", checkpoint=str(folder)))


def test_every_pipeline_has_the_arguments_that_steer_both_tracks(tiny):
    """What is given by name could be renamed without a word: the calls take these and no others of the kind."""
    for case in LTX2:
        found = inspect.signature(getattr(diffusers, case.pipeline).__call__).parameters
        steered = {n for n in found if n.endswith(("_scale", "_rescale")) and not n.startswith("decode")}
        bound = {"noise_scale", *(k for k in tiny(case).denoiser.variant.bind(_call(tiny(case))))}
        assert steered <= bound, steered - bound


def _call(stages):
    return stages.denoiser._call(stages.given(), stages.spec(SEED), Sampling(steps=1, guidance=3.0))


def test_a_clip_that_is_decoded_in_chunks_has_each_frame_once_and_in_time(tiny):
    """The library's own chunks show what is behind the first one a frame late."""
    codec = tiny(LTX2[0]).codec
    latent = np.random.default_rng(0).normal(size=(codec.vae.channels, 8, 2, 2)).astype(np.float32)
    whole, pieces = codec.decode(latent, DecodeRecipe()), list(codec.stream(latent, DecodeRecipe(chunk=48)))
    assert len(pieces) > 2
    found = np.concatenate(pieces)
    assert found.shape == whole.shape == (57, 64, 64, 3)
    late = {n: np.abs(found[8:-8].astype(int) - whole[8 + n : 49 + n]).mean() for n in (-1, 0, 1)}
    assert min(late, key=late.get) == 0, late
