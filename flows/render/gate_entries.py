"""The entries of `gates:` as people write them: what each says, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flows.render.takes import TAKES
from stages.core.config import load_class
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.scoring import parse_score, parse_threshold
from stages.core.step import StepRef

LATENT, VIDEO = "latent", "video"
SCORED = ("qc", "judgement")
"""The kinds of rows whose columns are metrics."""
ASIDE = ("measures", *SCORED)
"""Kinds of steps that only look at what the step before them has made."""
WATCHED = (LATENT, VIDEO)
"""What can be shown, and so measured."""
CHOSEN = (*WATCHED, *ASIDE)
"""The kinds of steps behind which a gate may stand."""
WAYS = ("top", "threshold", "review", "all")
KEYS = ("after", *WAYS, "by", "per")
PER = tuple(
    f.name for f in TAKES if not pa.types.is_nested(f.type) and f.name not in ("id", "position", "media", "priority")
)
"""The columns of takes that a group may be made of."""
ALONE = ("id",)
"""The group of gates that decide take by take."""


@dataclass(frozen=True)
class GateEntry:
    """One checked entry of `gates`. where: what it is called in messages; metrics: those that it names."""

    where: str
    after: str
    settings: Mapping[str, Any]
    metrics: frozenset[str] = field(default_factory=frozenset)


def read_entry(number: int, raw: Any, steps: Mapping[str, StepRef]) -> GateEntry:
    """Entry `number` of `gates`, checked. Raises BadInput that names it and the step before it."""
    where = f"gate {number}"
    if not isinstance(raw, Mapping):
        raise BadInput(f"{where} must be a mapping, such as {{after: base, top: 1, by: sharpness}}, not {raw!r}")
    values = {str(k): v for k, v in raw.items() if v is not None and v is not False}
    after = values.pop("after", "")
    where += f" (after {after})" if isinstance(after, str) and after else ""
    for key in values:
        if key not in KEYS:
            raise BadInput(f"{where}: unknown key {key!r}; {nearest(key, KEYS)}")
    if not isinstance(after, str) or after not in steps:
        hint = nearest(str(after), steps)
        raise BadInput(f"{where}: `after` must name a step of the cascade, and {after!r} is none; {hint}")
    if load_class(steps[after].use, after).kind not in CHOSEN:
        able = [n for n, r in steps.items() if load_class(r.use, n).kind in CHOSEN]
        raise BadInput(f"{where}: {after} makes nothing of which takes could be chosen; give one of {', '.join(able)}")
    ways = [way for way in WAYS if way in values]
    if len(ways) != 1:
        said = f"it has {' and '.join(ways)}" if ways else "it has none"
        raise BadInput(f"{where} needs one of {', '.join(WAYS)}; {said}")
    try:
        settings, names = _settings(ways[0], values)
    except BadInput as bad:
        raise BadInput(f"{where}: {bad}") from None
    return GateEntry(where, after, settings, names)


def _settings(way: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """The settings of the gate, and the metrics that it names. Raises BadInput without the place."""
    value = values[way]
    if "by" in values and way != "top":
        raise BadInput(f"`by` belongs to `top`; {way} takes no score")
    if way == "top":
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"top must be a whole number from 1, not {value!r}")
        if "by" not in values:
            raise BadInput("top needs `by`, the score of a take, such as `by: sharpness`")
        score = _read("by", parse_score, str(values["by"]))
        return {"top": value, "by": score.text, "per": _per(values.get("per", "prompt"))}, score.names
    if way == "threshold":
        limit = _read("threshold", parse_threshold, str(value))
        per = _per(values.get("per", "prompt")) if limit.score.ranks or "per" in values else ALONE
        return {"threshold": str(value).strip(), "per": per}, limit.score.names
    if value is not True:
        raise BadInput(f"{way} must be true, not {value!r}")
    if way == "review" and "per" in values:
        raise BadInput("people decide take by take: leave `per` out")
    return {way: True, "per": _per(values["per"]) if "per" in values else ALONE}, frozenset()


def _read(key: str, parse: Any, text: str) -> Any:
    try:
        return parse(text)
    except BadInput as bad:
        raise BadInput(f"{key}: {bad}") from None


def _per(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(n, str) for n in names):
        raise BadInput(f"per must be a column of takes or a list of them, not {value!r}")
    for name in names:
        if name not in PER:
            raise BadInput(f"per: takes cannot be grouped by {name!r}; {nearest(name, PER)}")
    return tuple(dict.fromkeys(names))
