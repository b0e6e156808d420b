"""Text encoder and denoiser of LTX, through LTXConditionPipeline. Each loads its own parts and nothing else.

diffusers 0.42.1 is steered around where it is wrong: one clip at a time (a batched refine broadcasts its noise level
over the width), a refine strength below 1 (else the latents are ignored), no `num_videos_per_prompt`, a generator of
its own for every row, and the global generator seeded wherever the library draws from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, LTXConditionPipeline, LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from PIL import Image

from stages.core.conditions import Condition
from stages.core.errors import BadInput
from stages.core.latents.form import BadLatent, Floats, LatentSpec, Tensors
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import NO_LORA, Given, Latents, Sampling
from stages.families.engine.accelerate import accelerating
from stages.families.engine.runtime import Stage, quiet
from stages.families.loading import load_part, load_tokenizer, load_weightless
from stages.families.lora import adapt_all
from stages.families.ltx.vae import VaeCard
from stages.families.offers import place_of

MAX_TOKENS = 256
TEXT = ("embeds", "mask", "negative_embeds", "negative_mask")


class LTXTextEncoder(Stage):
    """Tokenizer and T5 encoder, through LTXConditionPipeline.encode_prompt."""

    length = MAX_TOKENS

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        folder = model.folder(("tokenizer", "text_encoder"))
        self.tokenizer = load_tokenizer(folder / "tokenizer")
        encoder = load_part(transformers.T5EncoderModel, folder / "text_encoder", self.dtype)
        if len(self.tokenizer) > encoder.config.vocab_size:
            raise BadInput(
                f"{folder}: the tokenizer has {len(self.tokenizer)} tokens, the text encoder only"
                f" {encoder.config.vocab_size}: they belong to two models"
            )
        self.pipeline = quiet(
            LTXConditionPipeline(
                scheduler=None, vae=None, text_encoder=self.place(encoder), tokenizer=self.tokenizer, transformer=None
            ),
            self.device,
        )

    def encode(self, prompt: str, negative_prompt: str, max_tokens: int) -> tuple[Tensors, int]:
        """Both prompts as `embeds` [max_tokens, D] and `mask` (True where there is a token), the negative one's with
        `negative_` before them, and how many tokens the prompt has."""
        max_tokens = max_tokens or MAX_TOKENS
        with self.running(0):
            embeds, mask, negative, negative_mask = self.pipeline.encode_prompt(
                [prompt], [negative_prompt], device=self.device, max_sequence_length=max_tokens
            )
        arrays = [t[0].float().cpu().numpy() for t in (embeds, negative)]
        masks = [t[0].cpu().numpy().astype(bool) for t in (mask, negative_mask)]
        text = dict(zip(TEXT, (arrays[0], masks[0], arrays[1], masks[1]), strict=True))
        return text, len(self.tokenizer(prompt)["input_ids"])


class LTXDenoiser(Stage):
    """Transformer and scheduler, through LTXConditionPipeline; base and refine."""

    def __init__(self, model: ModelConfig, lora: LoraConfig = NO_LORA) -> None:
        super().__init__(model)
        folder = model.folder(("transformer", "scheduler", "vae"))
        self.card = VaeCard(model, self.dtype)
        self.vae = self.card.facts
        scheduler = load_weightless(FlowMatchEulerDiscreteScheduler, folder / "scheduler")
        _check_scheduler(scheduler)
        transformer = load_part(
            LTXVideoTransformer3DModel, folder / "transformer", self.dtype, model.quantize.get("transformer")
        )
        if transformer.config.in_channels != self.vae.channels:
            raise BadInput(
                f"{folder}: the transformer takes {transformer.config.in_channels} channels,"
                f" the VAE has {self.vae.channels}"
            )
        self.pipeline = quiet(
            LTXConditionPipeline(
                scheduler=scheduler,
                vae=self.card,
                text_encoder=None,
                tokenizer=None,
                transformer=transformer,
            ),
            self.device,
        )
        adapt_all({"transformer": transformer}, lora, model.download)
        self.place(transformer)

    def denoise(
        self, given: Given, spec: LatentSpec, sampling: Sampling, start: Latents | None = None, level: float = 1.0
    ) -> Latents:
        """A latent of the spec's size, from noise drawn with its seed, or `start` noised and denoised again: `level` is
        the share of the schedule's steps that is done."""
        text, more, skip = _embeds(given.text), dict[str, Any](), 0
        if start is not None:
            sampling.check_strength(level)
            more = {"latents": self.card.normalize(start["video"]), "denoise_strength": level}
            steps = len(sampling.timesteps) or sampling.steps
            skip = steps - int(steps * level)
        shown = [c for c in given.conditions if c.kind != "source"]
        videos = [given.seen[track(i)] for i in range(len(shown))]
        blanks = [_blank_condition(c, v, spec) for c, v in zip(shown, videos, strict=True)]
        with self.card.answering(videos):
            return self._run(text, spec, sampling, skip, conditions=blanks or None, **more)

    def _run(self, text: Tensors, spec: LatentSpec, sampling: Sampling, skip: int, **more: Any) -> Latents:
        accelerated = accelerating(self.pipeline, [self.pipeline.transformer], sampling, skip)
        with self.running(spec.seed) as generator, accelerated:
            latents = self.pipeline(
                **self._arguments(text),
                **more,
                width=spec.width,
                height=spec.height,
                num_frames=spec.n_frames,
                frame_rate=spec.fps_conditioning,
                num_inference_steps=sampling.steps,
                timesteps=sampling.levels() or None,
                guidance_scale=sampling.guidance,
                guidance_rescale=sampling.rescale,
                image_cond_noise_scale=sampling.condition_noise,
                generator=generator,
                output_type="latent",
            ).frames
            return {"video": self.card.denormalize(latents)}

    def _arguments(self, text: Tensors) -> dict[str, torch.Tensor]:
        wanted, found = self.pipeline.transformer.config.caption_channels, text["embeds"].shape[1]
        if found != wanted:
            raise BadLatent(f"the embeddings have {found} channels, this transformer takes {wanted}")
        named = {
            "prompt_embeds": torch.from_numpy(text["embeds"]).to(self.dtype),
            "prompt_attention_mask": torch.from_numpy(text["mask"]),
            "negative_prompt_embeds": torch.from_numpy(text["negative_embeds"]).to(self.dtype),
            "negative_prompt_attention_mask": torch.from_numpy(text["negative_mask"]),
        }
        return {name: tensor[None].to(self.device) for name, tensor in named.items()}


def _check_scheduler(scheduler: Any) -> None:
    """LTXConditionPipeline passes explicit timesteps: a shift would move the noise levels away from them."""
    if scheduler.config.use_dynamic_shifting or scheduler.config.shift != 1.0:
        raise BadInput(
            "the checkpoint's scheduler shifts its timesteps, as LTX-Video before 0.9.5 does; this adapter samples"
            " with LTXConditionPipeline, which needs use_dynamic_shifting=false and shift=1"
        )


def track(index: int) -> str:
    """The name of the latent of the index-th condition."""
    return f"video.{index}" if index else "video"


def _embeds(text: Tensors | None) -> Tensors:
    """The embeddings, whole. Raises BadLatent."""
    if text is None or set(text) != set(TEXT):
        raise BadLatent(f"LTX takes the embeddings {', '.join(TEXT)}, not {sorted(text or ())}")
    for prefix in ("", "negative_"):
        embeds, mask = text[f"{prefix}embeds"], text[f"{prefix}mask"]
        if embeds.ndim != 2 or mask.shape != embeds.shape[:1] or mask.dtype != np.bool_ or not mask.any():
            raise BadLatent(
                f"{prefix}embeds must be [L, D], {prefix}mask bool [L] with a token in it, not {list(embeds.shape)} and"
                f" {mask.dtype} {list(mask.shape)}"
            )
    if text["embeds"].shape != text["negative_embeds"].shape:
        raise BadLatent("the prompt's and the negative prompt's embeddings differ in shape")
    return text


def _blank_condition(condition: Condition, video: Floats, spec: LatentSpec) -> LTXVideoCondition:
    """A blank video as long as the condition's latent decodes to; its latent is answered by the card."""
    frames, at = (video.shape[1] - 1) * spec.temporal_ratio + 1, place_of(condition, spec.n_frames)
    if video.shape[2:] != spec.grid[1:] or at + frames > spec.n_frames:
        raise BadLatent(f"a condition of {frames} frames at frame {at} does not fit into the clip")
    blank = Image.new("RGB", (spec.width, spec.height))
    strength = 1.0 if condition.scale is None else condition.scale
    return LTXVideoCondition(video=[blank] * frames, frame_index=at, strength=strength)
