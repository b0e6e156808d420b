"""Words about clips: captions as rows, cleaning of what a model wrote, and text that was found in pictures."""

from __future__ import annotations

import re
import unicodedata

import pyarrow as pa

from stages.core.step import Row

CAPTIONS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("window", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("model", pa.string()),
        ("status", pa.string()),
        ("note", pa.string()),
    ]
)
"""One caption of one window of a clip. kind: short, medium or long; source (came with the footage); label (from its
class). status: ok, empty, repeated, refused, truncated or error, with the reason in `note`."""

LONGEST_FOUND_TEXT = 120
_OPENER = re.compile(
    r"^\s*(?:(?:in|throughout)\s+)?(?:the|this|that|a|an)\s+(?:short\s+|given\s+|provided\s+)?"
    r"(?:video|clip|footage|scene|image|frame|picture|shot|sequence|film|caption)s?(?:\s+(?:clip|sequence|footage|frame)s?)?"
    r"(?:\s*,|\s+(?:also\s+)?(?:shows?|depicts?|features?|captures?|displays?|presents?|portrays?|opens\s+with|begins\s+with|"
    r"starts\s+with|is\s+(?:of|about|showing)|contains?|illustrates?|of|we\s+see))\s*:?\s+",
    re.IGNORECASE,
)
_PREFIX = re.compile(
    r"^\s*(?:here(?:'s| is) (?:a|the) [^:\n]{0,60}:|(?:sure|certainly|of course)[,!.]\s*|"
    r"(?:caption|description)\s*:)\s*",
    re.IGNORECASE,
)
_QUOTES = re.compile('[\u201c\u201d\u201e\u201f"]')
_WE_SEE = re.compile(r"^\s*(?:we|you)\s+(?:can\s+)?see\s+(?:that\s+)?", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:I\s*['\u2019]?\s*m\s+(?:sorry|unable|not able)|"
    r"I\s+(?:cannot|can\s*['\u2019]?t|am\s+(?:sorry|unable|not\s+able))|"
    r"as\s+an?\s+(?:AI|language\s+model)|no\s+(?:video|image)s?\s+(?:was|were|has|have)\s+(?:been\s+)?(?:provided|attached|given))",
    re.IGNORECASE,
)


def caption(row: Row, kind: str, text: str, model: str, status: str = "ok", note: str = "", **window: float) -> Row:
    """One row of CAPTIONS for a clip, or for one window of it."""
    whole = {"window": 0, "start_s": row["start_s"], "end_s": row["end_s"], **window}
    return {
        "clip_id": row["clip_id"],
        **whole,
        "kind": kind,
        "text": text,
        "model": model,
        "status": status,
        "note": note,
    }


def given_captions(row: Row) -> list[Row]:
    """What came with the footage: its caption, and its class label as a prompt."""
    rows = []
    if text := printable(row.get("source_caption") or "", 2000):
        rows.append(caption(row, "source", text, "source"))
    if text := label_prompt(row.get("label") or ""):
        rows.append(caption(row, "label", text, "label"))
    return rows


def label_prompt(label: str) -> str:
    """A class label as words: `ApplyEyeMakeup` and `apply_eye_makeup` are both `apply eye makeup`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-./]+", " ", printable(label, 200))
    return " ".join(words.split()).lower()


def printable(text: str, longest: int = LONGEST_FOUND_TEXT) -> str:
    """Text from outside on one line: no control, format or private characters, no more than `longest` of the rest."""
    visible = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    line = " ".join(visible.split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def without_opener(text: str) -> str:
    """The caption without `The video shows` and its like, with a capital at the front."""
    line = " ".join(text.split())
    for _ in range(3):
        shorter = line
        for pattern in (_PREFIX, _OPENER, _WE_SEE):
            shorter = pattern.sub("", shorter, count=1)
        if shorter == line or not shorter:
            break
        line = shorter
    line = line.strip().strip('"').strip()
    return line[:1].upper() + line[1:]


def cleaned(text: str, finish: str = "stop") -> tuple[str, str]:
    """(caption, status) of what a model answered: ok, empty, refused, repeated, or truncated (out of room)."""
    line = without_opener(printable(text, 8000))
    if len(re.findall(r"\w", line)) < 3:
        return line, "empty"
    if _REFUSAL.search(line[:200]):
        return line, "refused"
    if is_repeated(line):
        return line, "repeated"
    return line, "truncated" if finish == "length" else "ok"


def whole_sentences(text: str) -> str:
    """A text that broke off, up to its last whole sentence; all of it where there is none."""
    ends = [m.end() for m in re.finditer(r"[.!?\u3002](?=\s|$)", text)]
    return text[: ends[-1]] if ends else text


def quoted(text: str, longest: int = LONGEST_FOUND_TEXT) -> str:
    """Text that was found in a picture, in curly quotes that it cannot close by itself."""
    inside = _QUOTES.sub("'", printable(text, longest))
    return f"\u201c{inside}\u201d"


def is_repeated(text: str) -> bool:
    """Whether a model went round in circles: the same sentence three times, or few different runs of four words."""
    sentences = [s.strip().lower() for s in re.split(r"[.!?]+", text) if len(s.strip()) > 8]
    if sentences and max(sentences.count(s) for s in set(sentences)) >= 3:
        return True
    words = re.findall(r"\w+", text.lower())
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(runs) >= 16 and len(set(runs)) < 0.5 * len(runs)
