"""Pictures at any frame and a video to begin from, through LTX: what the library's one call gives for the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTXConditionPipeline
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from PIL import Image

from stages.base import Base
from stages.core.conditions import Condition
from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.extend import Extend
from stages.families.contract import Given, Sampling, Shot, load_family
from stages.see import See

SIZE = {"width": 64, "height": 64, "n_frames": 17, "fps": 8.0, "seed": 5}
SAMPLING = Sampling(steps=4, guidance=3.0, condition_noise=0.1)
LEVEL = 0.5
FIRST = Condition(kind="still", role="first", sha256="a", frame=0)
LAST = Condition(kind="still", role="last", sha256="b")
MIDDLE = Condition(kind="still", role="keyframe", sha256="c", frame=6)
SOURCE = Condition(kind="source", sha256="d", level=LEVEL)
PLACES = {FIRST: 0, LAST: 16, MIDDLE: 6}
CASES = {
    "first": [FIRST], "last": [LAST], "keyframe": [MIDDLE], "all pictures": [MIDDLE, LAST, FIRST],
    "source": [SOURCE], "source and last": [LAST, SOURCE],
}  # fmt: skip
BOUND, MOVED = 1e-5, 100


def frames_of(condition: Condition, seed: int) -> np.ndarray:
    """Noise of few pixels, enlarged: frames [F, H, W, 3]."""
    rng = np.random.default_rng([seed, ord(str(condition.sha256))])
    small = rng.integers(0, 256, (17 if condition.kind == "source" else 1, 8, 8, 3), np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)


class Ours:
    """Text encoder, seer and denoiser of one checkpoint."""

    def __init__(self, model: ModelConfig) -> None:
        ltx = load_family("ltx")
        self.text = ltx.text(model).encode("a red star", "blue", 16)[0]
        self.seer, self.denoiser = ltx.seer(model), ltx.denoiser(model)

    def latent(self, conditions: list[Condition], changed: Condition | None = None) -> np.ndarray:
        """The latent [C, F, H, W]; the medium of `changed` is another one."""
        media = [frames_of(c, seed=1 if c == changed else 0) for c in conditions]
        seen = self.seer.see(Shot(**SIZE, conditions=tuple(conditions)), media, {})
        given = Given(text=self.text, seen=seen, conditions=tuple(conditions))
        spec = self.denoiser.vae.spec(family="ltx", **SIZE, fps_conditioning=8.0)
        level = LEVEL if SOURCE in conditions else 1.0
        start = {"video": seen["source"]} if "source" in seen else None
        return self.denoiser.denoise(given, spec, SAMPLING, start, level)["video"]


def encode_mean(pipeline: LTXConditionPipeline) -> Any:
    """The VAE's posterior mean, which is not drawn; scaled as the pipeline scales all else (it forgets conditions)."""
    real, vae = pipeline.vae.encode, pipeline.vae
    mean, scale = vae.latents_mean.view(1, -1, 1, 1, 1), vae.config.scaling_factor
    return lambda pixels: SimpleNamespace(latents=(real(pixels).latent_dist.mode() - mean) * scale + mean)


def theirs(ours: Ours, model: ModelConfig, conditions: list[Condition]) -> np.ndarray:
    """The library's one call, with all parts in memory and pixels given."""
    pipeline = LTXConditionPipeline.from_pretrained(model.checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    vae, more = pipeline.vae, {}
    statistics = (vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    if SOURCE in conditions:
        pixels = torch.from_numpy(frames_of(SOURCE, 0)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            start = vae.encode(pixels).latent_dist.mode()
        more = {"latents": pipeline._normalize_latents(start, *statistics), "denoise_strength": LEVEL}
    pipeline.vae.encode = encode_mean(pipeline)
    pictures = [
        LTXVideoCondition(video=[Image.fromarray(frames_of(c, 0)[0])], frame_index=PLACES[c])
        for c in conditions
        if c in PLACES
    ]
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
    text = (ours.text[k] for k in ("embeds", "mask", "negative_embeds", "negative_mask"))
    latents = pipeline(
        **{name: torch.from_numpy(value)[None] for name, value in zip(names, text, strict=True)},
        **more,
        conditions=pictures or None,
        width=64,
        height=64,
        num_frames=17,
        frame_rate=8.0,
        num_inference_steps=4,
        guidance_scale=3.0,
        image_cond_noise_scale=0.1,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).frames
    return pipeline._denormalize_latents(latents, *statistics)[0].numpy()


@pytest.fixture(scope="module")
def model(checkpoints) -> ModelConfig:
    return ModelConfig(checkpoint=str(checkpoints("16x4")), device="cpu")


@pytest.fixture(scope="module")
def ours(model) -> Ours:
    return Ours(model)


@pytest.mark.parametrize("name", CASES)
def test_the_split_chain_equals_the_librarys_one_call_and_every_medium_moves_it(name, ours, model):
    conditions = CASES[name]
    latent = ours.latent(conditions)
    np.testing.assert_allclose(latent, theirs(ours, model, conditions), rtol=0, atol=BOUND)
    for one in conditions:
        moved = np.abs(ours.latent(conditions, changed=one) - latent).max()
        assert moved >= MOVED * BOUND, one.words


def unit(*conditions: Condition, **more: object) -> dict[str, object]:
    rows = [
        {"kind": c.kind, "role": c.role, "sha256": c.sha256, "frame": c.frame, "level": c.level} for c in conditions
    ]
    return {"width": 64, "height": 64, "frames": 17, "fps": 8.0, "guidance": 3.0, "conditions": rows, **more}


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ([MIDDLE, Condition(kind="still", role="keyframe", sha256="e", frame=17)], "`keyframes` names frame 17"),
        ([LAST, Condition(kind="still", role="keyframe", sha256="e", frame=16)], "both name frame 16"),
        ([Condition(kind="source", sha256="d")], "ltx needs a level for `video`: give `level`"),
        ([Condition(kind="source", sha256="d", level=0.02)], "level is 0.02, which is less than one step of 30"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_work(conditions, said, model):
    with pytest.raises(BadInput, match=said):
        Base.check_unit(Base.Config(model=model), unit(*conditions))


def test_a_length_that_is_not_given_is_said_also_where_there_are_pictures(model):
    values = unit(FIRST, LAST, frames=None, fit="crop")
    See.check_unit(See.Config(model=model), values)
    with pytest.raises(BadInput, match="frames is given neither by the prompt"):
        Base.check_unit(Base.Config(model=model), values)


@pytest.mark.parametrize("motion", ["continue", "spread"])
def test_pictures_that_would_not_stand_where_they_should_are_refused_in_longer_clips(motion, model):
    config = Extend.Config(model=model, motion=motion)
    Extend.check_unit(config, unit(FIRST, longer=3))
    refused = [MIDDLE, SOURCE] if motion == "spread" else [LAST, MIDDLE, SOURCE]
    for one in refused:
        with pytest.raises(BadInput, match=f"made longer cannot have a `{one.key}`"):
            Extend.check_unit(config, unit(FIRST, one, longer=3))
    if motion == "spread":
        Extend.check_unit(config, unit(FIRST, LAST, longer=3))
