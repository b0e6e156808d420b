"""Footage to clips: probes -> sources -> signals -> cuts -> clips -> scores -> verdicts -> captions.

The plan is the list of steps in configs/curate.yaml, in its order. Nothing here knows a step by its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.select import check_thresholds
from data_prep.sources.listing import ROOTS, list_sources
from data_prep.sources.unused import Unused
from flows.curate.unused import unused_lines
from flows.run.settings import FlowConfig, ResolvedConfig
from stages.core.config import ENTRY_KEYS, load_class, merge
from stages.core.config_files import find_config, parse_overrides, read_yaml
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog
from stages.core.planning.binding import make_plan, until
from stages.core.planning.plan import Node, Plan
from stages.core.reach.policy import begin
from stages.core.reach.secrets import bare
from stages.core.step import StepRef

FLOW = "curate"
NEEDED = ("probe", "sources", "signals", "clips")
"""What a plan must make to be a curation."""
LIMITS = "thresholds"
"""The setting of a step that holds a limit for each metric."""


@dataclass
class ManifestConfig:
    """Which column of a manifest holds what: its name, or a pattern such as `{id}.mp4`.

    uri      column with the path or URL of the video
    label    column with the class label
    caption  column with the caption that came with the footage
    licence  column with the licence
    root     folder or URL that paths are relative to; empty uses the manifest's own folder
    """

    uri: str = "uri"
    label: str = "label"
    caption: str = "caption"
    licence: str = "licence"
    root: str = ""


@dataclass
class CurateConfig(FlowConfig):
    """Footage to clips with scores, verdicts and captions.

    sources            files, folders, globs and manifests, local or on any fsspec URL
    manifest           names of the columns of manifests
    label_from_folder  take the name of a file's folder as its class label
    shot_lists         folder with shot lists (PySceneDetect's csv, EDL) that replace the detection of cuts
    """

    sources: list[str] = field(default_factory=list)
    manifest: ManifestConfig = field(default_factory=ManifestConfig)
    label_from_folder: bool = False
    shot_lists: str = ""


@dataclass(frozen=True)
class Curation(ResolvedConfig):
    """A checked curation: its settings, its steps in order, and their plan, which has no sources yet; `remarks` is what
    a person should know of the sources once they are listed."""

    config: CurateConfig
    steps: dict[str, StepRef]
    draft: Plan
    remarks: list[str] = field(default_factory=list)

    @property
    def scope(self) -> str:
        """Its sources as they were named."""
        return ", ".join(bare(word) for word in self.config.sources)

    def plan(self, catalog: Catalog) -> Plan:
        """The plan over the sources as they lie there now; keeps the listing as roots. Raises BadInput."""
        c, unused = self.config, Unused()
        columns = dataclasses.asdict(c.manifest)
        rows = list_sources(c.sources, columns, c.label_from_folder, c.limit, c.shot_lists, unused)
        self.remarks[:] = unused_lines(unused)
        mark = digest("roots", [r["id"] for r in rows])
        roots = catalog.put_roots(rows, ROOTS, mark, self.draft.phases[0].depends)
        return dataclasses.replace(self.draft, roots=roots)


def load_curation(
    sources: Sequence[str], config: str | Path, values: Mapping[str, Any], overrides: Sequence[str]
) -> Curation:
    """Merge configs/curate.yaml < config file < values < overrides and check all of it. Raises BadInput."""
    begin()
    path = find_config(config)
    default = find_config("curate")
    files = [default] if path == default else [default, path]
    layers: list[tuple[str, Any]] = [(str(p), read_yaml(p)) for p in files]
    given = {**values, **({"sources": list(sources)} if sources else {})}
    layers += [("the command line", given), ("the command line", parse_overrides(overrides))]
    names = _with_limits(layer for _, layer in layers)
    settings, steps = merge(CurateConfig, [(where, _lift_thresholds(layer, names)) for where, layer in layers])
    if not settings.sources:
        raise BadInput("there are no sources; give files, folders, globs or manifests")
    plan = make_plan(FLOW, "", until(steps, settings.until) if settings.until else steps, ROOTS.names)
    _check(make_plan(FLOW, "", steps, ROOTS.names) if settings.until else plan)
    return Curation(settings, steps, plan)


def _with_limits(layers: Iterable[Any]) -> set[str]:
    """The steps that have a limit for each metric."""
    found = set()
    for layer in layers:
        for name, entry in (layer.get("steps") or {}).items():
            use = entry.get("use") if isinstance(entry, Mapping) else None
            if use and LIMITS in {f.name for f in dataclasses.fields(load_class(use, str(name)).Config)}:
                found.add(str(name))
    return found


def _lift_thresholds(layer: Any, names: Iterable[str]) -> dict[str, Any]:
    """`select: {METRIC: {min:}}` is short for `select: {thresholds: {METRIC: {min:}}}`."""
    plain = {k: layer._get_node(k) if hasattr(layer, "_get_node") else layer[k] for k in layer}
    for holder in (plain, plain.get("steps") or {}):
        for name in names:
            entry = holder.get(name)
            if isinstance(entry, Mapping):
                own = {k: v for k, v in entry.items() if k in (*ENTRY_KEYS, LIMITS)}
                short = {k: v for k, v in entry.items() if k not in own}
                holder[name] = {**own, LIMITS: {**(own.get(LIMITS) or {}), **short}}
    return plain


def _check(plan: Plan) -> None:
    """Raises BadInput where a step that no curation can do without is missing, or a limit is set on what no step before
    measures."""
    for kind in NEEDED:
        if not plan.of_kind(kind):
            raise BadInput(f"a curation needs a step that makes {kind}; do not switch it off")
    writers: dict[str, str] = {}
    for node in plan.of_kind("scores"):
        for name in load_class(node.use, node.name).writes.names:
            if name not in ("id", "clip_id") and (other := writers.setdefault(name, node.name)) != node.name:
                raise BadInput(f"the steps {other} and {node.name} both write the score {name!r}; rename one of them")
    for node in plan.of_kind("verdicts"):
        limits = getattr(plan.refs[node.name].config, LIMITS, {})
        check_thresholds(limits, known_metrics(plan, node), node.name)


def known_metrics(plan: Plan, judge: Node) -> set[str]:
    """What the steps before a judge measure of clips."""
    before = plan.nodes[: plan.nodes.index(judge)]
    scores = [load_class(n.use, n.name) for n in before if n.kind == "scores"]
    return {name for cls in scores for name in cls.writes.names} - {"id", "clip_id"}
