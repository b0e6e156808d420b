"""Texts of others, such as names of files, prompts and captions, made harmless for what shows them: a terminal, a
spreadsheet, a page in Markdown."""

from __future__ import annotations

import re
import unicodedata

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""How a cell begins that a spreadsheet would reckon, with any marks of text before it."""
MARKUP = re.compile(r"([\\`*_{}\[\]()<>#!|~&]|^[+\-=]|(?<=^\d)[.)])")
TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Signs that turn the direction of what is shown."""


def for_terminal(text: str, keep: str = "\n\t") -> str:
    """A text whose control characters are shown as `\\x1b` instead of being obeyed; those in `keep` stay."""
    if text.isprintable():
        return text
    return "".join(_visible(sign, keep) for sign in text)


def _visible(sign: str, keep: str) -> str:
    if sign in keep:
        return sign
    if sign in TURNING or unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs"):
        return f"\\x{ord(sign):02x}" if ord(sign) < 256 else f"\\u{ord(sign):04x}"
    return sign


def for_cell(text: str) -> str:
    """A text as the cell of a CSV table: what a spreadsheet would take for a formula gets an apostrophe in front.

    Numbers stay as they are. `from_cell` gives the very text back.
    """
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def from_cell(cell: str) -> str:
    """The text of a cell: an apostrophe before what would be a formula is no part of it."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def for_markdown(text: str) -> str:
    """A text as one line of Markdown that shows it and does nothing else: no link, no picture, no HTML.

    Its lines are joined by spaces, since a second line would begin something new.
    """
    line = " ".join(part.strip() for part in text.splitlines())
    return MARKUP.sub(r"\\\1", for_terminal(line, keep=""))  # pages show entities as they are written, so none
