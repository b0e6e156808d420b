"""Families of the engine: the split chain equals the library's one call, and nothing that is given is ignored."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
from collections.abc import Mapping
from itertools import combinations, pairwise
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from stages.base import Base
from stages.core.conditions import KINDS, Condition, prompt_key
from stages.core.errors import BadInput
from stages.core.latents.form import BadLatent, DecodeRecipe
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import FILE, LoraConfig
from stages.decode import Decode
from stages.extend import Extend
from stages.families.contract import Given, Sampling, families, load_family, refuse_conditions
from stages.families.engine.schedule import is_flow, make_scheduler, noise_levels, renoise, skipped, tail
from stages.families.offers import Accepts
from stages.see import See
from stages.text import Text
from tests.stages.families_cases import (
    CASES,
    NEGATIVE,
    OTHER,
    PROMPT,
    SEED,
    STEPS,
    TOKENS,
    Stages,
    call,
    call_whole,
    case_of,
    condition,
    library,
    video,
)

MOVED = 100
"""Everything that is given moves the latent by so many times the bound of the comparison, at least."""


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_split_chain_equals_the_librarys_one_call(case, tiny):
    stages = tiny(case)
    given = stages.given()
    tracks, pipeline = stages.tracks(given), library(case, stages.folder)
    latent = tracks["video"]
    leading = sum(c.kind == "reference" for c, _ in case.conditions)
    made_at_once = call_whole(case, pipeline, "latent")
    whole = stages.denoiser.form.to_rest(made_at_once.frames)[:, leading:]
    np.testing.assert_allclose(latent, whole, rtol=0, atol=case.bound)
    assert tuple(tracks) == stages.offers.tracks
    if "audio" in tracks:
        np.testing.assert_allclose(tracks["audio"], made_at_once.audio[0].numpy(), rtol=0, atol=case.bound)
    shown = np.round(call(case, pipeline, "np")[0][-case.size[2] :] * 255)
    if not leading:  # the pipeline decodes what references are made of too
        frames = stages.frames(latent)
        assert frames.shape == shown.shape
        assert np.abs(frames.astype(float) - shown).max() <= 1
    moved = {"seed": stages.latent(given, seed=SEED + 1), "guidance": stages.latent(given, guidance=case.guidance + 2)}
    if stages.reader:
        moved["prompt"] = stages.latent(stages.given(prompt=OTHER))
    for number, (one, _) in enumerate(case.conditions):
        media = case.media()
        media[number] = case.media(seed=1)[number]
        moved[one.words] = stages.latent(stages.given(media=media))
    least = {name: float(np.abs(other - latent).max()) for name, other in moved.items()}
    assert min(least.values()) >= MOVED * case.bound, least


def test_the_noise_on_a_picture_is_that_of_the_seed_and_of_its_strength(tiny):
    stages = tiny(case_of("svd-image-to-video"))
    plain, again = stages.given().seen, stages.given().seen
    assert all(np.array_equal(plain[k], again[k]) for k in plain)
    for other in (stages.given(seed=9).seen, stages.given(noise_aug=0.5).seen):
        assert np.abs(other["encoded.0"] - plain["encoded.0"]).max() > 1e-3
        np.testing.assert_array_equal(other["looked.0"], plain["looked.0"])
    assert float(stages.given(noise_aug=0.5).seen["knob.noise_aug"][0]) == 0.5
    base = stages.latent(stages.given())
    for knobs in ({"motion_bucket": 10}, {"guidance_first": 2.5}):
        assert np.abs(stages.latent(stages.given(), knobs=knobs) - base).max() > 1e-3


REFINED = [
    ("wan-t2v", "WanVideoToVideoPipeline", "UniPCMultistepScheduler"),
    ("wan-t2v", "WanVideoToVideoPipeline", "FlowMatchEulerDiscreteScheduler"),
    ("animatediff-text-to-video", "AnimateDiffVideoToVideoPipeline", "DDIMScheduler"),
    ("animatediff-text-to-video", "AnimateDiffVideoToVideoPipeline", "EulerDiscreteScheduler"),
    ("animatediff-controlnet", "AnimateDiffVideoToVideoControlNetPipeline", "DDIMScheduler"),
]


@pytest.mark.parametrize(("name", "pipeline", "scheduler"), REFINED)
def test_the_tail_of_a_schedule_equals_the_video_to_video_pipeline(tiny, name, pipeline, scheduler):
    case, chosen = case_of(name), {"name": scheduler}
    stages = tiny(case)
    given, width, height = stages.given(), case.size[0], case.size[1]
    start = stages.codec.encode(video(*case.size, seed=8))
    ours = make_scheduler(stages.denoiser.scheduler, chosen)
    ours.set_timesteps(STEPS)
    level = noise_levels(ours)[STEPS // 2]
    made_anew = stages.latent(given, start=start, level=level, scheduler=chosen)
    # The library's own pipeline, from the same noise.
    whole = library(case, stages.folder, pipeline)
    whole.scheduler = make_scheduler(stages.denoiser.scheduler, chosen)
    cut = tail(make_scheduler(stages.denoiser.scheduler, chosen), STEPS // 2)
    cut.set_timesteps(STEPS)
    clean = stages.denoiser.form.to_pipeline(start)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(SEED))
    more = case.one_call(case.media())
    if case.family == "wan":
        more["max_sequence_length"] = TOKENS
    found = whole(
        prompt=PROMPT, negative_prompt=NEGATIVE, height=height, width=width, num_inference_steps=STEPS, strength=0.5,
        guidance_scale=case.guidance, latents=renoise(cut, clean, noise), output_type="latent", **more,
    ).frames  # fmt: skip
    np.testing.assert_allclose(made_anew, stages.denoiser.form.to_rest(found), rtol=0, atol=case.bound)
    far = stages.latent(given, start=start, level=noise_levels(ours)[1], scheduler=chosen)
    assert np.abs(made_anew - far).max() >= MOVED * case.bound
    other = stages.latent(given, start=start * 0.5, level=level, scheduler=chosen)
    assert np.abs(made_anew - other).max() >= MOVED * case.bound


def test_head_and_tail_of_a_schedule_are_the_whole_of_it(tiny):
    """For a family without a video to video pipeline: what the whole call holds half way goes through the tail."""
    case = case_of("svd-image-to-video")
    pipeline = library(case, tiny(case).folder)
    half = {}

    def keep(_, step, __, held):
        half.setdefault(step, held["latents"].clone())
        return {}

    arguments = {**case.one_call(case.media()), "width": 64, "height": 64, "num_frames": 4, "output_type": "latent"}
    steps = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(1)}
    whole = pipeline(**arguments, **steps, callback_on_step_end=keep).frames
    pipeline.scheduler = tail(pipeline.scheduler, 2)
    pipeline.scheduler.set_timesteps(STEPS)
    begin = half[1] / pipeline.scheduler.init_noise_sigma
    steps["generator"] = torch.Generator().manual_seed(1)
    rest = pipeline(**arguments, **steps, latents=begin).frames
    np.testing.assert_allclose(rest.numpy(), whole.numpy(), rtol=0, atol=1e-5)


def test_head_and_tail_of_a_schedule_are_the_whole_of_diffusion_forcing(tiny):
    """The library's own call breaks on latents that it is given: what the whole call holds half way goes through."""
    case = case_of("skyreels-diffusion-forcing-text")
    stages, half = tiny(case), {}
    pipeline = library(case, stages.folder)

    def keep(_, step, __, held):
        half.setdefault(step, held["latents"].clone())
        return {}

    width, height, frames = case.size
    arguments = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "max_sequence_length": TOKENS, "output_type": "latent",
                 "width": width, "height": height, "num_frames": frames, "guidance_scale": case.guidance}  # fmt: skip
    plain = {"name": "DPMSolverMultistepScheduler", "solver_order": 1}  # no history, which a tail begins without
    pipeline.scheduler = make_scheduler(pipeline.scheduler, plain)
    whole = pipeline(**arguments, num_inference_steps=STEPS, callback_on_step_end=keep,
                     generator=torch.Generator().manual_seed(1)).frames  # fmt: skip
    with pytest.raises(ValueError, match="not enough values to unpack"):
        pipeline(**arguments, num_inference_steps=STEPS, latents=half[1])
    stages.family.amend(pipeline)
    pipeline.scheduler = tail(pipeline.scheduler, 2)
    rest = pipeline(**arguments, num_inference_steps=STEPS, latents=half[1]).frames
    np.testing.assert_allclose(rest.numpy(), whole.numpy(), rtol=0, atol=1e-5)
    given, start = stages.given(), stages.denoiser.form.to_rest(whole)
    near, far = (stages.latent(given, start=start, level=level, scheduler=plain) for level in (0.8, 0.95))
    assert np.abs(near - far).max() >= MOVED * case.bound
    assert (
        np.abs(near - stages.latent(given, start=start * 0.5, level=0.8, scheduler=plain)).max() >= MOVED * case.bound
    )


@pytest.mark.parametrize("label", ["-text", "-picture"])
def test_diffusion_forcing_in_windows_and_in_a_wave_equals_the_librarys_call(tiny, label):
    """Each knob as the library has it, and each moves the clip. After a picture, the library breaks where the last
    window is short."""
    stages = tiny(case_of("skyreels-diffusion-forcing" + label))
    case = dataclasses.replace(stages.case, size=(32, 32, 33))
    long = Stages(case, stages.folder)
    given = long.given()
    settings = [
        ({}, {}),
        ({"window": 17, "overlap": 9}, {"base_num_frames": 17, "overlap_history": 9}),
        ({"window": 17, "overlap": 5}, {"base_num_frames": 17, "overlap_history": 5}),
        ({"window": 17, "overlap": 9, "overlap_noise": 40},
         {"base_num_frames": 17, "overlap_history": 9, "addnoise_condition": 40}),
        ({"ar_step": 1}, {"ar_step": 1}),
    ]  # fmt: skip
    found = []
    for knobs, arguments in settings:
        asked = dataclasses.replace(case, one_call=lambda m, more=arguments: {**case.one_call(m), **more})
        found.append(long.latent(given, knobs=knobs))
        assert found[-1].shape == (16, 9, 4, 4)
        if label == "-picture" and knobs.get("overlap") == 5:
            with pytest.raises(IndexError):
                call(asked, library(case, long.folder), "latent")
            continue
        whole = long.denoiser.form.to_rest(call(asked, library(case, long.folder), "latent"))
        np.testing.assert_allclose(found[-1], whole, rtol=0, atol=case.bound)
    for one, two in combinations(found, 2):
        assert np.abs(one - two).max() >= MOVED * case.bound
    with pytest.raises(BadInput, match=r"overlap is 17; it must be at most 13, 4 less than window"):
        long.latent(given, knobs={"window": 17})


@pytest.mark.parametrize(
    "family", ["svd-image-to-video", "wan-t2v", "skyreels-diffusion-forcing-text", "animatediff-text-to-video"]
)
def test_every_scheduler_that_is_offered_samples_and_levels_fall(tiny, family):
    case = case_of(family)
    stages = tiny(case)
    given, found = stages.given(), {}
    for name in stages.offers.schedulers:
        scheduler = make_scheduler(stages.denoiser.scheduler, {"name": name})
        scheduler.set_timesteps(STEPS)
        levels = noise_levels(scheduler)
        assert all(0 <= b <= a <= 1 for a, b in pairwise(levels)), (name, levels)
        found[name] = stages.latent(given, scheduler={"name": name})
        assert np.isfinite(found[name]).all()
    assert len({f.tobytes() for f in found.values()}) == len(found)
    with pytest.raises(BadInput, match="has no such setting; "):
        stages.latent(given, scheduler={"flow_shfit": 5})
    with pytest.raises(BadInput, match=r"lies below the last of 4 steps, which begins at 0\."):
        stages.latent(given, start=stages.latent(given), level=1e-4)


def test_a_shift_of_the_schedule_is_kept_when_the_scheduler_is_another():
    own = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    euler = make_scheduler(own, {"name": "FlowMatchEulerDiscreteScheduler"})
    assert euler.config.shift == 3.0
    back = make_scheduler(euler, {"name": "UniPCMultistepScheduler"})
    assert (back.config.flow_shift, back.config.use_flow_sigmas, is_flow(back)) == (3.0, True, True)
    assert make_scheduler(own, {"flow_shift": 5.0}).config.flow_shift == 5.0
    assert skipped(euler, 4, 1.0) == 0


DOCS = Path(__file__).resolve().parents[2] / "docs" / "families.md"


BACK_ENDS = {"plain": "all", "masked": "those that take masks", "": "no choice"}


def what_it_takes(accepts: Mapping[str, Accepts], asks: tuple[str, ...]) -> list[str]:
    """How the page of families tells of what a checkpoint takes: a cell for each key of a prompt, and what it needs."""
    still, control = accepts.get("still"), accepts.get("control")
    roles = still.roles if still else ()
    source = f"with `{'mask' if 'clip' in accepts else 'level'}`" if "source" in accepts else ""
    assert not source or accepts["source"].must == ("level",) or accepts["source"].beside == ("clip",)
    needs = []
    if still and still.least:
        pair = {1: "`image`", 2: "`image` and `last_image`"}
        needs.append("one picture" if "keyframe" in roles else pair[still.least])  # a last one alone is refused
    needs += ["`control`"] if control and control.least else []
    return [
        "yes" if "first" in roles else "",
        "yes" if "last" in roles else "",
        f"up to {still.most} pictures in all" if still and "keyframe" in roles else "",
        f"up to {accepts['reference'].most}" if "reference" in accepts else "",
        source,
        f"with {', '.join(f'`{key}`' for key in control.heeds)}" if control else "",
        "one of these" if asks else ", ".join(needs),
    ]


def test_the_page_of_families_says_what_they_offer(tiny, checkpoint):
    """Every row of its tables, from `offers`; and none that is not offered."""
    ltx = load_family("ltx").offers(ModelConfig(checkpoint=str(checkpoint)))
    found = {("ltx", ltx.variant): ltx, **{(c.family, tiny(c).offers.variant): tiny(c).offers for c in CASES}}
    rows = {
        f"| {name} | {o.variant} | {' | '.join(what_it_takes(o.accepts, o.asks))} |" for (name, _), o in found.items()
    }
    rows |= {
        f"| {name} | `{key}` | {'base' if k.role == 'denoise' else k.role} | {k.low:g} to {k.high:g} |"
        f" {'' if k.default is None else f'{k.default:g}'} | {k.help} |"
        for (name, _), o in found.items()
        for key, k in o.knobs.items()
    }
    rows |= {f"| {name} | {', '.join(o.schedulers)} |" for (name, _), o in found.items() if o.schedulers}
    rows |= {
        f"| {name} | {o.variant} | {', '.join(o.caches) or 'none'} | {BACK_ENDS[o.attention]} |"
        f" {' and '.join(f'`{part}`' for part in o.lora) or 'none'} | {'yes' if o.quantizes else 'no'} |"
        for (name, _), o in found.items()
    }
    written = {line for line in DOCS.read_text().splitlines() if re.match(rf"\| ({'|'.join(families())}) \|", line)}
    assert written == rows, "\n".join(sorted(written ^ rows))


# -- what is accepted, and what is refused ----------------------------------------------------------------------------

ARGUMENTS = {
    "image": {"still"},
    "conditions": {"still"},
    "last_image": {"still"},
    "conditioning_frames": {"control", "still"},
    "controlnet_frame_indices": {"still"},
    "video": {"control", "source", "still"},
    "mask": {"clip", "still"},
    "reference_images": {"reference"},
    "latents": {"source"},
    "c2w": {"camera"},
    "audio_latents": {"sound"},
    "prompt_segments": {"segment"},
}
"""Arguments of the library's pipelines that carry a condition -> the kinds that they may carry."""
NOT_BUILT = ("ip_adapter_image", "ip_adapter_image_embeds")
"""Arguments for conditions that are refused by name, although the library takes them: IP-Adapters."""
TOGETHER = {"ltx2": {"latents", "audio_latents"}}
"""Arguments that only both tracks of a latent fill, in a refine pass: a video from elsewhere has no latent of its
sound, and a sound is not held as it is."""
NO_CONDITION = {
    "prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds", "image_embeds", "height", "width", "fps",
    "num_frames", "num_inference_steps", "sigmas", "guidance_scale", "guidance_scale_2", "min_guidance_scale", "eta",
    "max_guidance_scale", "motion_bucket_id", "noise_aug_strength", "decode_chunk_size", "num_videos_per_prompt",
    "generator", "output_type", "return_dict", "attention_kwargs", "cross_attention_kwargs", "clip_skip", "self",
    "callback_on_step_end", "callback_on_step_end_tensor_inputs", "max_sequence_length", "conditioning_scale",
    "controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end", "guess_mode", "kwargs",
    "overlap_history", "addnoise_condition", "base_num_frames", "ar_step", "causal_block_size",
    "min_seconds", "max_seconds", "frame_rate", "motion_speed", "timesteps", "stg_scale", "modality_scale",
    "guidance_rescale", "audio_guidance_scale", "audio_stg_scale", "audio_modality_scale", "audio_guidance_rescale",
    "spatio_temporal_guidance_blocks", "noise_scale", "prompt_attention_mask", "negative_prompt_attention_mask",
    "decode_timestep", "decode_noise_scale", "use_cross_timestep", "system_prompt", "enable_prompt_enhancement",
    "prompt_max_new_tokens", "prompt_enhancement_kwargs", "prompt_enhancement_seed", "image_crf",
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_what_is_refused_the_library_has_no_argument_for(case, tiny):
    """Every argument of the pipeline is of no condition, or carries one that is accepted, or is named as not built."""
    stages = tiny(case)
    accepted = set(stages.offers.accepts)
    assert accepted <= set(load_family(case.family).kinds) <= set(KINDS)
    chosen = stages.denoiser.variant.looking
    names = {case.pipeline, chosen([c for c, _ in case.conditions]) if chosen else case.pipeline}
    signature = {p for n in names for p in inspect.signature(getattr(diffusers, n).__call__).parameters}
    assert signature <= NO_CONDITION | set(ARGUMENTS) | set(NOT_BUILT)
    for argument in signature & set(ARGUMENTS) - TOGETHER.get(case.family, set()):
        assert ARGUMENTS[argument] & accepted, f"{argument} is there, and what it carries is refused"
    for kind in accepted:
        assert any(kind in ARGUMENTS[a] for a in signature & set(ARGUMENTS)), f"nothing carries {kind}"
    for kind in set(KINDS) - accepted:
        with pytest.raises(BadInput, match=f"takes no `{prompt_key(kind)}`"):
            refuse_conditions(stages.family, stages.offers, [Condition(kind=kind)], case.size[2])


def test_a_source_is_accepted_and_encoded_by_every_variant_that_says_so(tiny):
    for case in CASES:
        if "source" in (offers := tiny(case).offers).accepts and offers.accepts["source"].heeds:
            stages, source = tiny(case), condition("source", level=0.6)
            width, height, frames = case.size
            kept = [c for c, _ in case.conditions]
            from stages.families.contract import Shot

            shot = Shot(width=width, height=height, n_frames=frames, fps=8.0, conditions=(*kept, source))
            media = [*case.media(), video(*case.size, seed=4)]
            seen = stages.seer.see(shot, media, {})
            np.testing.assert_allclose(seen["source"], stages.codec.encode(media[-1]), rtol=0, atol=1e-5)
            given = Given(text=stages.text(PROMPT), seen=seen, conditions=shot.conditions)
            assert np.isfinite(stages.latent(given, start=seen["source"], level=0.9)).all()


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("svd-image-to-video", (72, 64, 4), "svd cannot make 72x64: width and height must be multiples of 16"),
        ("wan-t2v", (40, 32, 9), "must be multiples of 16, at most 512; the nearest is"),
        (
            "wan-t2v",
            (32, 32, 10),
            r"wan cannot make 10 frames: they must be k \* 4 \+ 1, at most 125; the nearest is 9",
        ),
        (
            "animatediff-text-to-video",
            (64, 64, 40),
            "cannot make 40 frames: they must be at most 32; the nearest is 32",
        ),
        ("animatediff-text-to-video", (68, 64, 4), "must be multiples of 8"),
    ],
)
def test_sizes_that_the_library_rounds_or_fails_at_are_refused_before_any_work(tiny, name, size, said):
    case = case_of(name)
    values = dict(zip(("width", "height", "frames"), size, strict=True))
    conditions = [dataclasses.asdict(c) for c, _ in case.conditions]
    unit = {**values, "fps": 8.0, "guidance": 2.0, "conditions": conditions}
    with pytest.raises(BadInput, match=said):
        Base.check_unit(Base.Config(model=tiny(case).model), unit)


BROKEN = {
    "another family": ("wan-t2v", "svd", lambda f: None, "is a checkpoint of WanPipeline, which svd does not run"),
    "no index": ("wan-t2v", "wan", lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
    "no config": ("wan-t2v", "wan", lambda f: (f / "vae/config.json").unlink(), "has no vae/config.json"),
    "blocks of frames": ("skyreels-diffusion-forcing-text", "skyreels",
                         lambda f: edit(f / "transformer/config.json", num_frame_per_block=5),
                         "is made for blocks of 5 latent frames; skyreels runs one frame at a time"),
    "no motion module": ("animatediff-text-to-video", "animatediff",
                         lambda f: edit(f / "unet/config.json", _class_name="UNet2DConditionModel"),
                         "makes single pictures; give a motion module as parts.motion_adapter"),
    "another denoiser": ("animatediff-text-to-video", "animatediff",
                         lambda f: edit(f / "unet/config.json", _class_name="UNet3DConditionModel"),
                         "is of the class UNet3DConditionModel, not UNetMotionModel or UNet2DConditionModel"),
}  # fmt: skip


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("what", BROKEN)
def test_a_checkpoint_that_is_not_one_of_the_family_is_refused(tiny, tmp_path, what):
    name, family, spoil, said = BROKEN[what]
    folder = shutil.copytree(tiny(case_of(name)).folder, tmp_path / "copy")
    spoil(folder)
    with pytest.raises(BadInput, match=said):
        load_family(family).offers(ModelConfig(family=family, checkpoint=str(folder)))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"controlnett": "."}, "animatediff has no part 'controlnett'; did you mean 'controlnet'"),
        ({"controlnet": "nowhere/at/all"}, "model.parts.controlnet: there is no checkpoint at nowhere/at/all"),
        (
            {"controlnet": "{folder}/vae"},
            "model.parts.controlnet is of the class AutoencoderKL; animatediff takes ControlNetModel or",
        ),
        ({"motion_adapter": "{folder}/vae"}, "has a motion module already; leave it out"),
    ],
)
def test_further_checkpoints_that_do_not_fit_are_refused(tiny, parts, said):
    folder = tiny(case_of("animatediff-text-to-video")).folder
    parts = {name: place.format(folder=folder) for name, place in parts.items()}
    with pytest.raises(BadInput, match=said):
        load_family("animatediff").offers(ModelConfig(family="animatediff", checkpoint=str(folder), parts=parts))


def test_a_motion_module_of_its_own_folder_on_a_flat_denoiser_is_the_same_model(tiny, tmp_path):
    """Stable Diffusion's denoiser and a motion module, as they are published, make what the joined network makes."""
    case = case_of("animatediff-text-to-video")
    stages = tiny(case)
    joined = diffusers.UNetMotionModel.from_pretrained(stages.folder / "unet")
    folder = shutil.copytree(stages.folder, tmp_path / "flat")
    shutil.rmtree(folder / "unet")
    joined.save_motion_modules(tmp_path / "motion")
    from stages.families.animatediff.tiny import FLAT

    flat = diffusers.UNet2DConditionModel(
        **FLAT, sample_size=8, out_channels=4, norm_num_groups=2, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    )  # fmt: skip
    flat.load_state_dict({k: v for k, v in joined.state_dict().items() if "motion" not in k})
    flat.save_pretrained(folder / "unet")
    parts = {"motion_adapter": str(tmp_path / "motion")}
    model = ModelConfig(family="animatediff", checkpoint=str(folder), device="cpu", parts=parts)
    denoiser = load_family("animatediff").denoiser(model)
    sampling = Sampling(steps=STEPS, guidance=case.guidance)
    found = denoiser.denoise(stages.given(), stages.spec(SEED), sampling)["video"]
    np.testing.assert_allclose(found, stages.latent(stages.given()), rtol=0, atol=case.bound)


def test_a_motion_lora_acts_and_svd_takes_none(tiny, tmp_path):
    case = case_of("animatediff-text-to-video")
    stages = tiny(case)
    layer = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
    width = dict(stages.denoiser.pipeline.unet.named_parameters())[f"{layer}.weight"].shape
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"unet.{layer}.lora_A.weight": torch.randn(2, width[1], generator=generator),
        f"unet.{layer}.lora_B.weight": torch.randn(width[0], 2, generator=generator),
    }
    (tmp_path / "lora").mkdir()
    save_file(tensors, tmp_path / "lora" / FILE)
    denoiser = stages.family.denoiser(stages.model, LoraConfig(path=str(tmp_path / "lora")))
    given, sampling = stages.given(), Sampling(steps=STEPS, guidance=case.guidance)
    moved = denoiser.denoise(given, stages.spec(SEED), sampling)["video"]
    whole = library(case, stages.folder)
    whole.load_lora_weights(tmp_path / "lora", weight_name=FILE)
    wanted = stages.denoiser.form.to_rest(call(case, whole, "latent"))
    np.testing.assert_allclose(moved, wanted, rtol=0, atol=1e-3)
    assert np.abs(moved - stages.latent(given)).max() > 0.1
    assert not tiny(case_of("svd-image-to-video")).offers.lora


def test_what_a_family_does_not_choose_or_have_is_said_before_any_work(tiny):
    model = tiny(case_of("animatediff-text-to-video")).model
    with pytest.raises(BadInput, match=r"text\.max_tokens: animatediff has one length of its own; set it to 0"):
        Text.check_unit(Text.Config(model=model, max_tokens=64), {})
    with pytest.raises(BadInput, match=r"decode\.tiling: the VAE of animatediff has none"):
        Decode.check_unit(Decode.Config(model=model, tiling=64), {})
    for cls in (Text, Decode):
        cls.check_unit(cls.Config(model=model, **({"max_tokens": 0} if cls is Text else {"chunk": 8})), {})
    with pytest.raises(BadInput, match="longer: animatediff does not go on from the end of a clip"):
        Extend.check_unit(Extend.Config(model=model), {"longer": 2})
    svd = tiny(case_of("svd-image-to-video")).model
    assert not Text.needed(Text.Config(model=svd))
    assert Base.inputs(Base.Config(model=svd)).ports["text"].required is False
    assert See.inputs(See.Config(model=svd)).draws
    for config, said in (
        ({"sampling": Sampling(timesteps=(900.0, 1.0))}, "base.sampling.timesteps: svd does not use it"),
        ({"sampling": Sampling(knobs={"motion_buckt": 3})}, "did you mean 'motion_bucket'"),
        ({"lora": LoraConfig(path="x")}, "base.lora.path: svd takes no adapter"),
    ):
        still = {"kind": "still", "role": "first", "sha256": "a", "frame": 0}
        unit = {"width": 64, "height": 64, "frames": 4, "fps": 8.0, "guidance": 2.0, "conditions": [still]}
        with pytest.raises(BadInput, match=said):
            Base.check_unit(Base.Config(model=svd, **config), unit)


@pytest.mark.parametrize("name", ["wan-t2v", "animatediff-text-to-video", "svd-image-to-video"])
def test_a_codec_goes_by_what_it_offers(tiny, name):
    stages = tiny(case_of(name))
    latent = stages.codec.encode(video(*stages.case.size, seed=1))
    whole = stages.frames(latent)
    assert whole.shape == (stages.case.size[2], stages.case.size[1], stages.case.size[0], 3)
    if "tiling" in stages.offers.decodes:
        assert (stages.codec.decode(latent, DecodeRecipe(tiling=16)) != whole).any()
        np.testing.assert_array_equal(stages.frames(latent), whole)
    if "chunk" in stages.offers.decodes:
        if name == "svd-image-to-video":  # its chunks have six frames at least
            latent = np.concatenate([latent, *(latent[:, ::-1] * np.float32(f) for f in (0.9, 0.8, 0.7))], axis=1)
            whole = stages.frames(latent)
        chunked = stages.codec.decode(latent, DecodeRecipe(chunk=2))
        assert chunked.shape == whole.shape
        # A VAE that looks at single frames decodes chunks to the same pixels, but for rounding.
        apart = np.abs(chunked.astype(int) - whole)
        assert (apart.max() > 1) == (name == "svd-image-to-video")
    with pytest.raises(BadLatent, match="takes the embeddings") if stages.reader else pytest.raises(IndexError):
        stages.denoiser.denoise(Given(), stages.spec(SEED), Sampling(steps=1))


def test_there_is_a_maker_for_every_variant_and_it_makes_the_same_bytes_again(tiny, tmp_path):
    for name in families():
        if cases := {c.maker for c in CASES if c.family == name}:
            assert set(load_family(name).makers) == cases
    from stages.families.wan.tiny import make

    again = make(tmp_path / "again", "t2v")
    for path in sorted(tiny(case_of("wan-t2v")).folder.rglob("*.safetensors")):
        assert path.read_bytes() == (again / path.relative_to(tiny(case_of("wan-t2v")).folder)).read_bytes()
