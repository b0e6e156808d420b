"""A gate: which takes of a campaign go on to the next step. `gates:` in a campaign or cascade makes these."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from stages.core.errors import BadInput, require
from stages.core.identity import digest
from stages.core.reviews import APPROVE, REJECT, REVIEWS, Standing, standing_of
from stages.core.scoring import Score, Threshold, parse_score, parse_threshold
from stages.core.step import REASON, WAITING, Inputs, Job, Port, Row

REDECISIONS = "redecisions"
"""The table of the store that says for which takes a gate decides anew, as if it had never decided."""
REDECISION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("take_id", pa.string()),
        ("gate", pa.string()),
        ("who", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
    ]
)
"""gate: `Gate.settings_mark` of its config."""
STAYS = "went on before, and what has gone on stays"


class Gate(Job):
    """Takes that have failed, or that a quality check has rejected, never go on. What has gone on once, as it was made,
    goes on for ever, whatever is decided later, until somebody asks the gate to decide anew.

    `place` is the rank, of `among` takes, 0 where the gate ranks none; `of_row` is the row that was decided on, `round`
    how often the gate was asked to decide a take anew.
    """

    kind = "gate"
    passes = True
    recalls = True
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("status", pa.string()),
            ("reasons", pa.list_(REASON)),
            ("why", pa.string()),
            ("place", pa.int64()),
            ("among", pa.int64()),
            ("score", pa.float64()),
            ("measured", pa.string()),
            ("kept", pa.bool_()),
            ("of_row", pa.string()),
            ("round", pa.int64()),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """One of top, threshold, review and all. A campaign says these under `gates`.

        top        [from 0] so many takes of each group go on, those with the highest score
        by         the score of a take, for `top`
        threshold  takes go on for which this holds, such as `sharpness >= 0.2`
        review     takes go on that people have approved
        all        all takes go on that were made, and that no quality check has rejected
        per        columns of takes: those that agree in them are a group, which is decided once all of them have ended
        of         the kind of what is decided on: that of the rows of the step before the gate
        scored     the kinds of the steps whose rows have the metrics
        """

        top: int = 0
        by: str = ""
        threshold: str = ""
        review: bool = False
        all: bool = False
        per: tuple[str, ...] = ("prompt",)
        of: str = "latent"
        scored: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            require((self.top >= 0, "top", self.top, "1 or more"))
            if self.by:
                parse_score(self.by)
            if self.threshold:
                parse_threshold(self.threshold)
            if not self.per:
                raise BadInput("per must name a column of takes; `campaign` makes all takes one group")

    @classmethod
    def settings_mark(cls, config: Config) -> str:
        """What tells the decisions of this gate from those of gates with other settings."""
        return digest("gate", asdict(config))

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The rows of the step before, and those with metrics; of the store, the reviews where they decide."""
        ports = {"takes": Port(kind=config.of)}
        ports |= {kind: Port(kind=kind, required=False, many=True) for kind in config.scored}
        tables = {REDECISIONS: "take_id", **({REVIEWS: "take_id"} if config.review else {})}
        return Inputs(ports=ports, tables=tables, per=tuple(config.per))

    def columns(self, table: str) -> tuple[str, ...]:
        """Status and metrics of its rows."""
        return ("id", "status", "reasons", "error", *sorted(self._names()))

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """A row for each take of one group: `ok`, `rejected`, or `waiting` for a review."""
        found = {name: table.to_pylist() for name, table in tables.items()}
        group = self._group(found)
        fit = [take for take in group.values() if not take.fault]
        self._score(fit)
        self._decide(fit, found)
        self._keep(group, found)
        rows = [self._row(take) for _, take in sorted(group.items())]
        return pa.Table.from_pylist(rows, self.writes)

    # -- what is known of the takes ----------------------------------------------------------------------------------

    def _names(self) -> frozenset[str]:
        names = frozenset[str]()
        if self.config.by:
            names |= parse_score(self.config.by).names
        if self.config.threshold:
            names |= parse_threshold(self.config.threshold).score.names
        return names

    def _group(self, found: Mapping[str, Sequence[Row]]) -> dict[str, _Take]:
        """The takes of the group by id, with what was measured of them, and why some cannot go on."""
        mark = self.settings_mark(self.config)
        rounds = Counter(r["take_id"] for r in found[REDECISIONS] if r.get("gate") == mark)
        group = {u["id"]: _Take(u["id"], round=rounds[u["id"]]) for u in found["units"]}
        missing = set(group)
        for row in found["takes"]:
            take = group[row["unit_id"]]
            take.of_row = row["id"]
            take.look("", row)
            missing.discard(take.id)
        for take_id in missing:
            group[take_id].fault = "it was not made"
        own = ("takes", "units", "earlier", REDECISIONS, REVIEWS)
        for name, rows in sorted((n, r) for n, r in found.items() if n not in own):
            left = set(group)
            for row in rows:
                take = group[row["unit_id"]]
                take.look(name, row)
                take.measured |= {k: row[k] for k in self._names() & set(row)}
                left.discard(take.id)
            for take_id in left:
                group[take_id].fault = group[take_id].fault or f"{name} has no row of it"
        return group

    def _score(self, fit: Sequence[_Take]) -> None:
        score: Score | None = None
        if self.config.by:
            score = parse_score(self.config.by)
        elif self.config.threshold:
            score = parse_threshold(self.config.threshold).score
        if score is not None:
            numbers = [{name: _finite(v) for name, v in t.measured.items()} for t in fit]
            for take, value in zip(fit, score.values(numbers), strict=True):
                take.score = value

    # -- deciding ----------------------------------------------------------------------------------------------------

    def _decide(self, fit: Sequence[_Take], found: Mapping[str, Sequence[Row]]) -> None:
        if self.config.review:
            standing = standing_of(r for r in found[REVIEWS] if r.get("choice"))
            last = {r["take_id"]: r["who"] for r in sorted(found[REVIEWS], key=lambda r: str(r.get("at")))
                    if r.get("choice") in (APPROVE, REJECT)}  # fmt: skip
            for take in fit:
                _review(take, standing.get(take.id, Standing()), last.get(take.id, ""))
        elif self.config.threshold:
            limit = parse_threshold(self.config.threshold)
            for take in fit:
                _hold(take, limit)
        elif self.config.top:
            ranked = sorted(fit, key=lambda t: (t.score is None, -(t.score or 0.0), t.id))
            for place, take in enumerate(ranked, 1):
                _place(take, place, len(ranked), self.config.top)
        else:
            for take in fit:
                take.status, take.why = "ok", "all go on"

    def _keep(self, group: Mapping[str, _Take], found: Mapping[str, Sequence[Row]]) -> None:
        """What has gone on before stays, if it is the same row, and nobody has asked to decide anew since."""
        for row in found["earlier"]:
            take = group.get(row["id"])
            if take is None or row.get("status") != "ok" or take.status == "ok":
                continue
            if take.of_row and (row.get("of_row"), row.get("round")) == (take.of_row, take.round):
                take.status, take.kept, take.reasons = "ok", True, []
                take.why = f"{STAYS}; now: {take.why or take.fault}"

    def _row(self, take: _Take) -> Row:
        values = {name: _finite(v) for name, v in take.measured.items()}
        values |= {"score": take.score} if self.config.by or self.config.threshold else {}
        return {
            "id": take.id,
            "status": take.status,
            "reasons": [{"step": self.name, **reason} for reason in take.reasons],
            "why": take.why or take.fault,
            "place": take.place,
            "among": take.among,
            "score": take.score,
            "measured": json.dumps(values, sort_keys=True) if values else "",
            "kept": take.kept,
            "of_row": take.of_row,
            "round": take.round,
        }


@dataclass
class _Take:
    """One take of the group while it is decided. fault: why it cannot go on, whatever its score."""

    id: str
    round: int = 0
    of_row: str = ""
    fault: str = ""
    status: str = "rejected"
    why: str = ""
    score: float | None = None
    place: int = 0
    among: int = 0
    kept: bool = False
    measured: dict[str, Any] = field(default_factory=dict)
    reasons: list[Row] = field(default_factory=list)

    def look(self, name: str, row: Row) -> None:
        """Take in a row of the step before (name ""), or of one that measures."""
        if row["status"] == "ok":
            return
        reasons = row.get("reasons") or []
        said = "; ".join(f"{r['metric']} is {r['value']}, required {r['op']} {r['threshold']}" for r in reasons)
        said = said or row.get("error") or row["status"]
        self.fault = self.fault or (f"{name}: {said}" if name else said)
        self.reasons += [{k: r[k] for k in ("metric", "value", "op", "threshold")} for r in reasons]


def _place(take: _Take, place: int, of: int, top: int) -> None:
    take.place, take.among, take.why = place, of, f"rank {place} of {of}, top {top}"
    if take.score is None:
        take.why += "; its score has no value"
    if place <= top:
        take.status = "ok"
    else:
        take.reasons = [_reason("rank", f"{place} of {of}", "<=", top)]


def _hold(take: _Take, limit: Threshold) -> None:
    value = "without a value" if take.score is None else f"{take.score:.6g}"
    take.why = f"{limit.score.text} is {value}, required {limit.op} {limit.value:g}"
    if limit.holds(take.score):
        take.status = "ok"
    else:
        take.reasons = [_reason(limit.score.text, value, limit.op, f"{limit.value:g}")]


def _review(take: _Take, standing: Standing, who: str) -> None:
    note = f": {standing.note}" if standing.note else ""
    if standing.verdict == APPROVE:
        take.status, take.why = "ok", f"approved by {who}{note}"
    elif standing.verdict == REJECT:
        take.why = f"rejected by {who}{note}"
        take.reasons = [_reason("review", REJECT, "==", APPROVE)]
    else:
        take.status = WAITING
        take.why = "waits for a review" + (", as people disagree" if standing.conflict else "")


def _finite(value: Any) -> float | None:
    """A metric as a number; None where it has no value."""
    return None if value is None or not math.isfinite(value) else float(value)


def _reason(metric: str, value: object, op: str, threshold: object) -> Row:
    return {"metric": metric, "value": str(value), "op": op, "threshold": str(threshold)}


def metric_names(writes: Iterable[pa.Field]) -> list[str]:
    """The columns of a step that a score may name: its numbers, and what is true (1) or false (0)."""
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return [f.name for f in writes if any(is_kind(f.type) for is_kind in kinds)]
