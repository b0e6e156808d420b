"""What people, and assistants, chose of the takes of a store: the table `reviews`, and what it says of a take.

A review names the ones that it replaces, so that nothing depends on clocks. Where two people choose at once, neither
review replaces the other: if they disagree, that take is in conflict and waits until a review replaces both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

REVIEWS = "reviews"
REVIEW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("take_id", pa.string()),
        ("choice", pa.string()),
        ("who", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("note", pa.string()),
        ("supersedes", pa.list_(pa.string())),
    ]
)
"""A review. choice: one of CHOICES; who and at: who chose, and when (UTC); note: a text of their own, or "";
supersedes: the ids of the reviews of this take that it replaces, those that stood when it was made."""

APPROVE, REJECT, CLEAR, STAR, UNSTAR, NOTE = "approve", "reject", "clear", "star", "unstar", "note"
VERDICTS = {APPROVE: APPROVE, REJECT: REJECT, CLEAR: ""}
CHOICES = (APPROVE, REJECT, CLEAR, STAR, UNSTAR, NOTE)
"""clear takes back an approve or reject; note says something and changes nothing else."""

T = TypeVar("T")


@dataclass(frozen=True)
class Standing:
    """What the reviews of one take come to.

    verdict   `approve`, `reject`, or "" where nobody has chosen, or where it was taken back
    star      whether it has a star
    note      the last note, "" for none
    conflict  whether reviews that do not replace each other disagree about the verdict; it is "" then
    heads     the ids of the reviews that no other replaces: what the next review replaces
    """

    verdict: str = ""
    star: bool = False
    note: str = ""
    conflict: bool = False
    heads: tuple[str, ...] = ()


def standing_of(reviews: Iterable[Mapping[str, Any]]) -> dict[str, Standing]:
    """What the reviews (rows of REVIEW_SCHEMA, in any order) come to, by take id."""
    takes: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in reviews:
        takes.setdefault(row["take_id"], {})[row["id"]] = row
    return {take_id: _standing(rows) for take_id, rows in takes.items()}


def _standing(rows: Mapping[str, Mapping[str, Any]]) -> Standing:
    replaced = {old for row in rows.values() for old in row["supersedes"] or ()}
    verdicts = _unreplaced(rows, {name: VERDICTS[r["choice"]] for name, r in rows.items() if r["choice"] in VERDICTS})
    stars = _unreplaced(rows, {name: r["choice"] == STAR for name, r in rows.items() if r["choice"] in (STAR, UNSTAR)})
    notes = _unreplaced(rows, {name: r["note"] for name, r in rows.items() if r["note"]})
    conflict = len(set(verdicts)) > 1
    return Standing(
        "" if conflict or not verdicts else verdicts[0],
        bool(stars and stars[-1]),
        notes[-1] if notes else "",
        conflict,
        tuple(sorted(set(rows) - replaced)),
    )


def _unreplaced(rows: Mapping[str, Mapping[str, Any]], said: Mapping[str, T]) -> list[T]:
    """What is said and not replaced by something else that is said, directly or by reviews between; the newest last."""
    older = {old for name in said for old in _ancestors(rows, name)}
    return [said[name] for name in sorted(set(said) - older, key=lambda name: (rows[name]["at"], name))]


def _ancestors(rows: Mapping[str, Mapping[str, Any]], name: str) -> set[str]:
    """The ids of all reviews that a review replaces, also by those that it replaces."""
    reached, left = set[str](), [name]
    while left:
        new = {old for old in rows[left.pop()]["supersedes"] or () if old in rows} - reached
        reached |= new
        left += new
    return reached
