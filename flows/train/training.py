"""A config to a checkpoint: encode -> train one stage -> evaluate -> promote.

The plan is the list of steps in configs/train.yaml, in its order. Nothing here knows a step by its name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.run.promoted import resolve_promoted
from flows.run.settings import FlowConfig, fill_in, plain_config
from stages.core.config import load_class, merge
from stages.core.config_files import find_config, parse_overrides, read_yaml
from stages.core.errors import BadInput, require
from stages.core.identity import digest
from stages.core.ledger.catalog import Catalog
from stages.core.planning.binding import make_plan, until
from stages.core.planning.plan import Plan
from stages.core.reach.secrets import shown
from stages.core.step import StepRef
from stages.core.weights.digests import cache_folder, weights_digest
from stages.train import REQUEST, WORK, dataset_identity, plain_settings
from stages.training.settings import TrainConfig

FLOW = "train"
FLOW_KEYS = (
    "name", "workers", "gpus", "cpus", "clips", "promote", "at_least", "infra", "budget", "prices", "until", "only",
    "steps",
)  # fmt: skip
"""Keys that are no settings of the training itself."""
NEEDED = ("encoded", "checkpoint", "figures")
"""What a plan must make to be a training."""


@dataclass
class TrainFlowConfig(FlowConfig):
    """One part of a checkpoint trained, measured and promoted. These keys are in addition to those of the training.

    name      name of the checkpoint in tables; empty uses the stage
    workers   [from 1] processes that train together on Ray; 1 trains in this process
    gpus      [from 0] GPUs of each worker; above 0, a single worker trains on Ray too
    cpus      [above 0] CPUs of each worker
    clips     [from 0] held-out clips that the checkpoint is measured on; 0 skips the measurement
    promote   name for the checkpoint, to be used as `model.checkpoint=promoted:NAME@STORE`; empty gives none
    at_least  minimum of each figure, such as `{psnr: 30}`, that a checkpoint needs to be promoted
    """

    name: str = ""
    workers: int = 1
    gpus: float = 0.0
    cpus: float = 1.0
    clips: int = 8
    promote: str = ""
    at_least: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingRun:
    """A checked training: the flow's settings, the training's, its steps in order, and whether its folder was named."""

    config: TrainFlowConfig
    training: TrainConfig
    steps: dict[str, StepRef]
    name: str
    out: str

    @property
    def scope(self) -> str:
        """What is trained."""
        return self.name

    def plan(self, catalog: Catalog) -> Plan:
        """The plan; keeps what is asked for as the roots of the store's next run."""
        shared, dataset, start = self._shared()
        training_id = digest("training", self._bound(shared).of_kind("checkpoint")[-1].fingerprint)
        shared["whole"] = {**shared["whole"], "out": self.out or work_folder(catalog, training_id)}
        request = {
            "id": training_id,
            "name": self.name,
            "stage": self.training.stage,
            "config": json.dumps(shown(dataclasses.asdict(self.training))),
            "dataset": dataset,
            "start": start,
            "parent": find_checkpoint(catalog, start),
            "workers": self.config.workers,
        }
        plan = self._bound(shared)
        mark = digest("request", training_id, self.name)
        roots = catalog.put_roots([request], REQUEST, mark, plan.phases[0].depends)
        steps = until(plan.refs, self.config.until) if self.config.until else plan.refs
        return make_plan(FLOW, roots, steps, REQUEST.names)

    def plain(self) -> dict[str, Any]:
        """The resolved config."""
        found = plain_config(self.config, self.steps)
        return {
            **{k: v for k, v in found.items() if k in FLOW_KEYS},
            "training": shown(dataclasses.asdict(self.training)),
        }

    def _bound(self, shared: Mapping[str, Any]) -> Plan:
        return make_plan(FLOW, "", fill_in(self.steps, shared), REQUEST.names)

    def _shared(self) -> tuple[dict[str, Any], str, str]:
        """What the jobs are told; the data's identity, and the content that training starts from."""
        model, dataset = self.training.model, dataset_identity(self.training)
        if model.checkpoint and not Path(model.checkpoint).expanduser().exists():
            raise BadInput(
                f"model.checkpoint: there is no checkpoint at {model.checkpoint}; train the parts before this "
                "one (docs/training.md has their order), or name a checkpoint that is there, such as "
                "model.checkpoint=promoted:NAME@STORE"
            )
        shared = {
            "settings": plain_settings(self.training),
            "start": model.checkpoint,
            "vae": model.vae,
            "dataset": dataset,
            "workers": self.config.workers,
            "whole": dataclasses.asdict(self.training),
            "gpus": self.config.gpus,
            "cpus": self.config.cpus,
        }
        return shared, dataset, weights_digest(model.checkpoint) if model.checkpoint else ""


def load_training(config: str | Path, overrides: Sequence[str], values: Mapping[str, Any] | None = None) -> TrainingRun:
    """Merge a config file (or the NAME of one in configs/train) and overrides, and check all. Raises BadInput."""
    path = find_config(config, "train")
    given = parse_overrides(overrides)
    layers = [(str(path), resolve_promoted(read_yaml(path))), ("the command line", resolve_promoted(given))]
    default = find_config("train")
    common = (str(default), read_yaml(default))
    flow, steps = merge(TrainFlowConfig, [common, *_parts(layers, True), ("the command line", dict(values or {}))])
    training, _ = merge(TrainConfig, _parts(layers, False))
    _check(flow)
    if not flow.promote:
        steps = {n: ref for n, ref in steps.items() if load_class(ref.use, n).kind != "promotion"}
    plan = make_plan(FLOW, "", steps, REQUEST.names)
    for kind in NEEDED:
        if not plan.of_kind(kind):
            raise BadInput(f"a training needs a step that makes {kind}; do not switch it off")
    if limit := flow.budget.wall_seconds:
        training = dataclasses.replace(training, stop_after_s=min(limit, training.stop_after_s or limit))
    out = str(Path(training.out).expanduser().resolve()) if "out" in given else ""
    return TrainingRun(flow, training, steps, flow.name or training.stage, out)


def _parts(layers: Sequence[tuple[str, Any]], of_the_flow: bool) -> list[tuple[str, Any]]:
    return [(where, {k: layer._get_node(k) for k in layer if (k in FLOW_KEYS) == of_the_flow})
            for where, layer in layers]  # fmt: skip


def _check(flow: TrainFlowConfig) -> None:
    require(
        (flow.workers >= 1, "workers", flow.workers, "at least 1"),
        (flow.gpus >= 0, "gpus", flow.gpus, "0 or more"),
        (flow.cpus > 0, "cpus", flow.cpus, "above 0"),
        (flow.clips >= 0, "clips", flow.clips, "0 or more"),
    )
    if flow.at_least and not flow.promote:
        raise BadInput("at_least says what a checkpoint must reach to be promoted: give `promote`, its name, too")
    if flow.promote and (not flow.promote.replace("-", "").replace("_", "").replace(".", "").isalnum()):
        raise BadInput(f"promote: {flow.promote!r} is not a valid name; use letters, digits, -, _ and .")
    flow.infra.executor = "local" if flow.workers == 1 and not flow.gpus else "ray"


def work_folder(catalog: Catalog, training_id: str) -> str:
    """Where a training keeps what it goes on from: in the store, or, where that is no folder, in the user's cache."""
    root = catalog.storage.local_root
    return str((root if root is not None else cache_folder()) / WORK / training_id)


def find_checkpoint(catalog: Catalog, content: str) -> str:
    """The id of the store's checkpoint with this content, "" where it has none."""
    from flows.run.promoted import list_checkpoints

    return next((c["id"] for c in list_checkpoints(catalog) if content and c["digest"] == content), "")


def checkpoint_lines(catalog: Catalog, run_id: str) -> list[str]:
    """Lines about a finished run's checkpoint: what was trained, how good it is, and how to use it."""
    from stages.core.running.runs import find_run

    survey = find_run(catalog, "train", run_id).survey(catalog)

    def made(kind: str) -> dict[str, Any] | None:
        node = next((n.name for n in survey.plan.of_kind(kind) if n.name in survey.jobs), "")
        return survey.table(node).to_pylist()[0] if node else None

    checkpoint = made("checkpoint")
    if checkpoint is None:
        return []
    figures = (made("figures") or {"figures": []})["figures"]
    root = catalog.storage.url.rstrip("/")
    lines = [f"checkpoint {checkpoint['id']}: {checkpoint['steps']} steps of {checkpoint['stage']}"]
    lines += ["  " + ", ".join(f"{f['name']} {f['value']:.3f}" for f in figures)] if figures else []
    local = catalog.storage.local_root is not None
    place = f"{root}/{checkpoint['folder']}" if local else f"promoted:{checkpoint['id'][:12]}@{root}"
    lines.append(f"use it with model.checkpoint={place}")
    if row := made("promotion"):
        name = f"promoted:{row['name']}@{root}"
        lines.append(f"or with model.checkpoint={name}" if row["promoted"] else f"not promoted: {row['reason']}")
    return lines
