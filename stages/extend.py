"""Make clips longer than `base` makes at once: by windows that continue from the end of the one before, or slower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stages.core.conditions import Condition, read_conditions
from stages.core.errors import BadInput, require
from stages.core.latents.artifacts import LATENT, get_latent, get_text, put_latent
from stages.core.latents.form import LatentSpec, faster
from stages.core.step import Inputs, Port, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.back_projection import encode_closely
from stages.families.contract import Frames, Given, Sampling, load_family, offers_of
from stages.families.settings import check_lora, check_sampling

CONTINUATION = Condition(kind="clip", role="continuation", frame=0)
MOTIONS = ("continue", "spread")


class Extend(Step):
    """Loads the VAE, and the denoiser or, where motion is spread, the temporal upsampler.

    The end of a clip is decoded and encoded again, because the first latent frame of a window stands for one frame and
    those behind it for several; a window's latents then go on exactly where those before them end.

    A model whose clips show a motion from its beginning to its end has nothing left for later windows: what moved has
    arrived. Its clips are made longer by spreading their motion: the temporal upsampler makes frames between theirs.
    """

    kind = "latent"
    writes = LATENT
    resources = Resources(cpus=0.5)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How takes are made longer, window by window.

        model             the weights
        lora              adapters that are put onto the denoiser
        motion            [continue, spread] `continue` lets windows go on after the end of the clip; `spread` slows its
                          motion down to the whole length, and only `back_projections` of the settings below applies to
                          it
        sampling          how to denoise
        overlap           [from 1] latent frames of the window before that a window is given; more keep motion better,
                          and each window then adds less
        guidance          [from 0] guidance of windows; 0 is that of `sampling` or of the take. More holds windows to
                          the prompt, less to what they are given
        back_projections  [from 0] number of correction passes after encoding, which bring what latents decode to closer
                          to the pixels that were encoded
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        lora: LoraConfig = field(default_factory=LoraConfig)
        motion: str = "continue"
        sampling: Sampling = field(default_factory=Sampling)
        overlap: int = 2
        guidance: float = 0.0
        back_projections: int = 0

        def __post_init__(self) -> None:
            require(
                (self.motion in MOTIONS, "motion", self.motion, f"one of {', '.join(MOTIONS)}"),
                (self.overlap >= 1, "overlap", self.overlap, "at least 1"),
                (self.guidance >= 0, "guidance", self.guidance, "0 or more"),
                (self.back_projections >= 0, "back_projections", self.back_projections, "0 or more"),
            )

        @property
        def windows(self) -> Sampling:
            """How windows are sampled."""
            return replace(self.sampling, guidance=self.guidance) if self.guidance else self.sampling

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """Applies to takes that are to be longer than what is made at once."""
        if config.motion == "spread":
            latent = {"latent": Port(kind="latent")}
            return Inputs(ports=latent, depends=("longer",), carries=("conditions",), when=("longer",))
        return Inputs(
            ports={"text": Port(kind="text"), "latent": Port(kind="latent")},
            depends=("seed", "longer", *config.windows.depends),
            carries=("conditions",),
            when=("longer",),
            draws=True,
        )

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """What the family denoises with, which holds the VAE, and the adapter; where motion is spread, the VAE and the
        temporal upsampler. Raises BadInput where the family has none."""
        offers = offers_of(config.model)
        if config.motion == "continue":
            return {**offers.weights("denoise"), "lora.path": ()}
        if not (temporal := offers.weights("temporal")):
            name = config.model.family
            raise BadInput(f"extend.motion=spread needs a temporal upsampler of latents; the family {name} has none")
        return {**temporal, **offers.weights("decode")}

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a length that is none, for a family that goes on from no clip, and for pictures that would
        not stand where the take says: `base` is given them, which makes the beginning only."""
        if values["longer"] < 2:
            raise BadInput(f"longer must be at least 2, not {values['longer']}")
        name = config.model.family
        if config.motion == "continue" and not load_family(name).offers(config.model).continues:
            raise BadInput(f"longer: {name} does not go on from the end of a clip; leave `longer` out")
        if config.motion == "continue":
            check_lora("extend.lora", name, offers_of(config.model), config.lora)
            check_sampling("extend.sampling", name, offers_of(config.model), config.sampling)
        stay = ("first", "last") if config.motion == "spread" else ("first",)
        for one in read_conditions(values.get("conditions")):
            if one.role not in stay:
                raise BadInput(
                    f"longer: a clip that is made longer cannot have a `{one.key}`, which would not be where it "
                    f"should: leave out `longer` or `{one.key}`"
                )

    def setup(self) -> None:
        """Load the VAE, and the denoiser or the temporal upsampler."""
        family = load_family(self.config.model.family)
        self.codec = family.codec(self.config.model)
        if self.config.motion == "spread":
            self.upsampler = family.temporal(self.config.model)
        else:
            self.denoiser = family.denoiser(self.config.model, self.config.lora)

    def process(self, row: Row) -> Row:
        """One latent of `longer` times the time that its parent covers."""
        return self._spread(row) if self.config.motion == "spread" else self._continued(row)

    def _spread(self, row: Row) -> Row:
        """The clip slowed down: its frame rate is doubled until there are enough frames, which play at its own rate."""
        video, spec = get_latent(self.workspace, row["latent"], self.codec.vae.vae_id)
        wanted, dense = (spec.n_frames - 1) * row["longer"] + 1, spec
        while dense.n_frames < wanted:
            video = self.upsampler.upsample(video, dense, 0.0, 0.0)
            dense = faster(dense)
        frames = retimed(self.codec.decode(video, spec.decode), wanted)
        made = encode_closely(self.codec, frames, spec.decode, self.config.back_projections)
        parents = (row["latent"]["sha256"],)
        return put_latent(self.workspace, made, replace(spec, n_frames=wanted, seed=0, parents=parents))

    def _continued(self, row: Row) -> Row:
        parent, sampling = row["latent"], self.config.windows.for_take(row)
        video, spec = get_latent(self.workspace, parent, self.denoiser.vae.vae_id)
        if self.config.overlap >= spec.grid[0]:
            raise BadInput(f"extend.overlap is {self.config.overlap}; a window has {spec.grid[0]} latent frames")
        text = get_text(self.workspace, row["text"], spec.family)
        wanted, number = (spec.grid[0] - 1) * row["longer"] + 1, 0
        while video.shape[1] < wanted:
            number += 1
            seed = self.seed_for(row, number)
            given = Given(text=text, seen={"video": self._end(video, spec)}, conditions=(CONTINUATION,))
            window = self.denoiser.denoise(given, replace(spec, seed=seed), sampling)["video"]
            video = np.concatenate([video, window[:, self.config.overlap :]], axis=1)
        longer = replace(spec, n_frames=(wanted - 1) * spec.temporal_ratio + 1)
        made = replace(longer, parents=(parent["sha256"], row["text"]["sha256"]))
        return put_latent(self.workspace, np.ascontiguousarray(video[:, :wanted]), made)

    def _end(self, video: Any, spec: LatentSpec) -> Any:
        """The latent of the last frames of a clip, which the next window goes on from."""
        frames = self.codec.decode(np.ascontiguousarray(video[:, -spec.grid[0] :]), spec.decode)
        kept = (self.config.overlap - 1) * spec.temporal_ratio + 1
        return encode_closely(self.codec, frames[-kept:], spec.decode, self.config.back_projections)


def retimed(frames: Frames, count: int) -> Frames:
    """[F, H, W, 3] as `count` frames over the same time, 2 at least, each blended of its two neighbours.

    Neighbours are close to each other here, so that blending shows no ghosts.
    """
    times = np.linspace(0, len(frames) - 1, count)
    before = np.minimum(times.astype(int), len(frames) - 2)
    share = (times - before)[:, None, None, None]
    blended = [frames[k] * (1 - s) + frames[k + 1] * s for k, s in zip(before, share, strict=True)]
    return np.stack(blended).round().astype(np.uint8)
