"""Caches, attention back ends and offloading: the library's result with the same setting, and nothing left behind."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import LTXConditionPipeline
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from stages.base import Base
from stages.core.errors import BadInput
from stages.core.latents.form import LatentSpec
from stages.core.step import StepRef
from stages.core.weights.digests import fingerprint
from stages.core.weights.lora import LoraConfig
from stages.families.accelerations import BACK_ENDS, CACHES, FETCHED, is_there
from stages.families.contract import Given, Sampling, load_family
from stages.families.engine.accelerate import accelerating
from stages.families.engine.runtime import quiet, visiting
from stages.families.loading import load_part
from stages.families.offers import Offers, SizeRule
from stages.families.settings import check_quantize, check_sampling
from stages.refine import Refine
from tests.stages.families_cases import NEGATIVE, PROMPT, SEED, Case, Stages, call_whole, case_of, library

INT8 = {"transformer": {"backend": "quanto", "weights_dtype": "int8"}}
AO8 = {"transformer": {"backend": "torchao", "quant_type": "Int8WeightOnlyConfig"}}
LONG = 8
"""Steps, so that there are some to leave out."""
RATIOS = [0.99, 0.98, 0.97, 0.9]
ASKED = {
    "FirstBlockCache": {"threshold": 0.5},
    "TaylorSeerCache": {"cache_interval": 2, "disable_cache_before_step": 1},
    "MagCache": {"threshold": 0.5, "mag_ratios": RATIOS},
    "SeaCache": {"threshold": 5.0},
    "PyramidAttentionBroadcast": {
        "spatial_attention_block_skip_range": 2, "spatial_attention_timestep_skip_range": [-1, 1001],
    },
}  # fmt: skip
NAMES = [
    "wan-t2v",
    "wan-two-experts",
    "wan-i2v",
    "wan-vace-control",
    "skyreels-diffusion-forcing-text",
    "ltx2-2.3-text",
]


def networks(pipeline) -> list:
    found = [getattr(pipeline, name, None) for name in ("transformer", "transformer_2")]
    return [one for one in found if one is not None]


def of_library(name: str, lite: bool = True):
    """The library's own config of a cache."""
    fixed = {"use_lite_mode": lite} if name == "TaylorSeerCache" else {}
    steps = {"num_inference_steps": LONG} if name == "MagCache" else {}
    return getattr(diffusers, f"{name}Config")(**ASKED[name], **fixed, **steps)


def latent(stages: Stages, given: Given, seed: int = SEED, **more) -> np.ndarray:
    sampling = Sampling(steps=LONG, **{"guidance": stages.case.guidance, **more})
    return stages.denoiser.denoise(given, stages.spec(seed), sampling)["video"]


@pytest.mark.parametrize("name", NAMES)
def test_each_cache_that_is_offered_makes_the_librarys_clip_and_leaves_nothing_behind(tiny, name):
    case = case_of(name)
    stages = tiny(case)
    given, whole = stages.given(), library(case, stages.folder)
    plain, other = latent(stages, given), latent(stages, given, seed=SEED + 1)
    assert stages.offers.caches
    leading = sum(c.kind == "reference" for c, _ in case.conditions)
    for cache in stages.offers.caches:
        asked = {"cache": {"name": cache, **ASKED[cache]}}
        cached = latent(stages, given, **asked)
        for network in networks(whole):
            network.enable_cache(of_library(cache, lite=case.family != "ltx2"))
        made = call_whole(case, whole, "latent", steps=LONG).frames
        for network in networks(whole):
            network.disable_cache()
        wanted = stages.denoiser.form.to_rest(made)[:, leading:]
        np.testing.assert_allclose(cached, wanted, rtol=0, atol=case.bound, err_msg=cache)
        assert np.abs(cached - plain).max() > 1e-3, cache
        # Another take in the same worker, and this one again: each as it is by itself.
        assert np.abs(latent(stages, given, seed=SEED + 1, **asked) - other).max() > 1e-3, cache
        np.testing.assert_array_equal(latent(stages, given, **asked), cached)
        np.testing.assert_array_equal(latent(stages, given), plain)
        np.testing.assert_array_equal(latent(stages, given, seed=SEED + 1), other)


def ltx(model) -> tuple:
    """The embedded kind of family, which has stages of its own: its denoiser, a text, a spec."""
    family = load_family("ltx")
    denoiser, reader = family.denoiser(model), family.text(model)
    vae, text = denoiser.vae, reader.encode(PROMPT, NEGATIVE, 16)[0]
    spec = LatentSpec(
        family="ltx", vae_id=vae.vae_id, scale=vae.scale, seed=SEED, spatial_ratio=vae.spatial_ratio,
        temporal_ratio=vae.temporal_ratio, width=64, height=64, n_frames=9, fps=8.0, fps_conditioning=8.0,
    )  # fmt: skip
    return family, denoiser, Given(text=text), spec


def test_each_cache_of_ltx_makes_the_librarys_clip_and_refines_with_the_end_of_its_ratios(model, checkpoint):
    family, denoiser, given, spec = ltx(model)
    sampling = Sampling(steps=LONG, guidance=3.0)
    plain = denoiser.denoise(given, spec, sampling)["video"]
    whole = LTXConditionPipeline.from_pretrained(checkpoint)
    whole.set_progress_bar_config(disable=True)
    for cache in family.offers(model).caches:
        cached = denoiser.denoise(given, spec, replace(sampling, cache={"name": cache, **ASKED[cache]}))["video"]
        config = of_library(cache)
        if cache == "PyramidAttentionBroadcast":
            config.current_timestep_callback = lambda: whole.current_timestep
        whole.transformer.enable_cache(config)
        torch.manual_seed(SEED)
        made = whole(
            prompt=PROMPT, negative_prompt=NEGATIVE, width=64, height=64, num_frames=9, frame_rate=8.0,
            num_inference_steps=LONG, guidance_scale=3.0, image_cond_noise_scale=0.0, max_sequence_length=16,
            generator=torch.Generator().manual_seed(SEED), output_type="latent",
        ).frames  # fmt: skip
        whole.transformer.disable_cache()
        wanted = denoiser.card.denormalize(made)
        np.testing.assert_allclose(cached, wanted, rtol=0, atol=1e-5, err_msg=cache)
        assert np.abs(cached - plain).max() > 1e-3, cache
        np.testing.assert_array_equal(denoiser.denoise(given, spec, sampling)["video"], plain)
    mag = replace(sampling, cache={"name": "MagCache", **ASKED["MagCache"]})
    with accelerating(denoiser.pipeline, [denoiser.pipeline.transformer], mag, skip=5):
        config = denoiser.pipeline.transformer._cache_config
        assert config.num_inference_steps == 3
        np.testing.assert_allclose(config.mag_ratios.numpy(), [0.97, 0.9, 0.9], rtol=1e-6)
    start = {"video": plain}
    refined = denoiser.denoise(given, spec, mag, start, 0.5)["video"]
    assert np.isfinite(refined).all()
    assert np.abs(refined - denoiser.denoise(given, spec, sampling, start, 0.5)["video"]).max() > 0


def test_an_attention_back_end_computes_what_torch_does_and_is_put_back(tiny, model):
    stages, before = tiny(case_of("wan-t2v")), _AttentionBackendRegistry._active_backend
    given, asked = stages.given(), AttentionBackendName._NATIVE_MATH
    plain, real, called = latent(stages, given), _AttentionBackendRegistry._backends[asked], []
    _AttentionBackendRegistry._backends[asked] = lambda *a, **k: called.append(1) or real(*a, **k)
    try:
        other = latent(stages, given, attention="_native_math")
    finally:
        _AttentionBackendRegistry._backends[asked] = real
    assert called
    np.testing.assert_allclose(other, plain, rtol=0, atol=1e-5)
    assert _AttentionBackendRegistry._active_backend == before
    np.testing.assert_array_equal(latent(stages, given), plain)
    _, denoiser, given, spec = ltx(model)
    sampling = Sampling(steps=2, guidance=3.0)
    np.testing.assert_allclose(
        denoiser.denoise(given, spec, replace(sampling, attention="_native_math"))["video"],
        denoiser.denoise(given, spec, sampling)["video"], rtol=0, atol=1e-5,
    )  # fmt: skip
    with pytest.raises(BadInput, match=r"sampling\.attention: _native_efficient needs a GPU"):
        latent(stages, given, attention="_native_efficient")


def test_every_back_end_and_cache_that_is_known_is_one_of_the_library():
    assert {*BACK_ENDS, *FETCHED} <= {name.value for name in AttentionBackendName}
    for name, cache in CACHES.items():
        known = getattr(diffusers, f"{name}Config").__dataclass_fields__
        assert set(cache.settings) <= set(known)
        for own, knob in cache.settings.items():
            assert knob.default is None or knob.default == known[own].default


PLAIN = Offers(
    size=SizeRule(step=8), parts={}, attention="plain", caches=("FirstBlockCache", "MagCache"), uncached=("window",)
)
MASKED = replace(PLAIN, attention="masked", caches=())


@pytest.mark.parametrize(
    ("offers", "sampling", "said"),
    [
        (PLAIN, {"attention": "falsh"}, r"s\.attention: there is no attention back end 'falsh'; did you mean 'flash'"),
        (PLAIN, {"attention": "sage"}, "sage needs the package sageattention, which is not installed: install it"),
        (PLAIN, {"attention": "flash_hub"}, "flash_hub would download a program from the hub and run it"),
        (MASKED, {"attention": "flash"}, "x masks attention, which flash cannot do; these can: native, "),
        (
            replace(PLAIN, attention=""),
            {"attention": "native"},
            "x computes attention in one way only; leave it out",
        ),
        (PLAIN, {"cache": {"name": "FirstBlokCache"}}, r"s\.cache\.name: there is no cache 'FirstBlokCache'; did you"),
        (PLAIN, {"cache": {"threshold": 1}}, r"s\.cache\.name: there is no cache ''; known: FirstBlockCache, "),
        (PLAIN, {"cache": {"name": "SeaCache"}}, "SeaCache does not work with x; these do: FirstBlockCache, MagCache"),
        (MASKED, {"cache": {"name": "SeaCache"}}, "the denoiser of x takes no cache; leave it out"),
        (PLAIN, {"cache": {"name": "FirstBlockCache", "treshold": 1}}, r"s\.cache\.treshold: FirstBlockCache has no"),
        (
            PLAIN,
            {"cache": {"name": "FirstBlockCache", "threshold": -1}},
            r"s\.cache\.threshold must be a number from 0",
        ),
        (PLAIN, {"cache": {"name": "MagCache"}}, r"s\.cache\.mag_ratios is missing: give the checkpoint's ratios"),
        (PLAIN, {"cache": {"name": "MagCache", "mag_ratios": 1}}, r"mag_ratios must be a list of numbers, not 1"),
        (
            PLAIN,
            {"cache": {"name": "MagCache", "mag_ratios": [1, "a"]}},
            r"mag_ratios must be a list of numbers from 0",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(offers, sampling, said):
    with pytest.raises(BadInput, match=said):
        check_sampling("s", "x", offers, Sampling(**sampling))


@pytest.mark.parametrize(
    ("name", "sampling", "said"),
    [
        ("animatediff-text-to-video", {"cache": {"name": "FirstBlockCache"}}, "the denoiser of animatediff takes no"),
        ("animatediff-text-to-video", {"attention": "flex"}, "animatediff computes attention in one way only"),
        ("wan-t2v", {"cache": {"name": "PyramidAttentionBroadcast"}}, r"does not work with wan \(T2V\); these do: "),
        ("wan-two-experts", {"cache": {"name": "MagCache", "mag_ratios": [1.0]}}, "MagCache does not work with wan"),
        ("wan-i2v", {"cache": {"name": "SeaCache"}}, r"SeaCache does not work with wan \(I2V\)"),
        ("ltx2-2.0", {"cache": {"name": "PyramidAttentionBroadcast"}}, r"does not work with ltx2 \(2\.0\)"),
        ("ltx2-2.0", {"attention": "_native_flash"}, "masks attention, which _native_flash cannot do"),
    ],
)  # fmt: skip
def test_what_a_family_does_not_take_is_refused_while_the_campaign_is_checked(tiny, name, sampling, said):
    stages = tiny(case_of(name))
    with pytest.raises(BadInput, match=said):
        Refine.check_unit(Refine.Config(model=stages.model, sampling=Sampling(**sampling)), {})


def test_what_is_set_is_identity_and_what_is_not_set_is_no_part_of_it(model):
    def mark(**sampling) -> str:
        config = Base.Config(model=model, sampling=Sampling(**sampling))
        return fingerprint(StepRef("base", "stages.base:Base", config, Base.resources))

    marks = [
        mark(), mark(attention="native"), mark(cache={"name": "FirstBlockCache"}),
        mark(cache={"name": "FirstBlockCache", "threshold": 0.1}),
    ]  # fmt: skip
    assert len(set(marks)) == 4
    assert mark(attention="", cache={}) == marks[0]


def test_two_experts_are_guided_and_divided_as_the_library_does_it(tiny):
    case = case_of("wan-two-experts")
    stages = tiny(case)
    given, found = stages.given(), []
    for knobs in ({}, {"guidance_2": 1.5}, {"boundary": 0.3}, {"guidance_2": 1.5, "boundary": 0.98}):
        whole = library(case, stages.folder)
        if "boundary" in knobs:
            whole.register_to_config(boundary_ratio=knobs["boundary"])
        second = {"guidance_scale_2": knobs["guidance_2"]} if "guidance_2" in knobs else {}
        wanted = call_whole(replace(case, one_call=lambda m, more=second: more), whole, "latent", steps=LONG).frames
        found.append(latent(stages, given, knobs=knobs))
        np.testing.assert_allclose(found[-1], stages.denoiser.form.to_rest(wanted), rtol=0, atol=case.bound)
    assert min(np.abs(a - b).max() for i, a in enumerate(found) for b in found[:i]) > 1e-3
    np.testing.assert_array_equal(latent(stages, given), found[0])  # the checkpoint's boundary again


def test_a_pipeline_runs_where_it_is_told_and_not_where_visiting_weights_lie(tiny):
    stages = tiny(case_of("wan-t2v"))
    for pipeline in (stages.denoiser.pipeline, stages.reader.pipeline):
        assert isinstance(pipeline, diffusers.WanPipeline)
        assert pipeline._execution_device == torch.device("cpu")
    told = quiet(diffusers.WanPipeline(**{**dict.fromkeys(stages.denoiser.pipeline.components)}), torch.device("meta"))
    assert told._execution_device == torch.device("meta")


def test_animatediff_goes_over_a_long_clip_in_windows_as_the_library_does(tiny):
    """FreeNoise, which the library refuses beside embeddings; and the next clip without it is as if it never was."""
    case = replace(case_of("animatediff-text-to-video"), size=(64, 64, 10))
    stages, found = Stages(case, tiny(case_of("animatediff-text-to-video")).folder), []
    given, plain = stages.given(), latent(stages, stages.given())
    for window, stride in ((4, 2), (4, 3), (6, 2)):
        whole = library(case, stages.folder)
        whole.__dict__["motion_adapter"] = SimpleNamespace(config=whole.unet.config)
        whole.enable_free_noise(context_length=window, context_stride=stride)
        wanted = stages.denoiser.form.to_rest(call_whole(case, whole, "latent", steps=LONG).frames)
        found.append(latent(stages, given, knobs={"window": window, "stride": stride}))
        # The library blends one prompt's embedding with itself, which rounds it.
        np.testing.assert_allclose(found[-1], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert min(np.abs(a - b).max() for a, b in combinations([plain, *found], 2)) > 1e-3
    np.testing.assert_array_equal(latent(stages, given), plain)
    assert np.isfinite(latent(stages, given, guidance=1.0, knobs={"window": 4})).all()
    with pytest.raises(BadInput, match=r"sampling\.knobs\.stride is 4; it must be at most window, 3"):
        latent(stages, given, knobs={"window": 3})
    unit = {"width": 64, "height": 64, "frames": 40, "fps": 8.0, "guidance": 2.0, "conditions": None}
    with pytest.raises(BadInput, match="cannot make 40 frames: they must be at most 32"):
        Base.check_unit(Base.Config(model=stages.model), unit)
    long = Sampling(knobs={"window": 16})
    Base.check_unit(Base.Config(model=stages.model, sampling=long), unit)
    with pytest.raises(BadInput, match=r"base\.sampling\.knobs\.window: windows do not go with base\."):
        Base.check_unit(Base.Config(model=replace(stages.model, offload="group"), sampling=long), unit)


@pytest.mark.parametrize("how", ["model", "sequential", "group"])
def test_weights_that_visit_the_device_make_the_same_clip_with_and_without_a_cache(tiny, how):
    """On the CPU, which is the device and the host at once; on a GPU it was not run."""
    case: Case = case_of("wan-two-experts")
    stages = tiny(case)
    given, plain = stages.given(), latent(stages, stages.given())
    cache = {"name": "FirstBlockCache", **ASKED["FirstBlockCache"]}
    cached = latent(stages, given, cache=cache)
    fresh, turns = Stages(case, stages.folder), []
    for name in ("transformer", "transformer_2"):
        turns += visiting(fresh.denoiser.parts[name], how, torch.device("cpu"), turns)
    assert len(turns) == (2 if how == "model" else 0)
    np.testing.assert_allclose(latent(fresh, given), plain, rtol=0, atol=1e-6)
    np.testing.assert_allclose(latent(fresh, given, cache=cache), cached, rtol=0, atol=1e-6)
    np.testing.assert_allclose(latent(fresh, given), plain, rtol=0, atol=1e-6)


QUANTIZED = [
    ("wan-t2v", {"vae": {"backend": "quanto"}}, {}, r"does not hold vae in fewer bits; these can: transformer"),
    ("animatediff-text-to-video", {"unet": {"backend": "quanto"}}, {}, "fewer bits; none of its networks can"),
    ("wan-t2v", {"transformer": {"backend": "quant"}}, {}, r"there is no 'quant'; did you mean 'quanto'"),
    (
        "wan-t2v",
        {"transformer": {"backend": "quanto", "bits": 8}},
        {},
        r"transformer\.bits: quanto has no such setting",
    ),
    ("wan-t2v", {"transformer": {"backend": "torchao"}}, {}, r"transformer\.quant_type is missing: torchao needs it"),
    ("wan-t2v", {"transformer": {"backend": "bitsandbytes_4bit"}}, {}, "needs the package bitsandbytes, which is not"),
    ("wan-t2v", INT8, {"there": True, "offload": "group"}, r"base\.model\.offload: weights in fewer bits do not visit"),
    (
        "wan-t2v",
        INT8,
        {"there": True, "lora": LoraConfig(path="a")},
        r"base\.lora: an adapter is added to whole weights",
    ),
    (
        "wan-t2v",
        {"transformer": {"backend": "bitsandbytes_8bit"}},
        {"there": True},
        r"bitsandbytes_8bit needs a GPU, and base\.model\.device is cpu",
    ),
]


@pytest.mark.parametrize(("name", "quantize", "more", "said"), QUANTIZED)
def test_weights_in_fewer_bits_are_refused_where_they_do_not_go(tiny, monkeypatch, name, quantize, more, said):
    stages = tiny(case_of(name))
    if more.get("there"):  # as on a machine that has the packages
        monkeypatch.setattr("stages.families.settings.is_there", lambda package: True)
    model = replace(stages.model, quantize=quantize, offload=more.get("offload", "none"))
    with pytest.raises(BadInput, match=said):
        check_quantize("base", stages.offers, model, more.get("lora", LoraConfig()))
    check_quantize("base", stages.offers, stages.model, LoraConfig())


@pytest.mark.parametrize(("backend", "quantize"), [("optimum.quanto", INT8), ("torchao", AO8)])
def test_weights_in_eight_bits_are_those_of_the_library_and_move_the_clip_a_little(tiny, backend, quantize):
    """Runs where the package is installed, on the CPU."""
    if not is_there(backend):
        pytest.skip(f"{backend} is not installed")
    stages = tiny(case_of("wan-t2v"))
    model = replace(stages.model, quantize=quantize)
    Base.check_unit(Base.Config(model=model), {"width": 32, "height": 32, "frames": 9, "fps": 8.0, "conditions": None})
    denoiser, whole = stages.family.denoiser(model), library(stages.case, stages.folder)
    folder = stages.folder / "transformer"
    whole.transformer = load_part(diffusers.WanTransformer3DModel, folder, torch.float32, quantize["transformer"])
    assert whole.transformer.is_quantized
    given, sampling = stages.given(), Sampling(steps=LONG, guidance=stages.case.guidance)
    made = denoiser.denoise(given, stages.spec(SEED), sampling)["video"]
    wanted = denoiser.form.to_rest(call_whole(stages.case, whole, "latent", steps=LONG).frames)
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5)
    assert 1e-5 < np.abs(made - latent(stages, given)).max() < 1
