"""Kept clips to a frozen dataset: what a curation kept -> cut -> index, shards, contact sheets -> a version.

The plan is the list of steps in configs/publish.yaml, in its order. Nothing here knows a step by its name.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.publish.buckets import BucketConfig, excluded_note, split_of
from data_prep.publish.cutting import VideoForm
from data_prep.publish.folder import MANIFEST, check_name, versions
from data_prep.publish.index import CLIP_ROOTS
from data_prep.publish.roots import index_columns, kept_clips, kept_phase, yields_of
from data_prep.sources.listing import trust_sources
from flows.run.settings import FlowConfig, ResolvedConfig, fill_in
from flows.words import counted, look
from stages.core.config import load_class, merge
from stages.core.config_files import find_config, nearest, parse_overrides, read_yaml
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog, connect
from stages.core.planning.binding import make_plan, until
from stages.core.planning.plan import Node, Plan
from stages.core.planning.survey import Survey
from stages.core.reach.policy import begin
from stages.core.running.runs import find_run
from stages.core.step import Job, StepRef, Workspace

FLOW = "publish"
CAPTIONS = ("long", "medium", "short", "source", "label")
FOR_SPLIT = ("source_id", "copy_sources")
NEEDED = ("cut", "index", "sheet", "version")
"""What a plan must make to be a publication."""


@dataclass
class PublishSettings:
    """What a dataset is like. The steps of configs/publish.yaml take their settings from these.

    video        a common form for all clips
    audio        keep the sound
    crf          quality of x264 for clips that have to be encoded, 0 to 51; lower is better
    preset       speed preset of x264, such as `fast`, `medium` or `slow`
    val_share    [0 to 1] share of the sources whose clips are for validation
    salt         seed of the split: another text gives another split
    caption      [long, medium, short, source, label] kind of caption in the index; captions.parquet has all kinds
    buckets      limits of the buckets by size, aspect, length, frame rate and motion
    webdataset   also write WebDataset shards, `shards/SPLIT/000000.tar`
    shard_mb     megabytes of video in one WebDataset shard
    lance        also write a Lance dataset that holds the videos; needs the extra `lance`
    sheet_clips  [from 1] clips on a contact sheet, at most
    """

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
    """Kept clips to a frozen dataset.

    name      name of the dataset: letters from a to z, digits, `-` and `_`
    curation  id of the curation whose kept clips are published; empty uses the latest
    publish   what the dataset is like
    """

    name: str = ""
    curation: str = ""
    publish: PublishSettings = field(default_factory=PublishSettings)


@dataclass(frozen=True)
class Publication(ResolvedConfig):
    """A checked publication: its settings, and its steps in order, without what a curation adds."""

    config: PublishConfig
    steps: dict[str, StepRef]

    def plan(self, catalog: Catalog) -> Plan:
        """The plan; keeps the clips as its roots. Raises BadInput where no finished curation kept any."""
        record = find_run(catalog, "curate", self.config.curation)
        trust_sources(json.loads(record.row["config"]).get("sources", ()))
        survey = record.survey(catalog)
        _check_finished(survey, record.row["run_id"])
        clips = kept_clips(survey)
        if self.config.limit:
            clips = clips.slice(0, self.config.limit)
        if not clips.num_rows:
            raise BadInput(
                f"there is nothing to publish: the curation {record.row['run_id']} kept no clip; "
                f"{look('report', catalog.storage.url)}"
            )
        found = {"further": index_columns(survey, clips), "yields": yields_of(survey), "settings": self._for_card()}
        plan = make_plan(FLOW, "", fill_in(self.steps, found), clips.column_names)
        mark = digest("publish", clips_digest(clips))
        return replace(plan, roots=catalog.put_roots(clips, clips.schema, mark, plan.phases[0].depends))

    def _for_card(self) -> dict[str, Any]:
        """The settings as a card shows them."""
        told = dataclasses.asdict(self.config.publish)
        return {k: v for k, v in told.items() if k != "sheet_clips" and (k != "shard_mb" or told["webdataset"])}


def load_publication(name: str, config: str | Path, values: Mapping[str, Any], overrides: Sequence[str]) -> Publication:
    """Merge configs/publish.yaml < config file < values < overrides and check all of it. Raises BadInput."""
    begin()
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
    _check(make_plan(FLOW, "", steps, CLIP_ROOTS.names))
    return Publication(settings, until(steps, settings.until) if settings.until else steps)


def _check(plan: Plan) -> None:
    """Raises BadInput where a step that no publication can do without is missing."""
    for kind in NEEDED:
        if not plan.of_kind(kind):
            raise BadInput(f"a publication needs a step that makes {kind}; do not switch it off")


def _check_finished(survey: Survey, run_id: str) -> None:
    """Raises BadInput where a curation has work left: what it has not looked at would silently be missing."""
    if not survey.plan.of_kind("verdicts"):
        raise BadInput(f"the curation {run_id} stopped before clips were selected; run curate without --until")
    left = {name: c.todo + c.waiting for name, c in survey.counts().items() if c.todo + c.waiting}
    if left:
        name, rows = next(iter(left.items()))
        raise BadInput(f"the curation {run_id} has work left ({counted(rows, 'row')} of {name}); run curate again")
    if not survey.units_complete(kept_phase(survey)):
        raise BadInput(f"the curation {run_id} did not finish; run curate again")


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
        node: Node = plan.of_kind("version")[-1]
        row: dict[str, Any] = survey.table(node.name).to_pylist()[0]
    except (IndexError, KeyError):
        raise BadInput("the run ended before the version was made; publish again") from None
    if any(v["fingerprint"] == row["fingerprint"] for v in versions(catalog.storage, row["name"])):
        return row
    ref = plan.refs[node.name]
    cls = load_class(ref.use, ref.name)
    assert issubclass(cls, Job)
    job = cls(ref.config, Workspace(catalog.storage), ref.name)
    made: dict[str, Any] = job.run(survey.inputs(node, job.columns)).to_pylist()[0]
    return made


def expected_notes(catalog: Catalog, plan: Plan, settings: PublishSettings) -> list[str]:
    """What can be said of a version before any clip is cut: splits that will have no clips."""
    from data_prep.publish.version import empty_splits

    sql = connect()
    sql.register("roots", pq.read_table(io.BytesIO(catalog.storage.read(plan.roots)), columns=list(FOR_SPLIT)))
    split = split_of(settings.val_share, settings.salt)
    clips = sql.sql(f"SELECT source_id, {split} AS split FROM roots").to_arrow_table()
    return empty_splits(clips, settings.val_share, settings.salt)


def notes_of(catalog: Catalog, folder: str) -> list[str]:
    """What a person should know of a version: sentences, none where nothing is odd."""
    manifest = json.loads(catalog.storage.read(f"{folder}/{MANIFEST}"))
    return [note for note in (excluded_note(manifest["excluded"]), *manifest.get("notes", ())) if note]


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
