"""The latent upsamplers of LTX, spatial and temporal, through LTXLatentUpsamplePipeline."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from diffusers import LTXLatentUpsamplePipeline
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

from stages.core.errors import BadInput
from stages.core.latents.form import BadLatent, Floats, LatentSpec
from stages.core.weights.checkpoint import ModelConfig
from stages.families.engine.runtime import Stage, quiet
from stages.families.loading import load_part, load_single
from stages.families.ltx.vae import VaeCard


class LTXUpsampler(Stage):
    """One latent upsampler, through LTXLatentUpsamplePipeline."""

    def __init__(self, model: ModelConfig, part: str) -> None:
        super().__init__(model)
        self.card = VaeCard(model, self.dtype)
        self.vae = self.card.facts
        network = load_upsampler(model.upsampler(part), self.dtype)
        self.temporal = part == "temporal_upsampler"
        made_for = (network.config.spatial_upsample, network.config.temporal_upsample)
        if made_for != (not self.temporal, self.temporal):
            raise BadInput(f"model.{part} upsamples {_axes(*made_for)}: is it the other one?")
        if network.config.in_channels != self.vae.channels:
            raise BadInput(f"model.{part} takes {network.config.in_channels} channels, the VAE has {self.vae.channels}")
        self.pipeline = quiet(
            LTXLatentUpsamplePipeline(vae=self.card, latent_upsampler=self.place(network)), self.device
        )

    def upsample(self, video: Floats, spec: LatentSpec, adain: float, tone_map: float) -> Floats:
        """The latent with doubled width and height, or with 2F - 1 latent frames."""
        if video.ndim != 4:
            raise BadLatent(f"the upsampler takes [C, F, H, W], not {list(video.shape)}: packed latents are refused")
        scale = 1 if self.temporal else 2
        with self.running(0):
            latents = self.pipeline(
                latents=self.card.normalize(video),
                width=spec.width * scale,
                height=spec.height * scale,
                adain_factor=adain,
                tone_map_compression_ratio=tone_map,
                output_type="latent",
            ).frames
            return self.card.denormalize(latents)


def _axes(spatial: bool, temporal: bool) -> str:
    return " and ".join(name for name, is_on in (("space", spatial), ("time", temporal)) if is_on)


def load_upsampler(path: Path, dtype: torch.dtype) -> LTXLatentUpsamplerModel:
    """An upsampler from a diffusers folder, or from one safetensors file as Lightricks publishes it (same tensors, the
    config in the file's header)."""
    load = load_part if path.is_dir() else load_single
    return cast(LTXLatentUpsamplerModel, load(LTXLatentUpsamplerModel, path, dtype))
