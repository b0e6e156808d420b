"""Encode the picture that a take begins with, for image to video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from stages.core.errors import BadInput
from stages.core.fitting import check_fit, fit_picture, fit_text
from stages.core.latents.artifacts import LATENT, media_of, put_latent
from stages.core.latents.form import LatentSpec
from stages.core.media import read_whole_picture
from stages.core.step import Inputs, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family


class See(Step):
    """Loads the VAE. Applies to takes that have conditions; of these, a still as the first frame can be made.

    `note` of a row says what was cut off the picture, added to it or stretched; it is "" where nothing was.
    """

    kind = "condition"
    writes = pa.schema([*LATENT, ("note", pa.string())])
    weights: ClassVar = {"model.checkpoint": ("vae",)}
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Which VAE encodes.

        model  the weights
        """

        model: ModelConfig = field(default_factory=ModelConfig)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What the pictures are, the size that they are brought to, and how; where they lie is carried."""
        depends = ("conditions", "width", "height", "fps", "fit")
        return Inputs(depends=depends, carries=("media",), when=("conditions",))

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a condition that is no first frame, and for an unknown way to fit it."""
        first_still(values["conditions"])
        check_fit(values["fit"])

    def setup(self) -> None:
        """Load the VAE."""
        self.codec = load_family(self.config.model.family).codec(self.config.model)

    def process(self, row: Row) -> Row:
        """The latent of one picture in the take's shape. Raises BadMedia."""
        vae, still = self.codec.vae, first_still(row["conditions"])
        whole = read_whole_picture(self.workspace.read(media_of(row, still["sha256"])))
        shape = row["width"], row["height"], row["fit"]
        picture, note = fit_picture(whole, *shape), fit_text(whole.shape[1], whole.shape[0], *shape)
        spec = LatentSpec(
            family=self.config.model.family,
            vae_id=vae.vae_id,
            spatial_ratio=vae.spatial_ratio,
            temporal_ratio=vae.temporal_ratio,
            scale=vae.scale,
            width=row["width"],
            height=row["height"],
            n_frames=1,
            fps=row["fps"],
            fps_conditioning=row["fps"],
            parents=(still["sha256"],),
            decode=vae.decode,
        )
        return {**put_latent(self.workspace, self.codec.encode(picture[None]), spec), "note": note}


def first_still(conditions: Any) -> Row:
    """The still that a clip begins with. Raises BadInput for any other condition."""
    for one in conditions:
        if (one["kind"], one["role"]) != ("still", "first"):
            what = " ".join(w for w in (one["kind"], one["role"]) if w)
            raise BadInput(f"conditions: {what!r} is not supported; only a picture as the first frame is")
    if len(conditions) != 1:
        raise BadInput(f"conditions: a clip has one first frame, not {len(conditions)}")
    found: Row = conditions[0]
    return found
