"""Model families: what an adapter offers to the stages.

Everything that crosses this line is plain: numpy arrays in the form of `stages.core.latents.form`, in VAE space, one
clip at a time. An adapter turns that into its pipelines' own forms and back. A new family is one module or folder
here with a `FAMILY`.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stages.core.conditions import Condition
from stages.core.config_files import nearest
from stages.core.errors import BadInput, require
from stages.core.latents.form import DecodeRecipe, Floats, LatentSpec, Tensors
from stages.core.sound import Sound
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.offers import Offers, check_conditions

Frames = npt.NDArray[np.uint8]
"""RGB frames [F, H, W, 3], 0 to 255."""

Latents = Mapping[str, Floats]
"""Tracks of one clip in VAE space: always `video` [C, F, H, W], for some families `audio` too."""

SCHEDULES = ("linear_quadratic", "linear")
NO_LORA = LoraConfig()
LATER = {"identity": "where set"}
"""Marks a setting that came later: with its default it is no part of identity, so that ids stay what they were."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to denoise.

    steps            [from 1] passes from pure noise to a clean latent; a refine pass does only the last of them
    guidance         [from 0] scale of classifier-free guidance; values up to 1 switch it off, which halves the cost of
                     a pass; null is that of the take
    rescale          [0 to 1] rescaling against over-exposure by guidance (section 3.4 of arXiv 2305.08891)
    schedule         [linear_quadratic, linear] noise levels: `linear_quadratic` is LTX-Video's own, `linear` uses
                     `shift`
    shift            [above 0] pushes a linear schedule towards noise where above 1
    timesteps        explicit noise levels instead, falling from at most 1000, as distilled models need them
    condition_noise  noise on the frames that a clip is conditioned on, 0 to 1; a little of it gives more motion
    scheduler        a scheduler of diffusers and its settings, `{name: UniPCMultistepScheduler, flow_shift: 5}`; what
                     you leave out is as in the checkpoint
    knobs            further settings that the sampler of a family has; docs/families.md lists them
    attention        an attention back end of diffusers, such as `flash`; empty takes that of torch. It changes the last
                     digits, and more where it computes in 8 bits; docs/families.md
    cache            a cache of diffusers that leaves out passes which change little, and its settings,
                     `{name: FirstBlockCache, threshold: 0.05}`; it changes the clip; docs/families.md
    """

    steps: int = 30
    guidance: float | None = None
    rescale: float = 0.0
    schedule: str = "linear_quadratic"
    shift: float = 1.0
    timesteps: tuple[float, ...] = ()
    condition_noise: float = 0.0
    scheduler: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    knobs: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    attention: str = field(default="", metadata=LATER)
    cache: dict[str, Any] = field(default_factory=dict, metadata=LATER)

    def __post_init__(self) -> None:
        require(
            (self.steps >= 1, "sampling.steps", self.steps, "at least 1"),
            (self.shift > 0, "sampling.shift", self.shift, "above 0"),
            ((self.guidance or 0) >= 0, "sampling.guidance", self.guidance, "0 or more"),
            (0 <= self.rescale <= 1, "sampling.rescale", self.rescale, "0 to 1"),
        )
        if self.schedule not in SCHEDULES:
            raise BadInput(
                f"sampling.schedule: there is no schedule {self.schedule!r}; {nearest(self.schedule, SCHEDULES)}"
            )
        falling = all(a > b for a, b in zip(self.timesteps, self.timesteps[1:], strict=False))
        if self.timesteps and not (falling and self.timesteps[0] <= 1000 and self.timesteps[-1] >= 0):
            raise BadInput(
                f"sampling.timesteps is {list(self.timesteps)}; it must fall, from at most 1000 to 0 or more"
            )

    def check_strength(self, strength: float, key: str = "strength") -> None:
        """Raise BadInput for a refine pass that a pipeline would silently make a new clip of, or nothing."""
        steps = len(self.timesteps) or self.steps
        if not 0 < strength < 1:
            raise BadInput(f"{key} is {strength}; it must be above 0 and below 1")
        if int(steps * strength) < 1:
            raise BadInput(f"{key} is {strength}, which is less than one step of {steps}; raise it, or sampling.steps")

    def for_take(self, row: Mapping[str, Any]) -> Sampling:
        """With the guidance of a take where there is none of its own."""
        if self.guidance is not None:
            return self
        return replace(self, guidance=None if row["guidance"] is None else float(row["guidance"]))

    @property
    def depends(self) -> tuple[str, ...]:
        """The columns of a take that it reads."""
        return ("guidance",) if self.guidance is None else ()

    def levels(self) -> list[float]:
        """The explicit timesteps, 1000 to 0, or [] for the pipeline's own schedule."""
        if self.timesteps or self.schedule != "linear":
            return list(self.timesteps)
        sigmas = np.linspace(1.0, 1.0 / self.steps, self.steps)
        return [float(1000 * s) for s in self.shift * sigmas / (1 + (self.shift - 1) * sigmas)]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """What a clip is to be: pixels, frames, the frames a second that the model is told, the seed of what is drawn,
    what the clip is to be made after, and the frames a second at which it is shown where these are others."""

    width: int
    height: int
    n_frames: int
    fps: float
    seed: int = 0
    conditions: tuple[Condition, ...] = ()
    playback: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it is shown, at the frames a second of `playback`, or at `fps` where that is 0."""
        return self.n_frames / (self.playback or self.fps)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a clip is denoised after: embeddings of its text (None where the family has none), what `see` made of its
    conditions, and the columns of the take that its `Offers.reads` names."""

    text: Tensors | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    seen: Tensors = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VaeFacts:
    """What stages must know of a VAE that they do not load. scale is its latents' typical standard deviation."""

    vae_id: str
    spatial_ratio: int
    temporal_ratio: int
    channels: int
    scale: float = 1.0
    decode: DecodeRecipe = field(default_factory=DecodeRecipe)

    def spec(self, **of_clip: Any) -> LatentSpec:
        """The spec of a latent of this VAE; of_clip: the other fields of LatentSpec."""
        return LatentSpec(
            vae_id=self.vae_id,
            spatial_ratio=self.spatial_ratio,
            temporal_ratio=self.temporal_ratio,
            scale=self.scale,
            decode=self.decode,
            **of_clip,
        )


class TextEncoder(Protocol):
    """Loads the tokenizer and the text encoder only."""

    length: int
    """Tokens that a prompt may have where nothing else is said."""

    def encode(self, prompt: str, negative_prompt: str, max_tokens: int) -> tuple[Tensors, int]:
        """Both prompts encoded, under the family's own names, and how many tokens the prompt has.

        They are padded to max_tokens, 0 for the family's own length; more are cut off.
        """


class Seer(Protocol):
    """Loads the VAE, and an image encoder where there is one: what it takes to look at pictures and videos."""

    vae: VaeFacts

    def see(self, shot: Shot, media: Sequence[Frames], knobs: Mapping[str, Any]) -> Tensors:
        """What the denoiser is given of the shot's conditions, under the family's own names.

        media: for each condition of the shot that has a medium, in their order, its frames [F, H, W, 3] in the shot's
        size: one of a still, as many as the clip has of a video.
        """


class Denoiser(Protocol):
    """Loads the denoising model and its scheduler only."""

    vae: VaeFacts

    def denoise(
        self, given: Given, spec: LatentSpec, sampling: Sampling, start: Latents | None = None, level: float = 1.0
    ) -> Latents:
        """The tracks of a latent of the spec's size: from pure noise drawn with its seed, or from those of `start`,
        brought to the noise level `level`, above 0 and below 1, by noise drawn with it.

        The level is the share of noise in what the model sees: 0.5 is half way (the sigma of a flow; of other
        schedules, the standard deviation of the noise where signal and noise together have 1). A family whose
        `strength` is `share` takes the share of the schedule's steps instead.
        """


class Upsampler(Protocol):
    """Loads one latent upsampler only."""

    vae: VaeFacts

    def upsample(self, video: Floats, spec: LatentSpec, adain: float, tone_map: float) -> Floats:
        """The latent, twice as wide and high, or with 2F - 1 frames."""


class Codec(Protocol):
    """Loads the VAE only."""

    vae: VaeFacts

    def decode(self, video: Floats, recipe: DecodeRecipe) -> Frames:
        """The frames of a latent."""

    def stream(self, video: Floats, recipe: DecodeRecipe) -> Iterator[Frames]:
        """The same frames in pieces, in their order, each made when it is asked for: one piece where the VAE decodes
        whole clips only."""

    def encode(self, frames: Frames) -> Floats:
        """The latent of frames: the mean of the posterior, so that it needs no seed."""

    def encode_stream(self, pieces: Iterable[Frames]) -> Floats:
        """`encode` of frames that come in pieces, of which no more are held than the VAE needs at once. The same but
        for the rounding of floating point; the frames are collected first where the VAE encodes whole clips only."""


class SoundDecoder(Protocol):
    """Loads what makes sound audible only: the audio VAE and the vocoder."""

    def decode(self, audio: Floats, seconds: float) -> Sound:
        """The sound of the track `audio` of a latent, for pictures that last so many seconds. Raises BadSound where the
        two do not belong together."""


class Family(Protocol):
    """One adapter. Its methods load what their stage needs and nothing else, onto the device that the config names."""

    name: str

    kinds: Mapping[str, str]
    """The conditions that at least one of its checkpoints takes: kind -> which ones, "" where it is all of them."""

    strength: str
    """What the strength of a refine pass is: `level`, a noise level, or `share`, a share of the schedule's steps."""

    makers: tuple[str, ...]
    """The kinds of tiny checkpoint that `stages.families.NAME.tiny` makes, () where it makes none."""

    def offers(self, model: ModelConfig) -> Offers:
        """What this checkpoint can do. Needs no torch. Raises BadInput for a checkpoint that is of no such family."""

    def text(self, model: ModelConfig) -> TextEncoder: ...

    def seer(self, model: ModelConfig) -> Seer: ...

    def denoiser(self, model: ModelConfig, lora: LoraConfig = NO_LORA) -> Denoiser: ...

    def spatial(self, model: ModelConfig) -> Upsampler: ...

    def temporal(self, model: ModelConfig) -> Upsampler: ...

    def codec(self, model: ModelConfig) -> Codec: ...

    def sound(self, model: ModelConfig) -> SoundDecoder: ...


def joined(pieces: Iterable[Frames]) -> Frames:
    """Frames that came in pieces, as one array."""
    found = list(pieces)
    return found[0] if len(found) == 1 else np.concatenate(found)


def families() -> list[str]:
    """The names of the adapters that there are."""
    here = Path(__file__).parent
    files = {p.stem: p for p in here.glob("*.py")} | {p.parent.name: p for p in here.glob("*/__init__.py")}
    offers = re.compile(r"^(FAMILY = |from .+ import FAMILY\b)", re.MULTILINE)  # read: importing loads torch
    return sorted(name for name, path in files.items() if offers.search(path.read_text()))


def load_family(name: str) -> Family:
    """The adapter of a family. Raises BadInput for a name that there is no adapter of."""
    loaded = getattr(sys.modules.get(f"stages.families.{name}"), "FAMILY", None)  # found before: no need to look again
    if loaded is None and name not in families():
        raise BadInput(f"model.family: there is no family {name!r}; {nearest(name, families())}")
    found: Family = importlib.import_module(f"stages.families.{name}").FAMILY
    return found


def load_maker(name: str) -> Callable[[Path, str, int], Path]:
    """What writes a tiny untrained checkpoint of a family: folder, variant and seed to the folder. Loads torch."""
    # First, as diffusers asks transformers for a class by its old name, of which that one warns.
    importlib.import_module("stages.families.engine.tiny").hush()
    found: Callable[[Path, str, int], Path] = importlib.import_module(f"stages.families.{name}.tiny").make
    return found


def offers_of(model: ModelConfig) -> Offers:
    """What a checkpoint can do, by the adapter of its family. Raises BadInput."""
    known = _KNOWN.get()
    if known is None:
        return load_family(model.family).offers(model)
    if id(model) not in known:
        known[id(model)] = (model, load_family(model.family).offers(model))
    return known[id(model)][1]


@contextmanager
def offers_kept() -> Iterator[None]:
    """While this lasts, checkpoints are looked into once: what asks about a hundred thousand takes reads no file for
    each of them."""
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


_KNOWN: ContextVar[dict[int, tuple[ModelConfig, Offers]] | None] = ContextVar("offers", default=None)


def refuse_conditions(family: Family, offers: Offers, conditions: Sequence[Condition], n_frames: int) -> None:
    """Raise BadInput for what a take asks and this checkpoint lacks, naming the families that have it."""
    kinds = {c.kind for c in conditions} - set(offers.accepts)
    others = {kind: ", ".join(_takers(kind)) for kind in kinds}
    check_conditions(family.name, offers, conditions, n_frames, others)


def _takers(kind: str) -> list[str]:
    found = {name: load_family(name).kinds for name in families()}
    return [f"{name} ({kinds[kind]})" if kinds[kind] else name for name, kinds in found.items() if kind in kinds]
