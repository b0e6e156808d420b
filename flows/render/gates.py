"""`gates:` of a campaign or cascade: checked, and put between its steps, with what they need to score and show takes.

    gates:
      - {after: base, top: 1, per: prompt, by: "sharpness - flicker"}
      - {after: refine, review: true}

A gate that names metrics of a quality check needs one, and a person needs something to look at. Where the cascade has
neither at that place, a decode (`preview_base`) and the check (`measure_base`, `qc_base`) are put there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from flows.render.takes import TAKES
from flows.words import listed
from stages.core.config import load_class, make_ref
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.scoring import parse_score, parse_threshold
from stages.core.step import Step, StepRef
from stages.gate import metric_names

GATE = "stages.gate:Gate"
CHECKS = (("measure", "stages.measure:Measure"), ("qc", "stages.qc:Qc"))
"""What a quality check is made of, in order: the first looks at a video."""
DECODE, QUICK = "stages.decode:Decode", "veryfast"
LATENT, VIDEO = "latent", "video"
SCORED = ("qc", "judgement")
"""The kinds of rows whose columns are metrics."""
ASIDE = ("measures", *SCORED)
"""Kinds of steps that only look at what the step before them has made."""
WATCHED = (LATENT, VIDEO)
"""What can be shown, and so measured."""
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


def with_gates(gates: Any, steps: Mapping[str, StepRef]) -> dict[str, StepRef]:
    """The steps with these gates among them, and with what these need. Changes no id of what the steps make.

    Raises BadInput that names the gate by its number and the step before it.
    """
    if not gates:
        return dict(steps)
    if not isinstance(gates, list | tuple):
        raise BadInput(f"gates must be a list, such as [{{after: base, top: 1, by: sharpness}}], not {gates!r}")
    order = list(steps)
    entries = [_entry(number, raw, steps) for number, raw in enumerate(gates, 1)]
    placed = _Placed(dict(steps), order)
    for after in sorted({e.after for e in entries}, key=order.index):
        placed.add([e for e in entries if e.after == after])
    return {name: placed.refs[name] for name in placed.order}


# -- reading -----------------------------------------------------------------------------------------------------------


def _entry(number: int, raw: Any, steps: Mapping[str, StepRef]) -> GateEntry:
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
    if load_class(steps[after].use, after).kind not in (*WATCHED, *ASIDE):
        able = [n for n, r in steps.items() if load_class(r.use, n).kind in (*WATCHED, *ASIDE)]
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


# -- placing -----------------------------------------------------------------------------------------------------------


@dataclass
class _Placed:
    """The steps so far, and their order."""

    refs: dict[str, StepRef]
    order: list[str]

    def add(self, gates: Sequence[GateEntry]) -> None:
        """Put the gates behind their step, after what looks at its rows: what was there already, and what they need."""
        after = gates[0].after
        beside = self._beside(after)
        for gate in gates:
            beside = self._with_checks(gate, beside)
        last = beside[-1] if beside else after
        scored = [n for n in (after, *beside) if self._kind(n) in SCORED]
        for gate in gates:
            last = self._add_gate(gate, last, scored)

    def _kind(self, name: str) -> str:
        return load_class(self.refs[name].use, name).kind

    def _beside(self, after: str) -> list[str]:
        """The steps behind this one that only look at what it made: checks, and a decode for them that is not the
        cascade's own last one."""
        videos = [n for n in self.order if self._kind(n) == VIDEO]
        found = list[str]()
        for name in self.order[self.order.index(after) + 1 :]:
            preview = self._kind(name) == VIDEO and name != videos[-1] and self._kind(after) == LATENT
            if not preview and self._kind(name) not in ASIDE:
                break
            found.append(name)
        return found

    def _with_checks(self, gate: GateEntry, beside: list[str]) -> list[str]:
        """The steps beside, with those that this gate needs and that are not there. Raises BadInput for a metric that
        there is not."""
        here = [gate.after, *beside]
        known = self._metrics(n for n in here if self._kind(n) in SCORED)
        further = _metrics_of_checks() if not any(self._kind(n) == "qc" for n in here) else {}
        watched = next((self._kind(n) for n in here if self._kind(n) in WATCHED), "")
        for name in sorted(gate.metrics):
            if len(known.get(name, ())) > 1:
                both = " and ".join(known[name])
                raise BadInput(f"{gate.where}: {name} is a metric of {both}; switch one of them off")
            if name not in known and not (watched and name in further):
                there = sorted({*known, *(further if watched else ())})
                hint = (
                    f"{nearest(name, there)}; there are {listed(there, 40)}" if there else "there is none at this step"
                )
                raise BadInput(f"{gate.where}: there is no metric {name!r}; {hint}")
        checks = [] if gate.metrics <= set(known) else list(CHECKS)
        shows = bool(checks or gate.settings.get("review")) and watched == LATENT
        if shows and not any(self._kind(n) == VIDEO for n in beside):
            beside = self._insert(f"preview_{gate.after}", self._preview(gate), gate.after, beside)
        video = next((n for n in reversed([gate.after, *beside]) if self._kind(n) == VIDEO), "")
        for name, use in checks:
            source = video if name == CHECKS[0][0] else beside[-1]
            beside = self._insert(
                f"{name}_{gate.after}", make_ref(f"{name}_{gate.after}", {"use": use}), source, beside
            )
        return beside

    def _metrics(self, names: Iterable[str]) -> dict[str, list[str]]:
        """metric -> the steps that measure it."""
        found = dict[str, list[str]]()
        for name in names:
            for metric in metric_names(load_class(self.refs[name].use, name).writes):
                found.setdefault(metric, []).append(name)
        return found

    def _preview(self, gate: GateEntry) -> StepRef:
        """A quick decode of what the gate stands behind, as the cascade decodes at its end."""
        name = f"preview_{gate.after}"
        for ref in (self.refs[n] for n in reversed(self.order) if self._kind(n) == VIDEO and LATENT in self._reads(n)):
            quick = {"preset": QUICK} if hasattr(ref.config, "preset") else {}
            return replace(ref, config=replace(ref.config, **quick))
        model = getattr(self.refs[gate.after].config, "model", None)
        if model is None:
            raise BadInput(
                f"{gate.where}: there is nothing to look at: the cascade has no step that decodes what {gate.after} "
                f"makes; add one called {name}"
            )
        ref = make_ref(name, {"use": DECODE, "preset": QUICK})
        return replace(ref, config=replace(ref.config, model=model))

    def _insert(self, name: str, ref: StepRef, source: str, beside: list[str]) -> list[str]:
        """Put a step behind those beside, made from `source`; what comes later reads what it read without it."""
        self._check_free(name)
        kind = load_class(ref.use, name).kind
        place = self.order.index(beside[-1] if beside else source) + 1
        for i, later in enumerate(self.order[place:], place):
            own = [n for n in self.order[:i] if self._kind(n) == kind]
            if own and kind in self._reads(later) and not set(self.refs[later].after) & set(own):
                self.refs[later] = replace(self.refs[later], after=(*self.refs[later].after, own[-1]))
        self.refs[name] = replace(ref, name=name, after=(source,))
        self.order.insert(place, name)
        return [*beside, name]

    def _reads(self, name: str) -> set[str]:
        """The kinds that a step reads one row of."""
        cls = load_class(self.refs[name].use, name)
        ports = cls.inputs(self.refs[name].config).ports.values() if issubclass(cls, Step) else ()
        return {p.kind for p in ports}

    def _add_gate(self, gate: GateEntry, last: str, scored: Sequence[str]) -> str:
        name, number = f"gate_{gate.after}", 1
        while name in self.refs:
            number += 1
            name = f"gate_{gate.after}_{number}"
        named = self._metrics(scored)
        used = [n for n in scored if self._kind(n) == "qc" or any(n in named.get(m, ()) for m in gate.metrics)]
        kinds = sorted({self._kind(n) for n in used})
        settings = {**gate.settings, "of": self._kind(gate.after), "scored": kinds}
        self.refs[name] = replace(make_ref(name, {"use": GATE, **_plain(settings)}), after=(gate.after, *used))
        self.order.insert(self.order.index(last) + 1, name)
        return name

    def _check_free(self, name: str) -> None:
        if name in self.refs:
            raise BadInput(f"steps: {name!r} is the name of a step that gates put there; call yours something else")


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


def _metrics_of_checks() -> set[str]:
    """The metrics that a quality check would have, were it put there."""
    return set(metric_names(load_class(CHECKS[-1][1]).writes)) if _has_checks() else set()


def _has_checks() -> bool:
    try:
        return all(load_class(use) for _, use in CHECKS)
    except BadInput:
        return False


def gates_of(steps: Mapping[str, StepRef]) -> dict[str, StepRef]:
    """The gates among some steps, by name."""
    return {name: ref for name, ref in steps.items() if ref.use == GATE}


__all__ = ["gates_of", "with_gates"]
