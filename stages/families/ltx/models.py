"""Text encoder and denoiser of LTX, through LTXConditionPipeline. Each loads its own parts and nothing else.

diffusers 0.42.1 is steered around where it is wrong: one clip at a time (a batched refine broadcasts its noise level
over the width), a refine strength below 1 (else the latents are ignored), no `num_videos_per_prompt`, a generator of
its own for every row, and the global generator seeded wherever the library draws from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, LTXConditionPipeline, LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from PIL import Image

from stages.core.errors import BadInput
from stages.core.latents.form import BadLatent, Floats, LatentSpec, TextEmbeds
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.adapters import adapt
from stages.families.contract import NO_LORA, Condition, Sampling
from stages.families.ltx.runtime import Stage, quiet
from stages.families.ltx.vae import VaeCard
from stages.families.parts import load_part, load_scheduler, load_tokenizer


class LTXTextEncoder(Stage):
    """Tokenizer and T5 encoder, through LTXConditionPipeline.encode_prompt."""

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
            )
        )

    def encode(self, prompt: str, negative_prompt: str, max_tokens: int) -> tuple[TextEmbeds, int]:
        """Both prompts as [max_tokens, D], and how many tokens the prompt has."""
        with self.running(0):
            embeds, mask, negative, negative_mask = self.pipeline.encode_prompt(
                [prompt], [negative_prompt], device=self.device, max_sequence_length=max_tokens
            )
        arrays = [t[0].float().cpu().numpy() for t in (embeds, negative)]
        masks = [t[0].cpu().numpy().astype(bool) for t in (mask, negative_mask)]
        text = TextEmbeds(
            embeds=arrays[0], mask=masks[0], negative_embeds=arrays[1], negative_mask=masks[1], family="ltx"
        )
        return text, len(self.tokenizer(prompt)["input_ids"])


class LTXDenoiser(Stage):
    """Transformer and scheduler, through LTXConditionPipeline; base and refine."""

    def __init__(self, model: ModelConfig, lora: LoraConfig = NO_LORA) -> None:
        super().__init__(model)
        folder = model.folder(("transformer", "scheduler", "vae"))
        self.card = VaeCard(model, self.dtype)
        self.vae = self.card.facts
        scheduler = load_scheduler(FlowMatchEulerDiscreteScheduler, folder / "scheduler")
        _check_scheduler(scheduler)
        transformer = load_part(LTXVideoTransformer3DModel, folder / "transformer", self.dtype)
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
            )
        )
        adapt(transformer, lora, model.download)
        self.place(transformer)

    def generate(
        self, text: TextEmbeds, spec: LatentSpec, sampling: Sampling, conditions: Sequence[Condition] = ()
    ) -> Floats:
        """A latent of the spec's size, from noise drawn with its seed."""
        blanks = [_blank_condition(c, spec) for c in conditions]
        with self.card.answering([c.video for c in conditions]):
            return self._run(text, spec, sampling, conditions=blanks or None)

    def refine(self, text: TextEmbeds, video: Floats, spec: LatentSpec, sampling: Sampling, strength: float) -> Floats:
        """The latent noised as far as `strength` and denoised again."""
        sampling.check_strength(strength)
        return self._run(text, spec, sampling, latents=self.card.normalize(video), denoise_strength=strength)

    def _run(self, text: TextEmbeds, spec: LatentSpec, sampling: Sampling, **more: Any) -> Floats:
        with self.running(spec.seed) as generator:
            latents = self.pipeline(
                **self._embeds(text),
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
            return self.card.denormalize(latents)

    def _embeds(self, text: TextEmbeds) -> dict[str, torch.Tensor]:
        wanted = self.pipeline.transformer.config.caption_channels
        if text.embeds.shape[1] != wanted:
            raise BadLatent(f"the embeddings have {text.embeds.shape[1]} channels, this transformer takes {wanted}")
        named = {
            "prompt_embeds": torch.from_numpy(text.embeds).to(self.dtype),
            "prompt_attention_mask": torch.from_numpy(text.mask),
            "negative_prompt_embeds": torch.from_numpy(text.negative_embeds).to(self.dtype),
            "negative_prompt_attention_mask": torch.from_numpy(text.negative_mask),
        }
        return {name: tensor[None].to(self.device) for name, tensor in named.items()}


def _check_scheduler(scheduler: Any) -> None:
    """LTXConditionPipeline passes explicit timesteps: a shift would move the noise levels away from them."""
    if scheduler.config.use_dynamic_shifting or scheduler.config.shift != 1.0:
        raise BadInput(
            "the checkpoint's scheduler shifts its timesteps, as LTX-Video before 0.9.5 does; this adapter samples"
            " with LTXConditionPipeline, which needs use_dynamic_shifting=false and shift=1"
        )


def _blank_condition(condition: Condition, spec: LatentSpec) -> LTXVideoCondition:
    """A blank video as long as the condition's latent decodes to; its latent is answered by the card."""
    frames = (condition.video.shape[1] - 1) * spec.temporal_ratio + 1
    if condition.video.shape[2:] != spec.grid[1:] or condition.frame + frames > spec.n_frames:
        raise BadLatent(f"a condition of {frames} frames at frame {condition.frame} does not fit into the clip")
    blank = Image.new("RGB", (spec.width, spec.height))
    return LTXVideoCondition(video=[blank] * frames, frame_index=condition.frame, strength=condition.strength)
