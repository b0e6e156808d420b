"""What stands in a prompt for something else: `{{column}}`, and with `wildcards: true` also `{a|b}` and `__file__`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from flows.render.columns import plain_name
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.text_tables import PADDING

COLUMN = re.compile(r"\{\{([^{}|\n]+)\}\}")
"""A column in a prompt. What stands between the braces is a name and nothing else."""
CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
LISTED = re.compile(r"__([\w.~/-]*?[\w.~/-])__")
HELD = re.compile("\ue010([0-9]+)\ue011")
"""Where a text stands that nothing looks into any more."""
PATTERN_KEYS = ("prompt", "negative_prompt")
DEEPEST = 20
LARGEST_LIST = 16 * 1024 * 1024


def columns_in(*texts: Any) -> set[str]:
    """The names of the columns that texts name, as they are compared."""
    return {plain_name(name) for text in texts if isinstance(text, str) for name in COLUMN.findall(text)}


def columns_used(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The columns that the prompts and negative prompts of rows name."""
    return {name for row in rows for name in columns_in(*(row.get(key) for key in PATTERN_KEYS))}


@dataclass
class Templates:
    """The texts of one campaign's prompts.

    wildcards: whether `{a|b}` and `__file__` mean something; folder: where the files of wildcards lie, None where there
    is no such folder; named: the columns that texts name, empty where no row has any of them, so that all braces are
    literal. Every file is read once.
    """

    wildcards: bool = False
    folder: Path | None = None
    named: frozenset[str] = frozenset()
    lists: dict[str, list[str]] = field(default_factory=dict)

    def needs_seed(self, values: Mapping[str, Any]) -> bool:
        """Whether a row's texts may be others for another seed."""
        texts = [str(values.get(key) or "") for key in PATTERN_KEYS]
        return self.wildcards and any(CHOICE.search(text) or LISTED.search(text) for text in texts)

    def filled(self, text: str, values: Mapping[str, Any], seed: int = 0, key: str = "prompt") -> str:
        """A text with its columns and, where wildcards are on, its choices put in.

        What a column or the line of a file says is put in literally: nothing in it means anything. A choice is drawn
        from the take's seed and from which choice of the text it is. Raises BadInput for a column that is not there or
        is empty, and for a file that is not there or lies outside the campaign's folder.
        """
        if "{" not in text and "__" not in text:
            return text
        held: list[str] = []

        def hold(value: str) -> str:
            held.append(value)
            return f"\ue010{len(held) - 1}\ue011"

        found = COLUMN.sub(lambda match: hold(column_text(match[1], values)), text) if self.named else text
        if self.wildcards:
            found = self._drawn(found, hold, lambda count, nth: _draw(seed, key, nth, count))
        return HELD.sub(lambda match: held[int(match[1])] if int(match[1]) < len(held) else match[0], found)

    def texts(self, values: Mapping[str, Any], own: Mapping[str, Any], seed: int = 0) -> dict[str, str]:
        """The prompt and the negative prompt of a row, `filled` from its own columns. Raises BadInput as that does."""
        found = {key: values[key] for key in PATTERN_KEYS if isinstance(values.get(key), str)}
        return {key: self.filled(text, own, seed, key) for key, text in found.items()}

    def _drawn(self, text: str, hold: Callable[[str], str], draw: Callable[[int, int], int]) -> str:
        """Choices from the inside to the outside, and files, numbered as they are met."""
        nth = 0
        for _ in range(DEEPEST):
            if not (CHOICE.search(text) or LISTED.search(text)):
                return text

            def chosen(match: re.Match[str]) -> str:
                nonlocal nth
                options, nth = match[1].split("|"), nth + 1
                return options[draw(len(options), nth)]

            def line(match: re.Match[str]) -> str:
                nonlocal nth
                options, nth = self._lines(match[1]), nth + 1
                return hold(options[draw(len(options), nth)])

            text = CHOICE.sub(chosen, LISTED.sub(line, text))
        raise BadInput(f"choices stand in one another more than {DEEPEST} deep")

    def _lines(self, name: str) -> list[str]:
        """The lines of NAME.txt in the campaign's folder."""
        if name not in self.lists:
            self.lists[name] = self._read(name)
        return self.lists[name]

    def _read(self, name: str) -> list[str]:
        if self.folder is None:
            raise BadInput(f"__{name}__ is a file beside a campaign, and this one lies in no local folder")
        home = self.folder.resolve()
        path = (home / f"{name}.txt").resolve()
        if not path.is_relative_to(home):
            raise BadInput(f"__{name}__ lies outside the campaign's folder {home}; put the file into it")
        try:
            if path.stat().st_size > LARGEST_LIST:
                raise BadInput(f"__{name}__: {path} has over {LARGEST_LIST >> 20} MiB")
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise BadInput(f"__{name}__: {path} cannot be read: {reason}") from None
        lines = [line.strip(PADDING) for line in re.split(r"\r\n|\n|\r", text) if line.strip(PADDING)]
        if not lines:
            raise BadInput(f"__{name}__: {path} is empty")
        return lines


def column_text(name: str, values: Mapping[str, Any]) -> str:
    """The text of a row's column. Raises BadInput where there is none."""
    column = plain_name(name)
    if column in PATTERN_KEYS:
        raise BadInput(f"{{{{{name}}}}} names a prompt, and a prompt holds no other one")
    value = values.get(column)
    if value is None or (isinstance(value, str) and not value.strip(PADDING)):
        columns = sorted(str(key) for key in values if key not in PATTERN_KEYS)
        there = f"its columns are {', '.join(columns)}" if columns else "it has no further columns"
        raise BadInput(f"{{{{{name}}}}} names a column that this prompt does not have, or that is empty here; {there}")
    if isinstance(value, float | Decimal) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise BadInput(f"{{{{{name}}}}} names a column that holds no text")
    return str(value).strip(PADDING)


def _draw(seed: int, key: str, nth: int, count: int) -> int:
    """Which of so many options the nth choice of a text takes: of the seed alone, so no other take has a part in it."""
    return int(digest("wildcard", seed, key, nth), 16) % count
