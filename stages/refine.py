"""A few denoising steps at the final size, which turn upsampled latents into sharp ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from stages.core.artifacts import LATENT, get_latent, get_text, parent_latent, put_latent
from stages.core.checkpoint import ModelConfig
from stages.core.identity import stage_seed
from stages.core.lora import LoraConfig
from stages.core.step import Resources, Row, Step
from stages.families import Sampling, load_family


class Refine(Step):
    """Loads transformer and scheduler, as base does, and noises with a seed of its own."""

    reads = ("text", "latent")
    writes = LATENT
    seeded = True
    weights: ClassVar = {"model.checkpoint": ("transformer", "scheduler", "vae"), "lora.path": ()}
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """strength: the share of the schedule's steps that is done, 0 to 1, both excluded."""

        model: ModelConfig = field(default_factory=ModelConfig)
        lora: LoraConfig = field(default_factory=LoraConfig)
        sampling: Sampling = field(default_factory=Sampling)
        strength: float = 0.4

        def __post_init__(self) -> None:
            self.sampling.check_strength(self.strength)

    def setup(self) -> None:
        """Load the denoiser."""
        self.denoiser = load_family(self.config.model.family).denoiser(self.config.model, self.config.lora)

    def process(self, row: Row) -> Row:
        """One latent of the same size, refined."""
        parent = parent_latent(row)
        video, spec = get_latent(self.workspace, parent, self.denoiser.vae.vae_id)
        text = get_text(self.workspace, row["text"], spec.family)
        spec = replace(spec, stage="refine", seed=stage_seed(row["seed"], "refine"))
        spec = replace(spec, parents=(parent["sha256"], row["text"]["sha256"]))
        refined = self.denoiser.refine(text, video, spec, self.config.sampling, self.config.strength)
        return put_latent(self.workspace, refined, spec)
