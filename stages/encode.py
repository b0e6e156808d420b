"""A video as a latent: what `refine` goes on from where there is no base take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from stages.core.condition_video import Fitted
from stages.core.conditions import read_conditions
from stages.core.errors import BadInput
from stages.core.fitting import check_fit, fit_text
from stages.core.latents.artifacts import LATENT, media_of, put_latent
from stages.core.step import Inputs, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family, offers_of

SHAPE = ("width", "height", "frames", "fps")


class Encode(Step):
    """Loads the VAE only. The `video` of a take in the take's own size and frame rate, encoded.

    `base` starts from a `video` by itself, at the noise level `level`; this step is for cascades without `base`. `note`
    of a row says what was cut off, added or stretched. Frames are encoded as they are read, so that a longer clip needs
    hardly more memory.
    """

    kind = "latent"
    version = 2  # encoded in pieces, which rounds otherwise
    writes = pa.schema([*LATENT, ("note", pa.string())])
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What encodes.

        model  the weights
        """

        model: ModelConfig = field(default_factory=ModelConfig)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The video by its content, and the shape that it is brought to; where it lies is carried."""
        return Inputs(depends=("conditions", *SHAPE, "fit"), carries=("media",))

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """The VAE, with which the family decodes. Raises BadInput where the family makes whole videos at once."""
        found = offers_of(config.model).weights("decode")
        if not found:
            raise BadInput(f"encode: the family {config.model.family} has no latents to encode to")
        return found

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a take without a video, for what else it names, and for a size that the family has not."""
        name, offers = config.model.family, offers_of(config.model)
        for key in SHAPE:
            if not values[key]:
                raise BadInput(
                    f"{key} is given neither by the prompt, nor by the campaign, nor by the cascade: give `{key}`"
                )
        if offers.refines_after:
            raise BadInput(
                f"encode: {name} refines a clip after its pictures, which this step does not encode; give `video` and"
                " `level` with the cascade `plain`"
            )
        conditions = read_conditions(values["conditions"])
        if other := next((c for c in conditions if c.kind != "source"), None):
            raise BadInput(f"encode: a video is refined as it is; leave `{other.key}` out")
        if not conditions:
            raise BadInput("encode: there is no video to begin from: give `video`")
        if conditions[0].level is not None:
            raise BadInput("encode: `level` is for `base`; leave it out and set `refine.strength`")
        check_fit(values["fit"])
        offers.size.check(name, values["width"], values["height"], values["frames"])

    def setup(self) -> None:
        """Load the VAE."""
        self.codec = load_family(self.config.model.family).codec(self.config.model)

    def process(self, row: Row) -> Row:
        """The latent of one take's video. Raises BadMedia for one that is broken or too short."""
        (source,) = read_conditions(row["conditions"])
        shape = row["width"], row["height"], row["fit"]
        spec = self.codec.vae.spec(
            family=self.config.model.family,
            width=row["width"],
            height=row["height"],
            n_frames=row["frames"],
            fps=float(row["fps"]),
            fps_conditioning=float(row["fps"]),
            parents=(source.sha256,),
        )
        with self.workspace.opened(media_of(row, source.sha256 or "")) as path:
            clip = Fitted(path, *shape, row["frames"], row["fps"])
            made = put_latent(self.workspace, self.codec.encode_stream(clip), spec)
        return {**made, "note": fit_text(*clip.size, *shape)}
