"""Text embeddings to low-resolution latents: the cheap take that people watch first."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from stages.core.errors import BadInput
from stages.core.latents.artifacts import LATENT, get_latent, get_text, put_latent
from stages.core.latents.form import LatentSpec
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import Condition, Sampling, load_family


class Base(Step):
    """Loads transformer and scheduler; of the VAE only config and statistics."""

    kind = "latent"
    writes = LATENT
    weights: ClassVar = {"model.checkpoint": ("transformer", "scheduler", "vae"), "lora.path": ()}
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How base takes are made.

        model             the weights
        lora              an adapter that is put onto the denoiser
        sampling          how to denoise; its guidance is that of the take
        fps_conditioning  [from 0] frame rate that the model is told, in frames a second; 0 is the take's
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        lora: LoraConfig = field(default_factory=LoraConfig)
        sampling: Sampling = field(default_factory=Sampling)
        fps_conditioning: float = 0.0

        def __post_init__(self) -> None:
            if self.fps_conditioning < 0:
                raise BadInput(f"base.fps_conditioning must be 0 or more, not {self.fps_conditioning}")
            if self.sampling.guidance is not None:
                raise BadInput("base.sampling.guidance: guidance belongs to takes; set `guidance` of the campaign")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """Embeddings, perhaps the latent of a first frame, and what the take is to be."""
        ports = {"text": Port(kind="text"), "condition": Port(kind="condition", required=False)}
        return Inputs(ports=ports, depends=("seed", "width", "height", "frames", "fps", "guidance"), draws=True)

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a size that the family cannot make, naming the nearest one, or a rate that is none."""
        if not (values["fps"] and math.isfinite(values["fps"]) and values["fps"] > 0):
            raise BadInput(f"fps must be above 0, not {values['fps']}")
        family = load_family(config.model.family)
        family.check_size(config.model, values["width"], values["height"], values["frames"])

    def setup(self) -> None:
        """Load the denoiser."""
        self.denoiser = load_family(self.config.model.family).denoiser(self.config.model, self.config.lora)

    def process(self, row: Row) -> Row:
        """One take's base latent, from noise drawn with the seed of take and node."""
        spec = self._spec(row)
        text = get_text(self.workspace, row["text"], spec.family)
        conditions, spec = self._conditions(row, spec)
        sampling = self.config.sampling.for_take(row)
        return put_latent(self.workspace, self.denoiser.generate(text, spec, sampling, conditions), spec)

    def _conditions(self, row: Row, spec: LatentSpec) -> tuple[list[Condition], LatentSpec]:
        """Image to video: the latent of a given picture, if there is one, comes first in the clip."""
        if (picture := row["condition"]) is None:
            return [], spec
        video, _ = get_latent(self.workspace, picture, spec.vae_id)
        return [Condition(video=video)], replace(spec, parents=(*spec.parents, picture["sha256"]))

    def _spec(self, row: Row) -> LatentSpec:
        vae, fps = self.denoiser.vae, float(row["fps"])
        return LatentSpec(
            family=self.config.model.family,
            vae_id=vae.vae_id,
            spatial_ratio=vae.spatial_ratio,
            temporal_ratio=vae.temporal_ratio,
            scale=vae.scale,
            width=row["width"],
            height=row["height"],
            n_frames=row["frames"],
            fps=fps,
            fps_conditioning=self.config.fps_conditioning or fps,
            seed=self.seed_for(row),
            parents=(row["text"]["sha256"],),
            decode=vae.decode,
        )
