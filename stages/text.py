"""Prompts to text embeddings. Runs once per prompt, whatever the number of seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from stages.core.errors import BadInput
from stages.core.latents.artifacts import SIZE
from stages.core.latents.form import SUFFIX, pack_text
from stages.core.step import ARTIFACT, Inputs, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family, offers_of


class Text(Step):
    """Loads tokenizer and text encoder; keeps the embeddings of a prompt and of its negative prompt in one file.

    A family that reads no text has no use for it.
    """

    kind = "text"
    writes = pa.schema([*ARTIFACT, *SIZE, ("tokens", pa.int64()), ("truncated", pa.bool_()), ("family", pa.string())])
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How prompts are encoded.

        model       the weights
        max_tokens  [from 2, or 0] length that embeddings are padded to; tokens beyond it are cut off. 0 is the
                    family's own length
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        max_tokens: int = 256

        def __post_init__(self) -> None:
            if self.max_tokens < 2 and self.max_tokens != 0:
                raise BadInput(f"max_tokens is {self.max_tokens}; it must be at least 2, or 0")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The two prompts: takes that differ in anything else share their embeddings."""
        return Inputs(depends=("prompt", "negative_prompt"), when=("prompt",))

    @classmethod
    def needed(cls, config: Config) -> bool:
        """Not by a family that reads no text."""
        return "text" in offers_of(config.model).parts

    @classmethod
    def weights_of(cls, config: Config) -> Mapping[str, tuple[str, ...]]:
        """What the family reads text with."""
        return offers_of(config.model).weights("text")

    @classmethod
    def check_unit(cls, config: Config, values: Row) -> None:
        """Raise BadInput for a length that the family does not choose."""
        offers = offers_of(config.model)
        if config.max_tokens and not offers.tokens:
            raise BadInput(f"text.max_tokens: {config.model.family} has one length of its own; set it to 0")
        if config.max_tokens % offers.token_step:
            raise BadInput(
                f"text.max_tokens is {config.max_tokens}; for {config.model.family} it must be a multiple of"
                f" {offers.token_step}, or 0"
            )

    def setup(self) -> None:
        """Load the text encoder."""
        self.encoder = load_family(self.config.model.family).text(self.config.model)

    def process(self, row: Row) -> Row:
        """One prompt's embeddings. Raises BadInput for an empty prompt."""
        if not str(row["prompt"]).strip():
            raise BadInput("the prompt is empty")
        family, limit = self.config.model.family, self.config.max_tokens
        text, tokens = self.encoder.encode(str(row["prompt"]), str(row["negative_prompt"] or ""), limit)
        size = {"width": 0, "height": 0, "n_frames": 0, "fps": 0.0}
        limit = limit or self.encoder.length
        counts = {"tokens": min(tokens, limit), "truncated": tokens > limit, "family": family}
        return {**self.workspace.put(pack_text(text, family), SUFFIX), **size, **counts}
