"""Captions by a model that is shown frames: windows, questions, what counts as an answer, and the rows that result.

What answers is given as a function, so that a local model and an endpoint share all of this. Every answer is joined to
its question, never to its place in time of arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data_prep.captions.text import caption, cleaned, given_captions, printable, whole_sentences
from data_prep.sources.carried import FILE
from stages.core.config_files import nearest
from stages.core.errors import BadInput, require
from stages.core.step import Inputs, Row

LENGTHS = {
    "short": ("Answer with one sentence of at most 15 words.", 64),
    "medium": ("Answer with two or three sentences.", 192),
    "long": ("Answer with one paragraph of five to eight sentences.", 512),
}
"""Kinds of caption: what is asked for, and the most tokens of an answer."""
WATCH = (
    "These pictures are frames of one video clip in order of time, {gap} s apart. Describe how it changes over time: "
    "who or what the subject is, what it does from the beginning to the end, the scene, how the camera moves, and the "
    "visual style. State only what can be seen. Do not speak of pictures, frames or a video."
)
READS = ("clip_id", "start_s", "end_s", "start_pts", "addressable", "start_frame", "n_frames", "label", "caption")
"""What decides the captions of a clip, beside its frames."""
REWRITE = (
    "Below are notes on one video clip, in order of time. Make one description of them. Keep the order of events, and "
    "add nothing that the notes do not say. Do not speak of notes, windows or a video."
)


def caption_inputs() -> Inputs:
    """What a captioner that is shown frames reads: no score, so that none of them makes it look again."""
    return Inputs(depends=READS, carries=FILE)


@dataclass(frozen=True, kw_only=True)
class AskConfig:
    """What a captioner is asked.

    kinds       kinds of caption for the whole clip: any of short, medium and long
    window_s    [from 0] longest window in seconds: a longer clip is also described in equal windows; 0 turns windows
                off
    fps         [above 0] frames shown per second of the clip, at most
    frames      [from 1] frames shown in one question, at most
    side        [from 32] longer side of a shown frame, in pixels
    prompt      the question; `{gap}` in it becomes the seconds between two frames
    label       tell the model the class label of the footage
    again       [from 0] how often a question is asked again when the answer is empty, a refusal or repetitive
    max_tokens  [from 1] tokens of one answer, at most
    """

    kinds: list[str] = field(default_factory=lambda: list(LENGTHS))
    window_s: float = 10.0
    fps: float = 2.0
    frames: int = 16
    side: int = 512
    prompt: str = WATCH
    label: bool = True
    again: int = 1
    max_tokens: int = 512

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in LENGTHS:
                raise BadInput(f"kinds: there is no kind {kind!r}; {nearest(kind, LENGTHS)}")
        require(
            (bool(self.kinds), "kinds", self.kinds, f"at least one of {', '.join(LENGTHS)}"),
            (self.frames >= 1, "frames", self.frames, "at least 1"),
            (self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1"),
            (self.fps > 0, "fps", self.fps, "above 0"),
            (self.side >= 32, "side", self.side, "at least 32"),
            (self.window_s >= 0, "window_s", self.window_s, "0 or more"),
            (self.again >= 0, "again", self.again, "0 or more"),
        )


@dataclass(frozen=True)
class Question:
    """One thing to ask. window is 0 for the whole clip; frames are numbers in the source."""

    window: int
    start_s: float
    end_s: float
    kind: str
    text: str
    max_tokens: int
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came back. finish is stop, length or refused; error says why nothing did."""

    text: str = ""
    finish: str = "stop"
    error: str = ""


@dataclass(frozen=True)
class Caption:
    """A question with its last answer, judged. status is one of `caption_text.CAPTIONS`."""

    question: Question
    text: str
    status: str
    note: str = ""
    model: str = ""


Ask = Callable[[Question, Sequence[Any], int], Answer]
"""(question, pictures, how often it was asked before) to an answer."""


def spans(start_s: float, end_s: float, window_s: float) -> list[tuple[int, float, float]]:
    """(number, start, end) of the whole clip, and of its equal windows from 1 where it is longer than one."""
    count = math.ceil((end_s - start_s) / window_s - 1e-6) if window_s else 1
    windows = [(0, start_s, end_s)]
    if count > 1:
        edges = [start_s + (end_s - start_s) * i / count for i in range(count + 1)]
        windows += [(i + 1, edges[i], edges[i + 1]) for i in range(count)]
    return windows


def questions(row: Row, config: AskConfig) -> list[Question]:
    """What is asked of one kept clip: every kind of the whole, and the longest of them of each window."""
    asked = []
    longest = max(config.kinds, key=lambda kind: LENGTHS[kind][1])
    for window, start, end in spans(row["start_s"], row["end_s"], config.window_s):
        frames = _frames(row, start, end, config)
        gap = (end - start) / max(1, len(frames))
        prompt = config.prompt.replace("{gap}", f"{gap:.1f}") + _hint(row, config)
        for kind in config.kinds if window == 0 else [longest]:
            instruction, max_tokens = LENGTHS[kind]
            max_tokens = min(max_tokens, config.max_tokens)
            asked.append(Question(window, start, end, kind, f"{prompt} {instruction}", max_tokens, tuple(frames)))
    return asked


def _frames(row: Row, start_s: float, end_s: float, config: AskConfig) -> list[int]:
    """Frame numbers of the source, at the middles of equal parts of a span."""
    whole = row["end_s"] - row["start_s"]
    first, last = ((t - row["start_s"]) / whole * row["n_frames"] if whole > 0 else 0 for t in (start_s, end_s))
    count = max(1, min(config.frames, round((end_s - start_s) * config.fps), int(last - first)))
    places = [first + (i + 0.5) * (last - first) / count for i in range(count)]
    return sorted({row["start_frame"] + min(row["n_frames"] - 1, int(p)) for p in places})


def _hint(row: Row, config: AskConfig) -> str:
    """The class label in quotes. It comes from a folder's name or a manifest, so it is told as what it is: a name."""
    label = printable(row["label"] or "", 80).replace('"', "'")
    return (
        f' The footage is filed under the name "{label}", which may help or be wrong.' if label and config.label else ""
    )


def pictures_for(row: Row, asked: Iterable[Question], side: int) -> dict[int, Any]:
    """The pictures of all questions of a clip by frame number, decoded in one go."""
    from data_prep.signals.pictures import Fit, Moment, pictures_at
    from data_prep.sources.reading import unchanged_file

    first = row["start_frame"]  # the others are reached by counting on from it
    asked_for = {n for q in asked for n in q.frames}
    numbers = sorted({first} | asked_for)
    moments = [Moment(n, row["start_pts"] if n == first and row["addressable"] else None) for n in numbers]
    with unchanged_file(row["uri"], row["bytes"], row["sha256"], row["version"]) as path:
        found = pictures_at(path, row["stream_index"], moments, Fit(long=side))
        return {numbers[i]: p for i, p in found if i or first in asked_for}


def judged(question: Question, pictures: Sequence[Any], ask: Ask, again: int, model: str) -> Caption:
    """Ask until the answer is a caption, or often enough."""
    last = Caption(question, "", "error", "not asked", model)
    for tries in range(again + 1):
        answer = ask(question, pictures, tries)
        if answer.error:
            return Caption(question, "", "error", answer.error, model)
        text, status = ("", "refused") if answer.finish == "refused" else cleaned(answer.text, answer.finish)
        if status in ("ok", "truncated"):
            kept = whole_sentences(text) if status == "truncated" else text
            return Caption(question, kept, status, "" if status == "ok" else "out of tokens", model)
        last = Caption(question, "", status, printable(answer.text, 300), model)
    return last


def rewritten(captions: Sequence[Caption], ask: Ask, again: int, model: str) -> Iterator[Caption]:
    """Captions of the whole clip made anew from all windows by a text model; where it fails the first ones stay."""
    notes = [c for c in captions if c.status in ("ok", "truncated")]
    for caption_ in captions:
        if caption_.question.window or not notes:
            yield caption_
            continue
        instruction, _ = LENGTHS[caption_.question.kind]
        lines = "\n".join(f"- {c.question.start_s:.1f} to {c.question.end_s:.1f} s: {c.text}" for c in notes)
        question = replace(caption_.question, text=f"{REWRITE} {instruction}\n\n{lines}", frames=())
        rewrite = judged(question, (), ask, again, f"{caption_.model} + {model}")
        if rewrite.status == "ok":
            yield replace(rewrite, question=caption_.question)
        else:
            yield replace(caption_, note=f"not rewritten: {rewrite.status} {rewrite.note}".strip())


def rows_of(row: Row, captions: Iterable[Caption]) -> list[Row]:
    """The rows of a clip: what came with it, then every caption."""
    rows = [
        caption(
            row, c.question.kind, c.text, c.model, c.status, c.note,
            window=c.question.window, start_s=c.question.start_s, end_s=c.question.end_s,
        )
        for c in captions
    ]  # fmt: skip
    return [*given_captions(row), *rows]
