"""`gates:` of a campaign or cascade: checked, and put between its steps, with what they need to score and show takes.

    gates:
      - {after: base, top: 1, per: prompt, by: "sharpness - flicker"}
      - {after: refine, review: true}

A gate that names metrics of a quality check needs one, and a person needs something to look at. Where the cascade has
neither at that place, a decode (`preview_base`) and the check (`measure_base`, `qc_base`) are put there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.render.gate_entries import ASIDE, LATENT, SCORED, VIDEO, WATCHED, GateEntry, read_entry
from flows.words import listed
from stages.core.config import load_class, make_ref
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.step import Step, StepRef
from stages.gate import metric_names

GATE = "stages.gate:Gate"
CHECKS = (("measure", "stages.measure:Measure"), ("qc", "stages.qc:Qc"))
"""What a quality check is made of, in order: the first looks at a video."""
DECODE, QUICK = "stages.decode:Decode", "veryfast"


def with_gates(gates: Any, steps: Mapping[str, StepRef]) -> dict[str, StepRef]:
    """The steps with these gates among them, and with what these need. Changes no id of what the steps make.

    Raises BadInput that names the gate by its number and the step before it.
    """
    if not gates:
        return dict(steps)
    if not isinstance(gates, list | tuple):
        raise BadInput(f"gates must be a list, such as [{{after: base, top: 1, by: sharpness}}], not {gates!r}")
    order = list(steps)
    entries = [read_entry(number, raw, steps) for number, raw in enumerate(gates, 1)]
    placed = _Placed(dict(steps), order)
    for after in sorted({e.after for e in entries}, key=order.index):
        placed.add([e for e in entries if e.after == after])
    return {name: placed.refs[name] for name in placed.order}


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
                    f"{nearest(name, there)}; there are {listed(there, 40)}"
                    if there
                    else f"put the check that measures it directly behind {gate.after}"
                )
                raise BadInput(f"{gate.where}: there is no metric {name!r}; {hint}")
        checks = [] if gate.metrics <= set(known) else list(CHECKS)
        shows = bool(checks or gate.settings.get("review")) and watched == LATENT
        if shows and not any(self._kind(n) == VIDEO for n in beside):
            beside = self._insert(f"preview_{gate.after}", self._preview(gate), gate.after, beside)
        video = next((n for n in reversed([gate.after, *beside]) if self._kind(n) == VIDEO), "")
        for name, use in checks:
            source = video if name == CHECKS[0][0] else beside[-1]
            own = f"{name}_{gate.after}"
            ref = self._like_others(use) or make_ref(own, {"use": use})
            if watched == LATENT and (of_preview := getattr(load_class(use), "of_preview", None)):
                ref = replace(ref, config=of_preview(ref.config))
            beside = self._insert(own, ref, source, beside)
        return beside

    def _like_others(self, use: str) -> StepRef | None:
        """A step of this class that is there already: its settings hold here too."""
        return next((ref for ref in self.refs.values() if ref.use == use), None)

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
