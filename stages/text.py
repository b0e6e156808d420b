"""Prompts to text embeddings. Runs once per prompt, whatever the number of seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from stages.core.errors import BadInput
from stages.core.latents.artifacts import SIZE
from stages.core.latents.form import SUFFIX, pack_text
from stages.core.step import ARTIFACT, Inputs, Resources, Row, Step
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import load_family


class Text(Step):
    """Loads tokenizer and text encoder; keeps the embeddings of a prompt and of its negative prompt in one file."""

    kind = "text"
    writes = pa.schema([*ARTIFACT, *SIZE, ("tokens", pa.int64()), ("truncated", pa.bool_()), ("family", pa.string())])
    weights: ClassVar = {"model.checkpoint": ("tokenizer", "text_encoder")}
    resources = Resources(cpus=0.25)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How prompts are encoded.

        model       the weights
        max_tokens  [from 2] length that embeddings are padded to; tokens beyond it are cut off
        """

        model: ModelConfig = field(default_factory=ModelConfig)
        max_tokens: int = 256

        def __post_init__(self) -> None:
            if self.max_tokens < 2:
                raise BadInput(f"text.max_tokens is {self.max_tokens}; it must be at least 2")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The two prompts: takes that differ in anything else share their embeddings."""
        return Inputs(depends=("prompt", "negative_prompt"), when=("prompt",))

    def setup(self) -> None:
        """Load the text encoder."""
        self.encoder = load_family(self.config.model.family).text(self.config.model)

    def process(self, row: Row) -> Row:
        """One prompt's embeddings. Raises BadInput for an empty prompt."""
        if not str(row["prompt"]).strip():
            raise BadInput("the prompt is empty")
        limit = self.config.max_tokens
        text, tokens = self.encoder.encode(str(row["prompt"]), str(row["negative_prompt"] or ""), limit)
        size = {"width": 0, "height": 0, "n_frames": 0, "fps": 0.0}
        counts = {"tokens": min(tokens, limit), "truncated": tokens > limit, "family": text.family}
        return {**self.workspace.put(pack_text(text), SUFFIX), **size, **counts}
