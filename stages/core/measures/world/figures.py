"""Verdicts as rows, and what many of them say together."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from stages.core.measures.world.judge import Verdict, accuracy, confusions
from stages.core.measures.world.words import ATTRIBUTES, Attributes
from stages.core.rows import Row


def as_row(verdict: Verdict) -> Row:
    """A verdict as columns."""
    quarters = [{a: getattr(q, a) for a in ATTRIBUTES} for q in verdict.quarters]
    return {
        **{a: getattr(verdict.found, a) for a in ATTRIBUTES},
        "named": list(verdict.right),
        "right": [a for a, is_right in verdict.right.items() if is_right],
        "all_right": verdict.all,
        "quarters": quarters,
        "changes": list(verdict.changes),
        "objects": verdict.objects,
        "same_object": verdict.same_object,
    }


def from_row(row: Mapping[str, Any]) -> Verdict:
    """The verdict that `as_row` made columns of."""
    return Verdict(
        found=_attributes(row),
        quarters=tuple(_attributes(q) for q in row["quarters"]),
        changes=tuple(row["changes"]),
        objects=row["objects"],
        right={a: a in row["right"] for a in row["named"]},
    )


def _attributes(row: Mapping[str, Any], prefix: str = "") -> Any:
    return Attributes(**{a: row[prefix + a] or None for a in ATTRIBUTES})


def report(rows: list[Row]) -> dict[str, Any]:
    """What many verdicts say together.

    accuracy     share of clips with an attribute right, of those whose prompt names it; `all`: with every named one
                 right. None where no prompt names it.
    n            clips judged
    confusions   per attribute and wanted word, how often each word was found (`none`: the judge refused)
    quarters     per attribute, the share of quarters in which it is right, and `same_object`, the share of clips whose
                 quarters all show one object of one colour and shape
    changes      in how many clips the object changed its colour, shape or size unasked, or vanished
    sharpness    median over clips of the median over frames of the variance of the Laplacian, which noise raises
    edges        median over clips of the median over frames of the gradient of the steepest hundredth, which it hardly
                 raises: levels of 255 a pixel
    first_frame  for clips that were to begin with a picture: mean and least PSNR of their first frames, in dB;
                 `last_frame` likewise for clips that were to end with one
    """
    verdicts = [from_row(r) for r in rows]
    changes = [c for v in verdicts for c in v.changes]
    return {
        "accuracy": accuracy(verdicts),
        "n": len(rows),
        "confusions": confusions((_attributes(r, "wanted_"), v) for r, v in zip(rows, verdicts, strict=True)),
        "quarters": _quarters(rows, verdicts),
        "changes": {name: changes.count(name) for name in ("colour", "shape", "vanished", "resized")},
        **{name: median(r[name] for r in rows) if rows else None for name in ("sharpness", "edges")},
        **_likeness(rows, "first_frame"),
        **_likeness(rows, "last_frame"),
    }


def _likeness(rows: list[Row], name: str) -> dict[str, Any]:
    found = [r[f"{name}_psnr"] for r in rows if r[f"{name}_psnr"] is not None]
    return {name: {"psnr": sum(found) / len(found), "least": min(found), "n": len(found)}} if found else {}


def _quarters(rows: list[Row], verdicts: list[Verdict]) -> dict[str, float | None]:
    shares: dict[str, float | None] = {}
    for a in ATTRIBUTES:
        hits = [q[a] == r[f"wanted_{a}"] for r in rows if a in r["named"] for q in r["quarters"]]
        shares[a] = sum(hits) / len(hits) if hits else None
    whole = [v.same_object for v in verdicts]
    return shares | {"same_object": sum(whole) / len(whole) if whole else None}
