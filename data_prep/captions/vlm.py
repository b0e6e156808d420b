"""Captions by a local vision-language model: any `image-text-to-text` checkpoint of transformers, by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.captions.questions import (
    Answer,
    AskConfig,
    Question,
    judged,
    pictures_for,
    questions,
    rewritten,
    rows_of,
)
from data_prep.captions.text import CAPTIONS
from stages.core.errors import BadInput
from stages.core.step import Resources, Row, Step
from stages.core.weights.checkpoint import locate

DTYPES = ("auto", "float32", "bfloat16", "float16")


class VlmCaption(Step):
    """Captions of a clip and of its windows by a local model, and what came with the footage."""

    version = 1
    reads = (
        "clip_id", "uri", "bytes", "sha256", "version", "stream_index", "start_s", "end_s", "start_pts", "addressable",
        "start_frame", "n_frames",
    )  # fmt: skip
    writes = CAPTIONS
    fan_out = True
    weights = {"model": (), "rewriter": ()}  # noqa: RUF012
    resources = Resources(batch_rows=2, memory_gb=4.0)

    @dataclass(frozen=True, kw_only=True)
    class Config(AskConfig):
        """What is asked (see `AskConfig`), and of which model.

        model, revision  a checkpoint folder with safetensors weights, its processor and a chat template; or a hub id
                         with a revision. The processors of some models want the package torchvision
        rewriter         a text model of the same kinds of place, for a second pass over the windows' captions
        dtype            auto (that of the checkpoint), float32, bfloat16 or float16
        device           auto (a GPU where there is one), cpu or cuda
        download         whether a hub id may be fetched
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
                    "steps.caption.model is empty: give the folder of an image-text-to-text checkpoint of transformers "
                    "(such as Qwen2.5-VL or SmolVLM), or its hub id together with `revision`"
                )
            if self.dtype not in DTYPES:
                raise BadInput(f"steps.caption.dtype is {self.dtype!r}; it must be one of {', '.join(DTYPES)}")

    def setup(self) -> None:
        """Load the model, and the rewriter where there is one."""
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        torch.set_num_threads(self.workspace.threads)
        c = self.config
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if c.device == "auto" else c.device
        self.processor, self.model = self._load(c.model, c.revision, AutoProcessor, AutoModelForImageTextToText)
        if c.rewriter:
            self.tokenizer, self.rewriter = self._load(c.rewriter, "", AutoTokenizer, AutoModelForCausalLM)

    def _load(self, location: str, revision: str, front: Any, model: Any) -> tuple[Any, Any]:
        name, _, pinned = location.partition("@") if "@" in location else (location, "", revision)
        folder = str(locate(name, "steps.caption.model", (), pinned, self.config.download))
        options = {"local_files_only": True, "trust_remote_code": False}
        loaded = model.from_pretrained(folder, dtype=self.config.dtype, use_safetensors=True, **options)
        return front.from_pretrained(folder, **options), loaded.eval().requires_grad_(False).to(self.device)

    def process(self, row: Row) -> Row:
        """The captions of one clip. Raises ValueError where none of its frames can be read."""
        c = self.config
        asked = questions(row, c)
        pictures = pictures_for(row, asked, c.side)
        if not pictures:
            raise ValueError("none of the clip's frames can be decoded")
        found = [
            judged(q, [pictures[n] for n in q.frames if n in pictures], self.ask, c.again, _name(c.model))
            for q in asked
        ]
        if c.rewriter:
            found = list(rewritten(found, self.ask_rewriter, c.again, _name(c.rewriter)))
        return {"rows": rows_of(row, found)}

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

    def _generate(self, front: Any, model: Any, messages: list[Row], room: int, tries: int) -> Answer:
        """The likeliest words at first; another draw with a stated seed when asked again."""
        import torch

        given = front.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.device)
        torch.manual_seed(tries)
        draw = {"do_sample": True, "temperature": 0.7} if tries else {"do_sample": False}
        with torch.inference_mode():
            words = model.generate(**given, max_new_tokens=room, **draw)[0, given["input_ids"].shape[1] :]
        return Answer(front.decode(words, skip_special_tokens=True), "length" if len(words) >= room else "stop")


def _name(location: str) -> str:
    """The last part of a folder or hub id: what the column `model` says."""
    return location.rstrip("/").rsplit("/", 1)[-1]
