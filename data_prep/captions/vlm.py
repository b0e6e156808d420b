"""Captions by a local vision-language model: any `image-text-to-text` checkpoint of transformers, by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.captions.questions import (
    Answer,
    AskConfig,
    Question,
    caption_inputs,
    judged,
    pictures_for,
    questions,
    rewritten,
    rows_of,
)
from data_prep.captions.text import CAPTIONS
from stages.core.errors import BadInput, require
from stages.core.step import Inputs, Resources, Row, Step
from stages.core.weights.checkpoint import device_rule, locate

DTYPES = ("auto", "float32", "bfloat16", "float16")


class VlmCaption(Step):
    """Captions of a clip and of its windows by a local model, and what came with the footage."""

    kind = "captions"
    version = 1
    writes = CAPTIONS
    fan_out = True
    weights = {"model": (), "rewriter": ()}  # noqa: RUF012
    resources = Resources(batch_rows=2, memory_gb=4.0)

    @dataclass(frozen=True, kw_only=True)
    class Config(AskConfig):
        """What is asked (see `AskConfig`), and of which model.

        model     folder of a checkpoint with safetensors weights, a processor and a chat template, or a hub id;
                  required
        revision  revision of a hub id
        rewriter  a text model, given in the same way, that rewrites the captions of a whole clip from those of all its
                  windows; empty skips this
        dtype     [auto, float32, bfloat16, float16] what the model computes in; `auto` is that of the checkpoint
        device    [auto, cpu, cuda] where the model runs; `auto` is a GPU where there is one
        download  allow a hub id to be downloaded

        The processors of some models need the package torchvision.
        """

        model: str = ""
        revision: str = field(default="", metadata={"identity": False})
        rewriter: str = ""
        dtype: str = "auto"
        device: str = field(default="auto", metadata={"identity": False})
        download: bool = field(default=False, metadata={"identity": False})

        def __post_init__(self) -> None:
            AskConfig.__post_init__(self)
            if not self.model:
                raise BadInput(
                    "model is empty: give the folder of an image-text-to-text checkpoint of transformers "
                    "(such as Qwen2.5-VL or SmolVLM), or its hub id together with `revision`"
                )
            require(
                (self.dtype in DTYPES, "dtype", self.dtype, f"one of {', '.join(DTYPES)}"),
                device_rule(self.device),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clip, what came with it, and where its file lies."""
        return caption_inputs()

    def setup(self) -> None:
        """Load the model, and the rewriter where there is one."""
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        from stages.families.engine.device import find_device

        torch.set_num_threads(self.workspace.threads)
        c = self.config
        self.device = find_device(c.device, "caption.device")
        self.processor, self.model = self._load(c.model, c.revision, AutoProcessor, AutoModelForImageTextToText)
        if c.rewriter:
            self.tokenizer, self.rewriter = self._load(c.rewriter, "", AutoTokenizer, AutoModelForCausalLM)

    def _load(self, location: str, revision: str, front: Any, model: Any) -> tuple[Any, Any]:
        from stages.families.load_report import load_transformers

        name, _, pinned = location.partition("@") if "@" in location else (location, "", revision)
        folder = str(locate(name, "caption.model", (), pinned, self.config.download))
        options = {"local_files_only": True, "trust_remote_code": False}
        loaded = load_transformers(model, Path(folder), whole=False, dtype=self.config.dtype, trust_remote_code=False)
        return front.from_pretrained(folder, **options), loaded.requires_grad_(False).to(self.device)

    def process(self, row: Row) -> Row:
        """The captions of one clip. Raises ValueError where none of its frames can be read."""
        c = self.config
        asked = questions(row, c)
        pictures = pictures_for(row, asked, c.side)
        if not pictures:
            raise ValueError("none of the clip's frames can be decoded")
        captions = [
            judged(q, [pictures[n] for n in q.frames if n in pictures], self.ask, c.again, _name(c.model))
            for q in asked
        ]
        if c.rewriter:
            captions = list(rewritten(captions, self.ask_rewriter, c.again, _name(c.rewriter)))
        return {"rows": rows_of(row, captions)}

    def ask(self, question: Question, pictures: Sequence[Any], tries: int) -> Answer:
        """The model's answer to pictures and a text."""
        from PIL import Image

        shown = [{"type": "image", "image": Image.fromarray(p)} for p in pictures]
        messages = [{"role": "user", "content": [*shown, {"type": "text", "text": question.text}]}]
        return self._generate(self.processor, self.model, messages, question.max_tokens, tries)

    def ask_rewriter(self, question: Question, pictures: Sequence[Any], tries: int) -> Answer:
        """The text model's answer."""
        messages = [{"role": "user", "content": question.text}]
        return self._generate(self.tokenizer, self.rewriter, messages, question.max_tokens, tries)

    def _generate(self, front: Any, model: Any, messages: list[Row], max_tokens: int, tries: int) -> Answer:
        """The likeliest words at first; another draw with a stated seed when asked again."""
        import torch

        inputs = front.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.device)
        torch.manual_seed(tries)
        draw = {"do_sample": True, "temperature": 0.7} if tries else {"do_sample": False}
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=max_tokens, **draw)[0, inputs["input_ids"].shape[1] :]
        return Answer(front.decode(tokens, skip_special_tokens=True), "length" if len(tokens) >= max_tokens else "stop")


def _name(location: str) -> str:
    """The last part of a folder or hub id: what the column `model` says."""
    return location.rstrip("/").rsplit("/", 1)[-1]
