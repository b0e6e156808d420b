"""What a listing found and does not use, for the flow to tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stages.core.step import Row

SAID = ("label", "caption", "licence", "extra")
"""What a row of a manifest says of its file."""


@dataclass
class Unused:
    """Collects while sources are listed.

    rows   manifest -> (place in it, uri) of each row that says something else of a file that was named before
    lists  shot lists that fit no source: (name, the source that fits but for upper and lower case, or "")
    """

    rows: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    lists: list[tuple[str, str]] = field(default_factory=list)

    def see(self, row: Row, first: Row) -> None:
        """A row, and the row that counts for its file: itself, or one before it."""
        if row is not first and "place" in row and _said(row) != _said(first):
            manifest, place = row["place"]
            self.rows.setdefault(manifest, []).append((place, row["uri"]))


def _said(row: Row) -> list[Any]:
    return [row.get(key) or "" for key in SAID]
