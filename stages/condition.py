"""A take's own first frame to the latent that base starts its clip from: image to video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from stages.core.latents.artifacts import LATENT, put_latent
from stages.core.latents.form import LatentSpec
from stages.core.media import read_picture
from stages.core.step import Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family


class FirstFrame(Step):
    """Loads the VAE. A take without an image gets an empty row, so that both kinds stand in one campaign."""

    reads = ("image_uri", "image_sha256")
    writes = pa.schema([*LATENT, ("image_uri", pa.string()), ("image_sha256", pa.string())])
    weights: ClassVar = {"model.checkpoint": ("vae",)}
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """width, height, fps: those of the base stage."""

        model: ModelConfig = field(default_factory=ModelConfig)
        width: int = 512
        height: int = 320
        fps: float = 24.0

    def setup(self) -> None:
        """Load the VAE."""
        self.codec = load_family(self.config.model.family).codec(self.config.model)

    def process(self, row: Row) -> Row:
        """The latent of one picture, cut from its middle to the base's shape. Raises BadMedia."""
        if not row.get("image_uri"):
            return {"uri": ""}
        config, vae = self.config, self.codec.vae
        picture = read_picture(self.workspace.read(row["image_uri"]), config.width, config.height)
        spec = LatentSpec(
            family=config.model.family,
            stage="condition",
            vae_id=vae.vae_id,
            spatial_ratio=vae.spatial_ratio,
            temporal_ratio=vae.temporal_ratio,
            scale=vae.scale,
            width=config.width,
            height=config.height,
            n_frames=1,
            fps=config.fps,
            fps_conditioning=config.fps,
            parents=(row["image_sha256"],),
            decode=vae.decode,
        )
        kept = {"image_uri": row["image_uri"], "image_sha256": row["image_sha256"]}
        return {**put_latent(self.workspace, self.codec.encode(picture[None]), spec), **kept}
