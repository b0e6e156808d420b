"""Enlarge latents by decoding to pixels, scaling and encoding again, for families without a latent upsampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from stages.core.errors import BadInput, require
from stages.core.latents.artifacts import LATENT, get_tracks, put_tracks
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Frames, load_family, offers_of
from stages.families.offers import check_decoding

MOST = 8


class Enlarge(Step):
    """Loads the VAE only: decodes, enlarges every frame, and encodes again.

    What comes out is as soft as what went in: a `refine` behind it adds the detail of the larger size. Frames are
    enlarged and encoded as they are decoded, so that a longer clip needs hardly more memory.
    """

    kind = "latent"
    version = 3  # 2: chunks of ltx were one frame late, and those of svd did not overlap; 3: encoded in pieces
    writes = LATENT
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """By how much, and how the small clip is decoded.

        model   the weights
        scale   [above 1] width and height are multiplied by it; the family must be able to make the larger size
        tiling  [from 0] pixels of a tile while decoding, to save memory; 0 decodes whole frames. Enlarged
                frames are encoded whole
        chunk   [from 0] frames decoded at a time, half of which overlap with their neighbours; 0 decodes the whole clip
                at once if the VAE mixes frames
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        scale: float = 2.0
        tiling: int = 0
        chunk: int = 0

        def __post_init__(self) -> None:
            require(
                (1 < self.scale <= MOST, "scale", self.scale, f"above 1, at most {MOST}"),
                (self.tiling >= 0, "tiling", self.tiling, "0 or more"),
                (self.chunk >= 0, "chunk", self.chunk, "0 or more"),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """A latent; the seed too where the VAE denoises while it decodes. The size is looked at before any work."""
        draws = "decode" in offers_of(config.model).draws
        return Inputs(
            ports={"latent": Port(kind="latent")},
            depends=("seed",) if draws else (),
            carries=("width", "height", "frames", "conditions"),
            draws=draws,
        )

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """The VAE, with which the family decodes. Raises BadInput where the family makes whole videos at once."""
        found = offers_of(config.model).weights("decode")
        if not found:
            raise BadInput(f"enlarge: the family {config.model.family} has no latents to enlarge")
        return found

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a larger size that the family cannot make, and for a way to save memory that its VAE does
        not have."""
        name, offers = config.model.family, offers_of(config.model)
        check_decoding("enlarge", name, offers, config)
        if offers.refines_after and values.get("conditions"):
            raise BadInput(
                f"enlarge: {name} refines a clip after its pictures, which were encoded in the small size; leave "
                "`enlarge` out and make clips in the full size"
            )
        if all(values.get(key) for key in ("width", "height", "frames")):  # else `base` says what is not given
            check_size(config, values["width"], values["height"], values["frames"])

    def setup(self) -> None:
        """Load the VAE."""
        self.draws = "decode" in offers_of(self.config.model).draws
        self.codec = load_family(self.config.model.family).codec(self.config.model)

    def process(self, row: Row) -> Row:
        """The latent of the same clip in the larger size; its sound stays."""
        parent = row["latent"]
        tracks, spec = get_tracks(self.workspace, parent, self.codec.vae.vae_id)
        seed = self.seed_for(row) if self.draws else 0
        recipe = replace(spec.decode, seed=seed, tiling=self.config.tiling, chunk=self.config.chunk)
        check_size(self.config, spec.width, spec.height, spec.n_frames)  # the take's, or what steps between made of it
        larger = replace(
            spec,
            width=enlarged(spec.width, self.config.scale),
            height=enlarged(spec.height, self.config.scale),
            seed=0,
            parents=(parent["sha256"],),
        )
        pieces = self.codec.stream(tracks["video"], recipe)
        tracks["video"] = self.codec.encode_stream(resized(p, larger.width, larger.height) for p in pieces)
        return put_tracks(self.workspace, tracks, larger)


def check_size(config: Enlarge.Config, width: int, height: int, n_frames: int) -> None:
    """Raise BadInput where the family cannot make the larger size, or it is no larger."""
    larger, name = (enlarged(width, config.scale), enlarged(height, config.scale)), config.model.family
    try:
        offers_of(config.model).size.check(name, *larger, n_frames)
        if larger == (width, height):
            raise BadInput(f"{width}x{height} stays as it is: raise it")
    except BadInput as error:
        raise BadInput(f"enlarge.scale {config.scale:g}: {error}") from None


def enlarged(pixels: int, scale: float) -> int:
    """A side in the larger size, in pixels."""
    return round(pixels * scale)


def resized(frames: Frames, width: int, height: int) -> Frames:
    """[F, H, W, 3] in another size, by Lanczos' filter over 8x8 pixels."""
    import cv2

    return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_LANCZOS4) for f in frames])
