"""Captions by any OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, hosted ones), through the official client."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

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
from data_prep.captions.text import CAPTIONS, printable
from stages.core.errors import BadInput, require
from stages.core.reach.policy import OPENAI, OPENAI_URL, VARIABLE, in_force
from stages.core.reach.secrets import bare, cleared, remember
from stages.core.step import Inputs, Resources, Row, Step

_WHERE: Any = {"identity": False}
TOKEN_KEYS = ("max_tokens", "max_completion_tokens")


class EndpointCaption(Step):
    """Captions of a clip and of its windows by an endpoint, with a status for each, and what came with the footage.

    The questions of a clip go out at the same time; more clips at a time take more workers (`resources.workers`).
    """

    kind = "captions"
    version = 1
    writes = CAPTIONS
    fan_out = True
    resources = Resources(cpus=0.25, batch_rows=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(AskConfig):
        """What is asked (see `AskConfig`), and of whom.

        model        name of the model at the endpoint; required
        rewriter     name of a text model that rewrites the captions of a whole clip from those of all its windows;
                     empty skips this
        base_url     URL of the endpoint, such as http://127.0.0.1:8000/v1; empty uses the default of OpenAI's client
        api_key_env  environment variable that holds the key, where it is not the one that belongs to the endpoint; the
                     operator sets which belongs to which, and no other is sent there
        concurrency  [from 1] questions that are under way at the same time
        timeout_s    [above 0] seconds that one request may take
        retries      [from 0] repeats of a request after a time-out, a lost connection, 408, 409, 429 or 5xx, with
                     growing waits
        temperature  sampling temperature of the first answer
        token_key    [max_tokens, max_completion_tokens] name of the endpoint's parameter for the maximum number of
                     tokens of an answer
        """

        model: str = ""
        rewriter: str = ""
        base_url: str = field(default="", metadata=_WHERE)
        api_key_env: str = field(default="", metadata=_WHERE)
        concurrency: int = field(default=8, metadata=_WHERE)
        timeout_s: float = field(default=120.0, metadata=_WHERE)
        retries: int = field(default=4, metadata=_WHERE)
        temperature: float = 0.0
        token_key: str = field(default="max_tokens", metadata=_WHERE)

        def __post_init__(self) -> None:
            AskConfig.__post_init__(self)
            if not self.model:
                raise BadInput("model is empty: give the name by which the endpoint knows its model")
            require(
                (self.concurrency >= 1, "concurrency", self.concurrency, "at least 1"),
                (self.timeout_s > 0, "timeout_s", self.timeout_s, "above 0"),
                (self.retries >= 0, "retries", self.retries, "0 or more"),
                (self.token_key in TOKEN_KEYS, "token_key", self.token_key, f"one of {', '.join(TOKEN_KEYS)}"),
            )
            check_url(self.base_url)
            variable = key_variable(self.base_url, self.api_key_env)
            if not self.base_url and not os.environ.get(variable):
                raise BadInput(
                    f"base_url is empty: give an OpenAI-compatible endpoint, or set {variable} in the "
                    "environment for the default one"
                )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clip, what came with it, and where its file lies."""
        return caption_inputs()

    def setup(self) -> None:
        """Open the client. Raises BadInput where the package is missing."""
        try:
            import openai
        except ModuleNotFoundError:
            raise BadInput(
                "caption needs the package openai: pip install -c constraints.txt -e '.[captions]'"
            ) from None
        c = self.config
        address = c.base_url or default_endpoint()
        self.key = os.environ.get(key_variable(c.base_url, c.api_key_env), "")
        remember([self.key])
        self.client = openai.OpenAI(
            api_key=self.key or "none", base_url=address, timeout=c.timeout_s, max_retries=c.retries,
            organization="" if c.base_url else None, project="" if c.base_url else None,
        )  # fmt: skip

    def process(self, row: Row) -> Row:
        """The captions of one clip. Raises RuntimeError, to be tried again, where not one question got an answer."""
        c = self.config
        asked = questions(row, c)
        pictures = pictures_for(row, asked, c.side)
        if not pictures:
            raise ValueError("none of the clip's frames can be decoded")
        images = {number: _image(picture) for number, picture in pictures.items()}
        with ThreadPoolExecutor(c.concurrency) as pool:
            captions = list(pool.map(lambda q: self._judged(q, images), asked))
        if all(f.status == "error" for f in captions):
            raise RuntimeError(
                f"the endpoint answered none of {len(captions)} questions; the first: {captions[0].note}"
            )
        if c.rewriter:
            captions = list(rewritten(captions, self._asker(c.rewriter), c.again, c.rewriter))
        return {"rows": rows_of(row, captions)}

    def _judged(self, question: Question, parts: dict[int, Row]) -> Any:
        shown = [parts[n] for n in question.frames if n in parts]
        return judged(question, shown, self._asker(self.config.model), self.config.again, self.config.model)

    def _asker(self, model: str) -> Any:
        return lambda question, shown, tries: self.ask(model, question, shown, tries)

    def ask(self, model: str, question: Question, shown: Sequence[Row], tries: int) -> Answer:
        """One request, with the client's own retries. What fails for good becomes an answer with an error."""
        import openai

        content = [*shown, {"type": "text", "text": question.text}]
        options = {self.config.token_key: question.max_tokens}
        draw = {"temperature": max(0.7, self.config.temperature)} if tries else {"temperature": self.config.temperature}
        try:
            reply = self.client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": content}], **draw, **options,  # type: ignore[call-overload]
            )  # fmt: skip
        except openai.APIStatusError as error:
            return Answer(finish="refused") if _is_filtered(error) else Answer(error=self._plain(_said(error)))
        except openai.OpenAIError as error:
            return Answer(error=self._plain(f"{type(error).__name__}: {error}"))
        answer = _answer(reply)
        return replace(answer, text=answer.text.replace(self.key, "***")) if self.key else answer

    def _plain(self, message: str) -> str:
        """A message on one line, without the key should the endpoint repeat it."""
        return printable(cleared(message), 300)


def default_endpoint() -> str:
    """The client's default: OPENAI_BASE_URL in the environment, else OpenAI's own."""
    return os.environ.get(OPENAI_URL) or OPENAI


def key_variable(base_url: str, asked: str = "") -> str:
    """The environment variable with the key of an endpoint, "" where none belongs to it. Raises BadInput where a config
    asks for another one: it could send any secret of this machine to any address."""
    own = in_force().key_variable(base_url or default_endpoint())
    if asked and asked != own:
        raise BadInput(
            f"api_key_env: {asked} does not belong to {bare(base_url or default_endpoint())}, so it is "
            f"not sent there; whoever runs this can add the pair to `endpoints` in the file that {VARIABLE} names"
        )
    return own


def check_url(url: str) -> None:
    """Raises BadInput for an address that is none, or that carries a secret: configs are stored with every run."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise BadInput(f"base_url {bare(url)!r} is not an address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise BadInput("base_url must hold no user, password or query: keys come from the environment")


def _image(picture: Any) -> Row:
    """A picture [h, w, 3] RGB as a part of a message."""
    import cv2

    jpeg = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"}}


def _answer(reply: Any) -> Answer:
    choice = next(iter(reply.choices or []), None)
    if choice is None or choice.message is None:
        return Answer()
    if getattr(choice.message, "refusal", None) or choice.finish_reason == "content_filter":
        return Answer(finish="refused")
    return Answer(choice.message.content or "", "length" if choice.finish_reason == "length" else "stop")


def _body(error: Any) -> Row:
    return error.body if isinstance(error.body, dict) else {}


def _is_filtered(error: Any) -> bool:
    """Whether a request was stopped by the endpoint's content filter."""
    code = str(_body(error).get("code") or "")
    return error.status_code == 400 and ("content" in code or "policy" in code)


def _said(error: Any) -> str:
    return f"HTTP {error.status_code}: {_body(error).get('message') or error.message}"
