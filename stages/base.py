"""Text embeddings to low-resolution latents: the cheap preview."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stages.core.conditions import read_conditions
from stages.core.errors import BadInput, require
from stages.core.latents.artifacts import LATENT, get_seen, get_text, put_tracks
from stages.core.latents.form import LatentSpec
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import Given, Sampling, load_family, offers_of, refuse_conditions
from stages.families.offers import check_columns
from stages.families.settings import check_lora, check_quantize, check_sampling, check_windows


class Base(Step):
    """Loads the denoiser and its scheduler; of the VAE only config and statistics."""

    kind = "latent"
    writes = LATENT
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How base takes are made.

        model             the weights
        lora              adapters that are put onto the denoiser
        sampling          how to denoise; its guidance is that of the take
        fps_conditioning  [from 0] frame rate that is given to the model, in frames a second; 0 is the take's
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        lora: LoraConfig = field(default_factory=LoraConfig)
        sampling: Sampling = field(default_factory=Sampling)
        fps_conditioning: float = 0.0

        def __post_init__(self) -> None:
            require((self.fps_conditioning >= 0, "fps_conditioning", self.fps_conditioning, "0 or more"))
            if self.sampling.guidance is not None:
                raise BadInput("sampling.guidance: guidance belongs to takes; set `guidance` of the campaign")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """Embeddings where the family reads text, what `see` made of conditions, and what the take is to be."""
        text = "text" in offers_of(config.model).parts
        ports = {"text": Port(kind="text", required=text), "condition": Port(kind="condition", required=False)}
        depends = ("seed", "width", "height", "frames", "fps", "guidance", "conditions", *offers_of(config.model).reads)
        return Inputs(ports=ports, depends=depends, draws=True)

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """What the family denoises with, and the adapters."""
        return {**offers_of(config.model).weights("denoise"), "lora.path": ()}

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a size that the family cannot make, naming the nearest one, for a rate that is none, and
        for conditions and settings that it does not take."""
        for name in ("width", "height", "frames", "fps"):
            if values[name] is None:
                raise BadInput(
                    f"{name} is given neither by the prompt, nor by the campaign, nor by the cascade: give `{name}`"
                )
        if not (values["fps"] and math.isfinite(values["fps"]) and values["fps"] > 0):
            raise BadInput(f"fps must be above 0, not {values['fps']}")
        family, offers = load_family(config.model.family), offers_of(config.model)
        offers.size_for(config.sampling.knobs).check(family.name, values["width"], values["height"], values["frames"])
        refuse_conditions(family, offers, read_conditions(values.get("conditions")), values["frames"])
        check_sampling("base.sampling", family.name, offers, config.sampling)
        levels = [c.level for c in read_conditions(values.get("conditions")) if c.level is not None]
        if family.strength == "share":  # of steps, where a small one would be none
            for level in levels:
                config.sampling.check_strength(level, "level")
        check_columns(family.name, offers, values)
        check_lora("base.lora", family.name, offers, config.lora)
        check_quantize("base", offers, config.model, config.lora)
        check_windows("base", offers, config.model, config.sampling)

    def setup(self) -> None:
        """Load the denoiser."""
        self.offers = offers_of(self.config.model)
        self.denoiser = load_family(self.config.model.family).denoiser(self.config.model, self.config.lora)

    def process(self, row: Row) -> Row:
        """One take's base latent, from noise drawn with the seed of take and node."""
        spec, conditions = self._spec(row), read_conditions(row["conditions"])
        if conditions and row["condition"] is None:
            raise BadInput(
                "the prompt names pictures or videos, and no step of the cascade encodes them:"
                " put a step with `use: stages.see:See` before `base`"
            )
        given = Given(
            text=get_text(self.workspace, row["text"], spec.family),
            seen=get_seen(self.workspace, row["condition"], spec.vae_id),
            conditions=conditions,
            columns={name: row[name] for name in self.offers.reads},
        )
        start = {"video": given.seen["source"]} if "source" in given.seen else None
        level = next((c.level for c in conditions if c.kind == "source" and c.level is not None), 1.0)
        made = self.denoiser.denoise(given, spec, self.config.sampling.for_take(row), start, level)
        return put_tracks(self.workspace, made, spec)

    def _spec(self, row: Row) -> LatentSpec:
        vae, fps = self.denoiser.vae, float(row["fps"])
        return vae.spec(
            family=self.config.model.family,
            width=row["width"],
            height=row["height"],
            n_frames=row["frames"],
            fps=fps,
            fps_conditioning=self.config.fps_conditioning or fps,
            seed=self.seed_for(row),
            parents=tuple(row[port]["sha256"] for port in ("text", "condition") if row[port]),
        )
