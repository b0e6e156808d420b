"""Latents to an mp4 and a poster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from stages.core.errors import require
from stages.core.latents.artifacts import SIZE, get_latent
from stages.core.latents.form import DecodeRecipe, LatentSpec
from stages.core.media import check_encoding, ffmpeg_version, write_jpeg, write_video
from stages.core.step import ARTIFACT, Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family, offers_of
from stages.families.offers import check_decoding


class Decode(Step):
    """Loads the VAE only. What it makes depends on the latent alone: prompts and names are put into files at export."""

    kind = "video"
    writes = pa.schema(
        [
            *ARTIFACT,
            *SIZE,
            ("seconds", pa.float64()),
            ("poster_uri", pa.string()),
            ("poster_sha256", pa.string()),
            ("poster_size", pa.int64()),
            ("stage_seed", pa.int64()),
            ("encoder", pa.string()),
            ("made_from", pa.list_(pa.string())),
        ]
    )
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How latents become videos.

        model           the weights
        timestep        timestep that is given to the decoder; null takes the latent's own recipe
        noise_scale     noise that is added before decoding; null takes the latent's own recipe
        tiling          [from 0] pixels of a tile, to save memory; 0 decodes whole frames
        chunk           [from 0] frames decoded at a time; 0 decodes all
        crf             [0 to 51] quality of x264; lower is better, 0 is lossless
        preset          speed preset of x264, such as `fast`, `medium` or `slow`
        poster_quality  [1 to 95] quality of the poster's JPEG
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        timestep: float | None = None
        noise_scale: float | None = None
        tiling: int = 0
        chunk: int = 0
        crf: int = 18
        preset: str = "medium"
        poster_quality: int = 90

        def __post_init__(self) -> None:
            require(
                (0 <= self.crf <= 51, "crf", self.crf, "0 to 51"),
                (1 <= self.poster_quality <= 95, "poster_quality", self.poster_quality, "1 to 95"),
                (self.tiling >= 0, "tiling", self.tiling, "0 or more"),
                (self.chunk >= 0, "chunk", self.chunk, "0 or more"),
            )
            check_encoding(24, self.crf, self.preset)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """A latent; the seed too where the VAE denoises while it decodes."""
        draws = "decode" in offers_of(config.model).draws
        return Inputs(ports={"latent": Port(kind="latent")}, depends=("seed",) if draws else (), draws=draws)

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """What the family decodes with."""
        return offers_of(config.model).weights("decode")

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a way to save memory that the family's VAE does not have."""
        check_decoding("decode", config.model.family, offers_of(config.model), config)

    def setup(self) -> None:
        """Load the VAE."""
        family = load_family(self.config.model.family)
        self.draws = "decode" in offers_of(self.config.model).draws
        self.codec = family.codec(self.config.model)

    def process(self, row: Row) -> Row:
        """One take's video, and its middle frame as a poster."""
        parent = row["latent"]
        latent, spec = get_latent(self.workspace, parent, self.codec.vae.vae_id)
        recipe = self._recipe(spec, self.seed_for(row) if self.draws else 0)
        frames = self.codec.decode(latent, recipe)
        settings = {"crf": self.config.crf, "preset": self.config.preset}
        poster = self.workspace.put(write_jpeg(frames[len(frames) // 2], self.config.poster_quality), ".jpg")
        return {
            **self.workspace.put(write_video(frames, spec.fps, **settings), ".mp4"),
            "width": spec.width,
            "height": spec.height,
            "n_frames": len(frames),
            "fps": float(spec.fps),
            "seconds": len(frames) / spec.fps,
            **{f"poster_{key}": value for key, value in poster.items()},
            "stage_seed": recipe.seed,
            "encoder": f"ffmpeg {ffmpeg_version()}",
            "made_from": [parent["sha256"]],
        }

    def _recipe(self, spec: LatentSpec, seed: int) -> DecodeRecipe:
        config = self.config
        asked = {"timestep": config.timestep, "noise_scale": config.noise_scale}
        given = {name: value for name, value in asked.items() if value is not None}
        return replace(spec.decode, seed=seed, tiling=config.tiling, chunk=config.chunk, **given)
