"""Latents at twice the frame rate, by the family's temporal latent upsampler."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from stages.core.latents.artifacts import LATENT, get_latent, parent_latent, put_latent
from stages.core.step import Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family


class Temporal(Step):
    """Loads the temporal upsampler and the VAE's statistics. Draws nothing: no seed enters."""

    reads = ("latent",)
    writes = LATENT
    weights: ClassVar = {"model.checkpoint": ("vae",), "model.temporal_upsampler": ()}
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """adain: how far the result takes the input's mean and spread per channel; tone_map: compression, 0 to 1."""

        model: ModelConfig = field(default_factory=ModelConfig)
        adain: float = 0.0
        tone_map: float = 0.0

    def setup(self) -> None:
        """Load the upsampler."""
        self.upsampler = load_family(self.config.model.family).temporal(self.config.model)

    def process(self, row: Row) -> Row:
        """One latent with 2F - 1 frames over the same time, so at twice the frame rate."""
        parent = parent_latent(row)
        video, spec = get_latent(self.workspace, parent, self.upsampler.vae.vae_id)
        longer = self.upsampler.upsample(video, spec, self.config.adain, self.config.tone_map)
        made = replace(spec, stage="temporal", n_frames=2 * spec.n_frames - 1, seed=0, parents=(parent["sha256"],))
        made = replace(made, fps=spec.fps * 2, fps_conditioning=spec.fps_conditioning * 2)
        return put_latent(self.workspace, longer, made)
