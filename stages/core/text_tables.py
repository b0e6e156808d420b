"""Tables and JSON that people wrote as text: what would be lost in silence is told instead."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from stages.core.errors import BadInput

PADDING = " \t\r\n\v\f\ufeff"
"""What stands around a text and is no part of it."""


def records(shown: str, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, cells) of every record that is not empty. Raises BadInput."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise BadInput(f"{shown}, line {line}: this is not a row of a table: {error}") from None
        if cells is None:
            return
        if any(cell.strip(PADDING) for cell in cells):
            yield line, cells


def surplus(cells: Sequence[str], columns: Sequence[str]) -> str:
    """What is wrong with a record that has text behind its last column; "" where it has none."""
    if not any(cell.strip() for cell in cells[len(columns) :]):
        return ""
    return f"there are {len(cells)} cells for {len(columns)} columns; put quotes around text that holds a separator"


def parsed_json(text: str) -> Any:
    """JSON without a key that occurs twice. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
