"""A family that the engine runs: the adapter's base. Importing this loads no torch; its stages do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.contract import NO_LORA
from stages.families.engine.variant import Call, Variant
from stages.families.offers import Offers

if TYPE_CHECKING:
    from stages.families.engine.stages import EngineCodec, EngineDenoiser, EngineSeer, EngineText
    from stages.families.engine.vae import Form


class EngineFamily:
    """A family that the engine runs. A subclass says which variant a checkpoint is."""

    name: ClassVar[str]
    kinds: ClassVar[Mapping[str, str]]
    strength: ClassVar[str] = "level"
    makers: ClassVar[tuple[str, ...]]
    """The variants of which there is a maker of a tiny checkpoint."""

    text_pipeline: ClassVar[str] = ""
    text_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")
    text_length: ClassVar[int] = 0

    def variant(self, model: ModelConfig) -> Variant:
        """Which kind of checkpoint this is, from its JSON. Raises BadInput for one of another family."""
        raise NotImplementedError

    def offers(self, model: ModelConfig) -> Offers:
        """What this checkpoint can do."""
        return self.variant(model).offers

    def load(self, model: ModelConfig, part: str, dtype: Any) -> Any:
        """A component of the denoiser, where it is not the folder of that name: None takes that."""
        return None

    def look(self, answer: Any, arguments: Sequence[Any]) -> Any:
        """What a method of `looks` answers, of what it answered without guidance."""
        return answer

    def amend(self, pipeline: Any) -> None:
        """Put right what keeps a pipeline of the library from being called as it says that it can be."""

    def steer(self, pipeline: Any, call: Call) -> None:
        """Set what a pipeline has as a setting of its own, rather than as an argument of its call."""

    def encode_text(self, pipeline: Any, prompt: str, negative_prompt: str, length: int, device: Any) -> Any:
        """The embeddings of both prompts, [1, L, D] each: by the pipeline's own method, which cleans the text first."""
        return pipeline.encode_prompt(
            prompt, negative_prompt, do_classifier_free_guidance=True, max_sequence_length=length, device=device
        )

    def text(self, model: ModelConfig) -> EngineText:
        """Tokenizer and text encoder."""
        from stages.families.engine.stages import EngineText

        return EngineText(self, model)

    def seer(self, model: ModelConfig) -> EngineSeer:
        """The VAE, and the image encoder where there is one."""
        from stages.families.engine.stages import EngineSeer

        return EngineSeer(self, model)

    def denoiser(self, model: ModelConfig, lora: LoraConfig = NO_LORA) -> EngineDenoiser:
        """The denoising networks and the scheduler; of the VAE its config."""
        from stages.families.engine.stages import EngineDenoiser

        return EngineDenoiser(self, model, lora)

    def codec(self, model: ModelConfig) -> EngineCodec:
        """The VAE."""
        from stages.families.engine.stages import EngineCodec

        return EngineCodec(self, model)

    def form(self, model: ModelConfig) -> Form:
        """The checkpoint's latents, as they rest and as the pipeline holds them."""
        from stages.families.engine.vae import Form

        return Form(model, self.variant(model).layout)

    def sound(self, model: ModelConfig) -> Any:
        """What makes the track of sound audible; a family that has one says how."""
        raise BadInput(f"{self.name} makes no sound")

    def spatial(self, model: ModelConfig) -> NoReturn:
        """There are no latent upsamplers."""
        raise BadInput(f"{self.name} has no spatial upsampler of latents")

    def temporal(self, model: ModelConfig) -> NoReturn:
        """There are no latent upsamplers."""
        raise BadInput(f"{self.name} has no temporal upsampler of latents")
