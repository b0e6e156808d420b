"""All that is known of one take: what it asks for, its reviews, where its video came from."""

from __future__ import annotations

from typing import Any

from flows.review.board import Board
from flows.review.further import PLAIN
from stages.core.errors import BadInput
from stages.core.running.lineage import lineage
from stages.core.running.lineage_text import as_text
from stages.core.step import Row


def details(board: Board, take_id: str) -> Row:
    """What the page shows once a take is clicked. Raises BadInput for a take that is not shown."""
    (record,) = board.records([take_id])
    _, unit = board.unit(take_id)
    reviews = board.reviews(take_id)
    replaced = {old for r in reviews for old in r["supersedes"] or ()}
    return {
        "id": take_id,
        "settings": {name: unit[name] for name in PLAIN if unit.get(name) is not None},
        "pictures": [str(m.get("name") or m["sha256"][:12]) for m in unit.get("media") or ()],
        "reviews": [
            {
                "choice": r["choice"],
                "who": r["who"],
                "at": r["at"].isoformat(),
                "note": r["note"],
                "stands": r["id"] not in replaced,
            }
            for r in reviews
        ],
        "lineage": _lineage(board, record["video"] or take_id, take_id),
    }


def _lineage(board: Board, what: Any, take_id: str) -> list[str]:
    """The chain from the prompt to the video, as lines; why there is none, where there is none."""
    try:
        return as_text(lineage(board.catalog, what, take_id))
    except BadInput as bad:
        return [str(bad)]
