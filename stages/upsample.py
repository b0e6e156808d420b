"""Latents twice as wide and high, or at twice the frame rate, by the family's latent upsamplers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.latents.artifacts import LATENT, get_tracks, put_tracks
from stages.core.latents.form import LatentSpec, faster
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family, offers_of

AXES = ("spatial", "temporal")


class Upsample(Step):
    """Loads one upsampler and the VAE's statistics. Draws nothing: no seed enters."""

    kind = "latent"
    writes = LATENT
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is enlarged.

        model     the weights
        axis      [spatial, temporal] `spatial` doubles width and height, `temporal` the frame rate
        adain     how far the result takes the input's mean and spread per channel, 0 to 1
        tone_map  compression of large values, 0 to 1
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        axis: str = "spatial"
        adain: float = 0.0
        tone_map: float = 0.0

        def __post_init__(self) -> None:
            if self.axis not in AXES:
                raise BadInput(f"axis: there is no axis {self.axis!r}; {nearest(self.axis, AXES)}")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """One latent decides it."""
        return Inputs(ports={"latent": Port(kind="latent")})

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """The upsampler of this axis, and the VAE for its statistics. Raises BadInput where the family has none."""
        found = offers_of(config.model).weights(config.axis)
        if not found:
            raise BadInput(f"upsample: the family {config.model.family} has no {config.axis} upsampler of latents")
        return found

    def setup(self) -> None:
        """Load the upsampler."""
        self.upsampler = getattr(load_family(self.config.model.family), self.config.axis)(self.config.model)

    def process(self, row: Row) -> Row:
        """One latent with twice the width and height, or with 2F - 1 frames over the same time; its sound stays."""
        parent = row["latent"]
        tracks, spec = get_tracks(self.workspace, parent, self.upsampler.vae.vae_id)
        raised = self.upsampler.upsample(tracks["video"], spec, self.config.adain, self.config.tone_map)
        made = wider(spec) if self.config.axis == "spatial" else faster(spec)
        tracks["video"] = raised
        return put_tracks(self.workspace, tracks, replace(made, seed=0, parents=(parent["sha256"],)))


def wider(spec: LatentSpec) -> LatentSpec:
    """The same clip at twice the width and height."""
    return replace(spec, width=spec.width * 2, height=spec.height * 2)
