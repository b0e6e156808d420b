"""Text embeddings to low-resolution latents: the cheap take that people look at first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from stages.core.errors import BadInput
from stages.core.identity import stage_seed
from stages.core.latents.artifacts import LATENT, get_latent, get_text, put_latent
from stages.core.latents.form import LatentSpec
from stages.core.step import Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import Condition, Sampling, load_family


class Base(Step):
    """Loads transformer and scheduler; of the VAE only config and statistics."""

    reads = ("text", "condition")
    writes = LATENT
    seeded = True
    weights: ClassVar = {"model.checkpoint": ("transformer", "scheduler", "vae"), "lora.path": ()}
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """width, height in pixels; frames in all; fps of playback; fps_conditioning, told to the model, 0 for fps."""

        model: ModelConfig = field(default_factory=ModelConfig)
        lora: LoraConfig = field(default_factory=LoraConfig)
        sampling: Sampling = field(default_factory=Sampling)
        width: int = 512
        height: int = 320
        frames: int = 49
        fps: float = 24.0
        fps_conditioning: float = 0.0

        def __post_init__(self) -> None:
            if self.fps <= 0 or self.fps_conditioning < 0:
                raise BadInput(f"base: fps must be above 0, fps_conditioning from 0; got {self.fps}")
            load_family(self.model.family).check_size(self.model, self.width, self.height, self.frames)

    def setup(self) -> None:
        """Load the denoiser."""
        self.denoiser = load_family(self.config.model.family).denoiser(self.config.model, self.config.lora)

    def process(self, row: Row) -> Row:
        """One take's base latent, from noise drawn with the seed of (take, `base`)."""
        spec = self._spec(row)
        text = get_text(self.workspace, row["text"], spec.family)
        conditions, spec = self._conditions(row, spec)
        return put_latent(self.workspace, self.denoiser.generate(text, spec, self.config.sampling, conditions), spec)

    def _conditions(self, row: Row, spec: LatentSpec) -> tuple[list[Condition], LatentSpec]:
        """Image to video and continuation: the latent of an earlier stage named `condition`, if there is one, comes
        first in the clip."""
        given = row.get("condition")
        if not given or not given.get("uri"):
            return [], spec
        video, _ = get_latent(self.workspace, given, spec.vae_id)
        return [Condition(video=video)], replace(spec, parents=(*spec.parents, given["sha256"]))

    def _spec(self, row: Row) -> LatentSpec:
        config, vae = self.config, self.denoiser.vae
        return LatentSpec(
            family=config.model.family,
            stage="base",
            vae_id=vae.vae_id,
            spatial_ratio=vae.spatial_ratio,
            temporal_ratio=vae.temporal_ratio,
            scale=vae.scale,
            width=config.width,
            height=config.height,
            n_frames=config.frames,
            fps=config.fps,
            fps_conditioning=config.fps_conditioning or config.fps,
            seed=stage_seed(row["seed"], "base"),
            parents=(row["text"]["sha256"],),
            decode=replace(vae.decode, seed=stage_seed(row["seed"], "decode")),
        )
