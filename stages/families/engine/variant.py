"""A family as a table of variants: which checkpoints there are, what each offers, and how its pipeline is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from stages.core.conditions import Condition
from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import Frames, Sampling, Shot
from stages.families.offers import Offers, SizeRule


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a pipeline, as a variant binds it.

    frames  condition -> its frames [F, H, W, 3]; blank ones where what was made of them is answered
    knobs   of the sampler, and of how the family sees, with their defaults
    """

    shot: Shot
    sampling: Sampling
    knobs: Mapping[str, Any]
    frames: Mapping[Condition, Frames]

    def of(self, kind: str) -> list[Condition]:
        """The conditions of one kind, in their order."""
        return [c for c in self.shot.conditions if c.kind == kind]

    def pictures(self, condition: Condition) -> list[Any]:
        """The frames of a condition as the pipelines take them."""
        from PIL import Image

        return [Image.fromarray(frame) for frame in self.frames[condition]]


Bind = Callable[[Call], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One kind of checkpoint of a family.

    pipeline   the class of diffusers that denoises
    looking    what names the class in its place where conditions of `encodes` are given, of these; None where it is
               the same
    offers     what it can do
    bind       what its pipeline is called with, beside size, steps, generator and embeddings
    denoise    the components that it denoises with; the VAE is a card
    see        the components that look, beside the VAE
    looks      methods of the pipeline that answer with an image embedding
    layout     the order of axes in the pipeline's latents
    scales     whether the pipeline multiplies `latents` that it is given by the scheduler's first sigma
    keeps      kinds of condition that go to the denoiser as pixels
    encodes    kinds of condition for which the pipeline asks its VAE: only for these it is run to look
    leads      kinds of condition of which each adds a latent frame in front of the clip
    options    settings of the pipeline itself, from model_index.json
    """

    pipeline: str
    offers: Offers
    bind: Bind
    looking: Callable[[Sequence[Condition]], str] | None = None
    denoise: tuple[str, ...]
    see: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()
    layout: str = "BCFHW"
    scales: bool = False
    keeps: tuple[str, ...] = ()
    encodes: tuple[str, ...] = ()
    leads: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


class Adapter(Protocol):
    """What the stages ask of a family."""

    name: ClassVar[str]
    text_pipeline: ClassVar[str]
    text_parts: ClassVar[tuple[str, ...]]
    text_length: ClassVar[int]

    def variant(self, model: ModelConfig) -> Variant:
        """Which kind of checkpoint this is, from its JSON. Raises BadInput for one of another family."""

    def load(self, model: ModelConfig, part: str, dtype: Any) -> Any:
        """A component of the denoiser, where it is not the folder of that name: None takes that."""

    def form(self, model: ModelConfig) -> Any:
        """The checkpoint's latents, as they rest and as the pipeline holds them."""

    def look(self, answer: Any, arguments: Sequence[Any]) -> Any:
        """What a method of `looks` answers, of what it answered without guidance."""

    def amend(self, pipeline: Any) -> None:
        """Put right what keeps a pipeline of the library from being called as it says that it can be."""

    def steer(self, pipeline: Any, call: Call) -> None:
        """Set what a pipeline has as a setting of its own, rather than as an argument of its call."""

    def encode_text(self, pipeline: Any, prompt: str, negative_prompt: str, length: int, device: Any) -> Any:
        """The embeddings of both prompts, [1, L, D] each."""


def wan_ratios(vae: Mapping[str, Any]) -> tuple[int, int]:
    """Spatial and temporal ratio of a VAE like Wan's, by its config, with what the class has where that is silent."""
    return int(vae.get("scale_factor_spatial", 8)), int(vae.get("scale_factor_temporal", 4))


def wan_sizes(net: Mapping[str, Any], vae: Mapping[str, Any]) -> SizeRule:
    """The sizes of a transformer like Wan's: whole patches, and no more positions than it knows."""
    patch, (spatial, temporal) = net.get("patch_size") or (1, 2, 2), wan_ratios(vae)
    size = SizeRule(step=int(patch[1]) * spatial, frames=temporal)
    return size.within(int(net.get("rope_max_seq_len") or 0), patch, spatial, temporal)


def check_index(name: str, model: ModelConfig, known: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The pipeline class of a checkpoint, and its whole model_index.json. Raises BadInput for one of another family."""
    index = model.read_index()
    found = str(index.get("_class_name", ""))
    if found not in known:
        raise BadInput(
            f"model.checkpoint: {model.checkpoint} is a checkpoint of {found or 'no pipeline'}, which {name} does not"
            f" run; it runs {', '.join(known)}"
        )
    return found, index


def has(index: Mapping[str, Any], part: str) -> bool:
    """Whether a checkpoint has a component of this name."""
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None
