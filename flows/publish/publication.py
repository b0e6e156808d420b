"""Kept clips to a frozen dataset: what a curation kept -> cut -> index, shards, contact sheets -> a version."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.publish.buckets import BucketConfig
from data_prep.publish.cutting import VideoForm
from data_prep.publish.folder import check_name, versions
from data_prep.publish.index import CLIP_ROOTS
from data_prep.publish.roots import kept_clips, yields_of
from flows.run.settings import FlowConfig
from stages.core.config import find_config, load_class, make_ref, merge, nearest, parse_overrides, read_yaml
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.plan import ROOT_UNITS, Node, Phase, Plan, make_node
from stages.core.ledger.runs import find_run
from stages.core.ledger.survey import Survey
from stages.core.step import Job, StepRef, Workspace

FLOW = "publish"
CAPTIONS = ("long", "medium", "short", "source", "label")
OWNERS = {
    "cut": ("video", "audio", "crf", "preset"),
    "index": ("val_share", "salt", "caption", "buckets"),
    "shards": (),
    "pack": (),
    "sheets": (),
    "sheet": (),
    "version": ("lance",),
}
"""The steps, in order, and which of the keys of `publish` go to which."""


@dataclass
class PublishSettings:
    """What a dataset is like; see configs/publish.yaml for each key."""

    video: VideoForm = field(default_factory=VideoForm)
    audio: bool = False
    crf: int = 18
    preset: str = "medium"
    val_share: float = 0.05
    salt: str = "rushes"
    caption: str = "long"
    buckets: BucketConfig = field(default_factory=BucketConfig)
    webdataset: bool = False
    shard_mb: float = 256.0
    lance: bool = False
    sheet_clips: int = 40


@dataclass
class PublishConfig(FlowConfig):
    """A publication. curation: the run whose kept clips are published; empty for the latest."""

    name: str = ""
    curation: str = ""
    publish: PublishSettings = field(default_factory=PublishSettings)


@dataclass(frozen=True)
class Publication:
    """A checked publication: its settings, and its steps by name, without what a curation adds."""

    config: PublishConfig
    entries: dict[str, dict[str, Any]]

    def plan(self, catalog: Catalog) -> Plan:
        """The plan; keeps the clips as its roots. Raises BadInput where no finished curation kept any."""
        record = find_run(catalog, "curate", self.config.curation)
        survey = record.survey(catalog)
        _check_finished(survey, record.row["run_id"])
        clips = kept_clips(survey)
        if self.config.limit:
            clips = clips.slice(0, self.config.limit)
        if not clips.num_rows:
            raise BadInput(f"the curation {record.row['run_id']} keeps no clip; see `rushes report` for the reasons")
        roots = catalog.put_roots(clips, CLIP_ROOTS, digest("publish", clips_digest(clips)))
        return self._layout(roots, yields_of(survey))

    def steps(self, yields: Mapping[str, Any] | None = None) -> dict[str, StepRef]:
        """The steps with their settings."""
        entries = {name: dict(entry) for name, entry in self.entries.items()}
        entries["version"] |= {"settings": self._told(), "yields": dict(yields or {})}
        return {name: make_ref(name, entry) for name, entry in entries.items()}

    def _told(self) -> dict[str, Any]:
        """The settings as a card shows them."""
        told = dataclasses.asdict(self.config.publish)
        return {k: v for k, v in told.items() if k != "sheet_clips" and (k != "shard_mb" or told["webdataset"])}

    def _layout(self, roots: str, yields: Mapping[str, Any]) -> Plan:
        steps, refs = self.steps(yields), dict[str, StepRef]()

        def node(name: str, *after: str) -> Node:
            made, refs[name] = make_node(steps[name], after)
            return made

        packs = self.config.publish.webdataset
        phases = [
            Phase(
                "clips",
                ROOT_UNITS,
                (
                    node("cut"),
                    node("index", "cut", ROOT_UNITS),
                    *([node("shards", "index")] if packs else []),
                    node("sheets", "index"),
                ),
            ),
            *([Phase("shards_out", "shards", (node("pack"),))] if packs else []),
        ]
        last = ("cut", "index", ROOT_UNITS, *(("pack",) if packs else ()), "sheet")
        phases.append(Phase("sheets_out", "sheets", (node("sheet"), node("version", *last))))
        return Plan(FLOW, roots, tuple(phases), refs)


def load_publication(name: str, config: str | Path, values: Mapping[str, Any], overrides: Sequence[str]) -> Publication:
    """Merge configs/publish.yaml < config file < values < overrides and check all of it. Raises BadInput."""
    path, default = find_config(config), find_config("publish")
    files = [default] if path == default else [default, path]
    layers: list[tuple[str, Any]] = [(str(p), read_yaml(p)) for p in files]
    layers += [("the command line", {**values, "name": check_name(name)})]
    layers += [("the command line", parse_overrides(overrides))]
    settings, steps = merge(PublishConfig, layers)
    if settings.publish.caption not in CAPTIONS:
        raise BadInput(f"publish.caption: {settings.publish.caption!r}; {nearest(settings.publish.caption, CAPTIONS)}")
    if settings.publish.lance:
        from data_prep.publish.version import check_lance

        check_lance()
    return Publication(settings, _entries(settings, steps))


def _entries(config: PublishConfig, steps: Mapping[str, StepRef]) -> dict[str, dict[str, Any]]:
    """The entry of each step: how it runs as the config says, its settings from `publish`."""
    if missing := [name for name in OWNERS if name not in steps]:
        raise BadInput(f"steps.{missing[0]} cannot be left out")
    if strangers := set(steps) - set(OWNERS):
        raise BadInput(f"steps.{min(strangers)}: a publication has no such step; {nearest(min(strangers), OWNERS)}")
    settings = dataclasses.asdict(config.publish)
    extra: dict[str, dict[str, Any]] = {
        "shards": {"mb": config.publish.shard_mb},
        "sheets": {"clips": config.publish.sheet_clips},
        "version": {"name": config.name},
    }
    return {
        name: {
            **dataclasses.asdict(steps[name].config),
            "use": steps[name].use,
            "resources": dataclasses.asdict(steps[name].resources),
            **{key: settings[key] for key in keys},
            **extra.get(name, {}),
        }
        for name, keys in OWNERS.items()
    }


def _check_finished(survey: Survey, run_id: str) -> None:
    """Raises BadInput where a curation has work left: what it has not looked at would silently be missing."""
    for phase in survey.plan.phases:
        if not survey.units_known(phase):
            raise BadInput(f"the curation {run_id} did not come to its end; run curate again")
    if not any(n.name == "kept" for n in survey.plan.nodes):
        raise BadInput(f"the curation {run_id} was ended before clips were selected; run curate without --until")
    left = {name: c.todo + c.waiting for name, c in survey.counts().items() if c.todo + c.waiting}
    if left:
        name, rows = next(iter(left.items()))
        raise BadInput(f"the curation {run_id} has work left ({rows} rows of {name}); run curate again")


def clips_digest(clips: pa.Table) -> list[str]:
    """A hash of the clips that does not depend on their order."""
    from data_prep.publish.version import content_hash

    return content_hash(clips.drop_columns(["position"]))


def published(catalog: Catalog, plan: Plan, run_id: str) -> dict[str, Any]:
    """The version that a run made or found. One whose folder was deleted is made again.

    Raises BadInput where the run did not come so far.
    """
    survey = Survey(catalog, plan, retry="none", jobs=find_run(catalog, FLOW, run_id).jobs)
    try:
        row: dict[str, Any] = survey.table("version").to_pylist()[0]
    except KeyError:
        raise BadInput("the run ended before the version was made; publish again") from None
    if any(v["fingerprint"] == row["fingerprint"] for v in versions(catalog.storage, row["name"])):
        return row
    ref = plan.refs["version"]
    cls = load_class(ref.use, ref.name)
    assert issubclass(cls, Job)
    job = cls(ref.config, Workspace(catalog.storage))
    made: dict[str, Any] = job.run({n: survey.table(n) for n in plan.node("version").after}).to_pylist()[0]
    return made


def datasets(catalog: Catalog) -> pa.Table:
    """Every version of every dataset of a store, by name and number."""
    columns = {
        "name": pa.string(),
        "version": pa.int64(),
        "clips": pa.int64(),
        "train": pa.int64(),
        "val": pa.int64(),
        "excluded": pa.int64(),
        "hours": pa.float64(),
        "uri": pa.string(),
        "fingerprint": pa.string(),
        "created": pa.string(),
    }
    rows = [{name: row.get(name) for name in columns} for row in versions(catalog.storage)]
    return pa.Table.from_pylist(rows, pa.schema(list(columns.items())))


def as_plain(config: PublishConfig, steps: Mapping[str, StepRef]) -> dict[str, Any]:
    """The resolved config, as it is stored with the run and printed by --dry-run."""
    entries = {n: {"use": r.use, **dataclasses.asdict(r.config)} for n, r in steps.items()}
    return {**dataclasses.asdict(config), "steps": entries}
