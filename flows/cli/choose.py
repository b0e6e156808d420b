"""`rushes choose`: what a person thinks of takes, as reviews in the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.display.terminal import console as plain_console
from flows.render.reviews import choose, standings
from flows.run.session import existing_catalog
from flows.words import counted, listed
from stages.core.errors import BadInput
from stages.core.reviews import APPROVE, CHOICES, CLEAR, NOTE, REJECT, STAR, UNSTAR

DONE = {
    APPROVE: "approved",
    REJECT: "rejected",
    CLEAR: "without a verdict again",
    STAR: "given a star",
    UNSTAR: "without a star again",
    NOTE: "given a note",
}


def choose_command(
    words: Sequence[str], store: str, who: str = "", note: str = "", options: dict[str, Any] | None = None
) -> int:
    """Write a review for each take that is named; the last word is the choice."""
    if not words or words[-1] not in CHOICES:
        said = f"{words[-1]!r} is none" if words else "nothing was named"
        raise BadInput(f"{said}: end with a choice ({', '.join(CHOICES)}), as in `rushes choose TAKE approve`")
    catalog = existing_catalog(store, options)
    rows = choose(catalog, words[:-1], words[-1], who, note)
    takes = [r["take_id"] for r in rows]
    name = f"{counted(len(takes), 'take')} ({listed([t[:12] for t in takes])})"
    lines = [f"{name} {DONE[words[-1]]} by {rows[0]['who']}"]
    now = standings(catalog)
    if at_odds := [t for t in takes if now[t].conflict]:
        lines.append(f"in conflict, as somebody chose at the same time: {listed([t[:12] for t in at_odds])}")
    for line in lines:
        plain_console().print(line, soft_wrap=True, markup=False)
    return 0
