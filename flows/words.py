"""Words for people: numbers with their nouns, reasons and errors as sentences."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COMPARED = {">=": "must be at least", "<=": "must be at most", ">": "must be above", "<": "must be below",
            "==": "must be", "not in": "must be none of", "in": "must be one of"}  # fmt: skip
RAISED = re.compile(r"(?:^|(?<=: ))\w*(?:Error|Media|Lost|Input|Exception): |\s*\(\w+\.py:\d+\)$")
"""What a log needs of an error, and a person does not: the class of the exception, and where it was raised."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: `1 row`, `2 rows`; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def duration_text(seconds: float) -> str:
    """Seconds as a person says them: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def listed(words: Sequence[str], most: int = 5) -> str:
    """Words with commas; of many the first, and how many more there are."""
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def command(words: str, store: str) -> str:
    """A command, whole, so that it can be copied into a shell."""
    return f"`rushes {words} --store {shlex.quote(store)}`"


def look(words: str, store: str) -> str:
    """Where to look further: the command, whole."""
    return f"see {command(words, store)}"


def file_name(uri: str) -> str:
    """The last part of a path or URL."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def told_apart(uris: Iterable[str]) -> dict[str, str]:
    """Each path or URL -> its last part, with as many of its folders before it as tell it from the others."""
    left, depth, names = list(dict.fromkeys(uris)), 1, dict[str, str]()
    while left:
        tails = {uri: "/".join(uri.rstrip("/").split("/")[-depth:]) for uri in left}
        shared = Counter(tails.values())
        names |= tails
        left = [uri for uri in left if shared[tails[uri]] > 1 and tails[uri] != uri.rstrip("/")]
        depth += 1
    return names


def span_text(start_s: float, end_s: float) -> str:
    """From when to when, in seconds."""
    return f"{start_s:.2f}-{end_s:.2f} s"


def clip_name(file: str, start_s: float, end_s: float) -> str:
    """What a clip is called: its file and span."""
    return f"{file}, {span_text(start_s, end_s)}"


def copy_text(of: str) -> str:
    """What is said of a clip that has a better copy; of: that clip."""
    return f"copy of {of}, which is better and was kept"


def reason_text(reason: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """A typed reason as a sentence: the metric, its value, and what it must be. names: what clips (by id) and files (by
    path or URL) are called, where it is not the beginning of their id and the last part of their path."""
    metric, value, op, threshold = (reason[k] for k in ("metric", "value", "op", "threshold"))
    named = (names or {}).get(str(value), "")
    if metric == "duplicate":
        return copy_text(named or f"clip {str(value)[:12]}")
    if metric == "suffix":
        return f"not a video file ({value or 'no suffix'})"
    if metric == "frames" and op == ">=":
        return f"it has {counted(int(value), 'frame')}; a video has at least {threshold}"
    if metric == "duplicate_of":
        return f"same content as {named or file_name(str(value))}"
    return f"{metric} is {_rounded(value)}, {COMPARED.get(op, op)} {threshold}"


def _rounded(value: Any) -> str:
    try:
        return f"{float(value):.4g}" if "." in str(value) else str(value)
    except ValueError:
        return str(value)


def error_text(error: str) -> str:
    """The sentence of an error, with its step, without the exception's class and its place in the code."""
    return RAISED.sub("", error or "")


def cause_text(row: Mapping[str, Any]) -> str:
    """Why a row is not ok: its typed reasons, else its error, else its status."""
    return "; ".join(map(reason_text, row["reasons"] or ())) or error_text(row["error"]) or str(row["status"])
