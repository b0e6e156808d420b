"""Latents twice as wide and high, by the family's latent upsampler."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from stages.core.latents.artifacts import LATENT, get_latent, parent_latent, put_latent
from stages.core.step import Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family


class Spatial(Step):
    """Loads the spatial upsampler and the VAE's statistics. Draws nothing: no seed enters."""

    reads = ("latent",)
    writes = LATENT
    weights: ClassVar = {"model.checkpoint": ("vae",), "model.spatial_upsampler": ()}
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """adain: how far the result takes the input's mean and spread per channel; tone_map: compression, 0 to 1."""

        model: ModelConfig = field(default_factory=ModelConfig)
        adain: float = 0.0
        tone_map: float = 0.0

    def setup(self) -> None:
        """Load the upsampler."""
        self.upsampler = load_family(self.config.model.family).spatial(self.config.model)

    def process(self, row: Row) -> Row:
        """One latent at twice the width and height."""
        parent = parent_latent(row)
        video, spec = get_latent(self.workspace, parent, self.upsampler.vae.vae_id)
        larger = self.upsampler.upsample(video, spec, self.config.adain, self.config.tone_map)
        made = replace(spec, stage="spatial", width=spec.width * 2, height=spec.height * 2, seed=0)
        return put_latent(self.workspace, larger, replace(made, parents=(parent["sha256"],)))
