"""Footage to clips: sources -> signals -> cuts -> clips -> scores -> verdicts -> captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.run.settings import FlowConfig
from stages.core.config import find_config, load_class, merge, nearest, parse_overrides, read_yaml
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.plan import ROOT_UNITS, Node, Phase, Plan, make_node
from stages.core.ledger.survey import Survey
from stages.core.step import Step, StepRef

FLOW = "curate"
STEPS = ("ingest", "analyse", "cuts", "clips", "scores", "select", "dedup", "caption")
"""What --until and --only name, in order. `ingest` takes `sources` with it, `scores` all that scores a clip."""
BEHIND = {"ingest": ("sources",), "dedup": ("copies",), "caption": ("kept",)}
FIXED = (*STEPS, "sources", "copies", "kept")


@dataclass
class ManifestConfig:
    """Which column of a manifest holds what."""

    uri: str = "uri"
    label: str = "label"
    caption: str = "caption"
    licence: str = "licence"


@dataclass
class CurateConfig(FlowConfig):
    """A curation.

    sources            files, folders, globs, manifests, on any fsspec URL
    manifest           the columns of manifests
    label_from_folder  the name of a file's folder is its class label
    until              the last step to do
    only               the steps to do; those before them must be done
    """

    sources: list[str] = field(default_factory=list)
    manifest: ManifestConfig = field(default_factory=ManifestConfig)
    label_from_folder: bool = False
    until: str = ""
    only: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Curation:
    """A checked curation: its settings, and its steps by name."""

    config: CurateConfig
    steps: dict[str, StepRef]

    def plan(self, catalog: Catalog) -> Plan:
        """The plan of this curation; keeps the listing of its sources as the roots. Raises BadInput where `only` names
        a step that waits for the work of one it does not name."""
        plan = plan_curation(self.config, self.steps, catalog)
        if self.config.only:
            self._check_only(Survey(catalog, plan, retry="none"))
        return plan

    def _check_only(self, survey: Survey) -> None:
        wanted = {n for step in self.config.only for n in members(step, self.steps)}
        for name, count in survey.counts().items():
            if name not in wanted and (count.todo or count.waiting):
                raise BadInput(f"only: the step {name!r} before it has work left; name it too, or give `until` instead")


def load_curation(
    sources: Sequence[str], config: str | Path, values: Mapping[str, Any], overrides: Sequence[str]
) -> Curation:
    """Merge configs/curate.yaml < config file < values < overrides and check all of it. Raises BadInput."""
    path = find_config(config)
    default = find_config("curate")
    files = [default] if path == default else [default, path]
    layers: list[tuple[str, Any]] = [(str(p), read_yaml(p)) for p in files]
    given = {**values, **({"sources": list(sources)} if sources else {})}
    layers += [("the command line", given), ("the command line", parse_overrides(overrides))]
    settings, steps = merge(CurateConfig, [(where, _lift_thresholds(layer)) for where, layer in layers])
    _check(settings, steps)
    return Curation(settings, steps)


def _lift_thresholds(layer: Any) -> dict[str, Any]:
    """`select: {METRIC: {min:}}` is short for `select: {thresholds: {METRIC: {min:}}}`."""
    plain = {k: layer._get_node(k) if hasattr(layer, "_get_node") else layer[k] for k in layer}
    for holder in (plain, plain.get("steps") or {}):
        entry = holder.get("select")
        if isinstance(entry, Mapping):
            own = {k: v for k, v in entry.items() if k in ("use", "resources", "enabled", "thresholds")}
            short = {k: v for k, v in entry.items() if k not in own}
            holder["select"] = {**own, "thresholds": {**(own.get("thresholds") or {}), **short}}
    return plain


def _check(config: CurateConfig, steps: Mapping[str, StepRef]) -> None:
    if not config.sources:
        raise BadInput("there are no sources; give files, folders, globs or manifests")
    for key, names in (("until", [config.until] if config.until else []), ("only", config.only)):
        for name in names:
            if name not in STEPS:
                raise BadInput(f"{key}: there is no step {name!r}; {nearest(name, STEPS)}")
    for name in ("ingest", "sources", "analyse", "clips", "kept"):
        if name not in steps:
            raise BadInput(f"steps.{name} cannot be left out")
    for name in scorers(steps):
        for wanted in steps[name].extra.get("after", ()):
            if wanted not in steps:
                raise BadInput(f"steps.{name} needs the step {wanted!r}, which is not there; {nearest(wanted, steps)}")
    if "select" in steps:
        from data_prep.select import check_thresholds

        check_thresholds(steps["select"].config.thresholds, known_metrics(steps))


def known_metrics(steps: Mapping[str, StepRef]) -> set[str]:
    """What the configured score steps measure."""
    names: set[str] = set()
    for name in scorers(steps):
        names |= set(load_class(steps[name].use, name).writes.names) - {"id", "clip_id"}
    return names


def scorers(steps: Mapping[str, StepRef]) -> list[str]:
    """The steps that give a row per clip: `scores`, and every one that is not of the fixed set."""
    return [n for n in steps if n == "scores" or n not in FIXED]


def members(step: str, steps: Mapping[str, StepRef]) -> tuple[str, ...]:
    """The nodes behind a step's name."""
    names = scorers(steps) if step == "scores" else (step, *BEHIND.get(step, ()))
    return tuple(n for n in names if n in steps)


def plan_curation(config: CurateConfig, steps: Mapping[str, StepRef], catalog: Catalog) -> Plan:
    """List the sources, keep the listing as roots, and lay out the phases up to `until`."""
    from data_prep.sources.listing import ROOTS, list_sources

    rows = list_sources(config.sources, dataclasses.asdict(config.manifest), config.label_from_folder, config.limit)
    roots = catalog.put_roots(rows, ROOTS, digest("roots", [r["id"] for r in rows]))
    last = config.until or max(config.only, key=STEPS.index, default=STEPS[-1])
    reached = {n for s in STEPS[: STEPS.index(last) + 1] for n in members(s, steps)}
    layout = _Layout({n: r for n, r in steps.items() if n in reached})
    return Plan(FLOW, roots, tuple(layout.phases()), layout.refs)


class _Layout:
    """Nodes and phases of the steps that are there."""

    def __init__(self, steps: Mapping[str, StepRef]) -> None:
        self.steps, self.refs = steps, dict[str, StepRef]()

    def phases(self) -> Iterable[Phase]:
        """sources_in over what was listed, footage over sound sources, kept over the clips that stay."""
        yield Phase(
            "sources_in", ROOT_UNITS, self.nodes(("ingest", ()), ("sources", ("ingest", ROOT_UNITS)), key="file_id")
        )
        footage = [("analyse", ()), ("cuts", ("analyse",)), ("clips", self.only_there("cuts", "analyse"))]
        scored = [(n, self.after(n)) for n in scorers(self.steps)]
        judged = ("clips", *[n for n, _ in scored], "sources")
        verdict = self.only_there("dedup") or self.only_there("select")
        jobs = [
            ("copies", ("clips", *[n for n, _ in scored])),
            ("select", ("clips", *self.with_thresholds([n for n, _ in scored]), "sources")),
            ("dedup", ("select", "copies", "clips", "sources")),
            ("kept", (*verdict, *judged)),
        ]
        if "analyse" in self.steps:
            yield Phase("footage", "sources", self.nodes(*footage, *scored, *jobs), where="status = 'ok'")
        if "caption" in self.steps:
            yield Phase("captions", "kept", self.nodes(("caption", ()), key="caption_key"))

    def only_there(self, *names: str) -> tuple[str, ...]:
        """Those of the names that are steps."""
        return tuple(n for n in names if n in self.steps)

    def with_thresholds(self, names: Sequence[str]) -> list[str]:
        """Those scoring steps that measure what a threshold asks for: `select` reads no others."""
        if "select" not in self.steps:
            return []
        wanted = {m for m, limits in self.steps["select"].config.thresholds.items() if limits}
        return [n for n in names if wanted & set(load_class(self.steps[n].use, n).writes.names)]

    def after(self, name: str) -> tuple[str, ...]:
        """What a scoring step is given: what its entry says, else clips and signals."""
        return tuple(self.steps[name].extra.get("after", ())) or self.only_there("clips", "analyse")

    def nodes(self, *wanted: tuple[str, tuple[str, ...]], key: str = "id") -> tuple[Node, ...]:
        """The nodes of the steps that are there, in this order."""
        made = []
        for name, after in wanted:
            if name in self.steps:
                is_step = issubclass(load_class(self.steps[name].use, name), Step)
                node, self.refs[name] = make_node(self.steps[name], after, key=key if is_step and not after else "id")
                made.append(node)
        return tuple(made)


def as_plain(config: CurateConfig, steps: Mapping[str, StepRef]) -> dict[str, Any]:
    """The resolved config, as it is stored with the run and printed by --dry-run."""
    entries = {n: {"use": r.use, **dataclasses.asdict(r.config)} for n, r in steps.items()}
    return {**dataclasses.asdict(config), "steps": entries}
