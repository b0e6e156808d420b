"""Training as jobs of a plan: encode what is encoded once, train one stage, measure what came out, promote it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from stages.core.errors import BadInput, Stopped
from stages.core.identity import digest
from stages.core.step import Inputs, Job, Port, Row
from stages.core.weights.digests import weights_digest
from stages.core.weights.store import CHECKPOINTS, fetch, keep, own

if TYPE_CHECKING:
    from stages.training.settings import TrainConfig

WORK = "training"
AGAIN = "run the same command again to continue"
REQUEST = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("stage", pa.string()),
        ("config", pa.string()),
        ("dataset", pa.string()),
        ("start", pa.string()),
        ("parent", pa.string()),
        ("workers", pa.int64()),
    ]
)
"""What is asked for: the only row that a training's plan starts from. Its id is that of the checkpoint to come."""

ASKED = ("stage", "config", "dataset", "start", "parent", "workers")
"""Columns of a request that its checkpoint keeps."""
FILE = pa.struct([("path", pa.string()), ("uri", pa.string()), ("sha256", pa.string()), ("size", pa.int64())])
CHECKPOINT = pa.schema(
    [
        ("id", pa.string()),
        ("stage", pa.string()),
        ("folder", pa.string()),
        ("digest", pa.string()),
        ("size", pa.int64()),
        ("files", pa.list_(FILE)),
        ("steps", pa.int64()),
        ("loss", pa.float64()),
        ("seconds", pa.float64()),
        ("device", pa.string()),
        ("workers", pa.int64()),
        ("config", pa.string()),
        ("dataset", pa.string()),
        ("code", pa.string()),
        ("start", pa.string()),
        ("parent", pa.string()),
    ]
)
"""A checkpoint. folder: relative to the store, in the layout that from_pretrained opens. start: the digest of the
checkpoint that training began from; parent: its id, where it was trained here."""

RUNTIME = ("out", "stop_after_s", "save_every_s", "save_every_steps", "keep", "sample_every", "log_every", "device")
"""Settings that say where and how a training goes on, and not what comes of it."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the jobs share. All of it is set by the flow.

    settings  set by the flow: the config of the training, without what does not change the outcome
    start     set by the flow: the folder that training begins from, by its content
    vae       set by the flow: the folder of the VAE, by its content
    dataset   set by the flow: the identity of the clips
    workers   set by the flow: processes that train together, each on batches of its own
    whole     set by the flow: the whole config of the training
    gpus      set by the flow: GPUs of each worker
    cpus      set by the flow: CPUs of each worker
    """

    settings: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    vae: str = ""
    dataset: str = ""
    workers: int = 1
    whole: dict[str, Any] = field(default_factory=dict, metadata={"identity": False})
    gpus: float = field(default=0.0, metadata={"identity": False})
    cpus: float = field(default=1.0, metadata={"identity": False})


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide what comes of a training: where weights lie is none of them, their content is."""
    found = {k: v for k, v in dataclasses.asdict(config).items() if k not in RUNTIME}
    return {**found, "model": {k: v for k, v in found["model"].items() if k not in ("checkpoint", "vae")},
            "data": {k: v for k, v in found["data"].items() if k != "workers"}}  # fmt: skip


def whole_config(values: Mapping[str, Any]) -> TrainConfig:
    """The config behind a job's `whole`."""
    from stages.core.config import structured
    from stages.training.settings import TrainConfig

    return structured(TrainConfig, values, "training")


def dataset_identity(config: TrainConfig) -> str:
    """What names the clips that a config trains on. Raises BadInput where there are none."""
    from stages.training.data.batches import load_source

    return load_source(config.data.use, config.data.args).identity


class Encode(Job):
    """Encodes the latents that a training keeps beside its run folder, for stages that need them."""

    kind = "encoded"
    writes = pa.schema([("id", pa.string()), ("folder", pa.string()), ("stage", pa.string())])
    weights: ClassVar = {"start": (), "vae": ("vae",)}

    @dataclass(frozen=True, kw_only=True)
    class Config(Training):
        """The training."""

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What is asked for."""
        return Inputs(units=("stage",))

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """One row. Raises Stopped where it was stopped before all was encoded."""
        from stages.training.process import find_device, hush
        from stages.training.tasks.models import start_folder
        from stages.training.tasks.registry import make_task

        hush()
        config, request = whole_config(self.config.whole), _only(tables["units"])
        folder = own(Path(config.out), request["id"])
        start_folder(config.model, folder, config.seed)  # made once, before several workers look for it
        if config.data.cache:
            task = make_task(config, folder).place(find_device(config.device))
            if not task.get_ready(self.workspace.stop):
                raise Stopped(f"latents are not all encoded yet; {AGAIN}")
        row = {"id": digest("encoded", request["id"]), "folder": str(folder), "stage": config.stage}
        return pa.Table.from_pylist([row], self.writes)


class Train(Job):
    """Trains one stage, from where it was left, and keeps the checkpoint in the store."""

    kind = "checkpoint"
    writes = CHECKPOINT
    weights: ClassVar = {"start": (), "vae": ("vae",)}

    @dataclass(frozen=True, kw_only=True)
    class Config(Training):
        """The training."""

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What is asked for, once all is encoded."""
        return Inputs(ports={"encoded": Port(kind="encoded")}, units=ASKED)

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """One row. Raises Stopped where training was stopped, or its time was up, before the last step."""
        config, request = whole_config(self.config.whole), _only(tables["units"])
        folder = own(Path(config.out), request["id"])
        try:
            step, finished, loss = self._train(config)
        except FloatingPointError as error:
            raise BadInput(f"training failed: {error}") from None
        if not finished:
            raise Stopped(f"training stopped at step {step} of {config.max_steps}; {AGAIN}")
        about = json.loads((folder / "model" / "training.json").read_text())
        files = keep(self.workspace.storage, folder / "model", f"{CHECKPOINTS}/{request['id']}")
        row = {
            **{k: request[k] for k in ("id", *ASKED)},
            "folder": f"{CHECKPOINTS}/{request['id']}",
            "digest": weights_digest(folder / "model"),
            "size": sum(f["size"] for f in files),
            "files": files,
            "steps": step,
            "loss": loss,
            **{k: about[k] for k in ("seconds", "device", "code")},
        }
        return pa.Table.from_pylist([row], self.writes)

    def _train(self, config: TrainConfig) -> tuple[int, bool, float]:
        """(step, whether it is the last, loss): here, or by several workers together."""
        asked = self.config
        if asked.workers == 1 and not asked.gpus:
            return train_here(config, self.workspace.stop, _log)
        work = self.workspace
        if work.launch is None:
            raise BadInput(f"{asked.workers} workers train on Ray: set infra.executor=ray, or workers=1")
        group = {"workers": asked.workers, "gpus": asked.gpus, "cpus": asked.cpus, "folder": config.out}
        found = work.launch("stages.train:train_together", dict(asked.whole), group, work.stop, _log)
        return found["step"], found["finished"], found["loss"]


def train_here(
    config: TrainConfig, stop: Callable[[], bool], say: Callable[[str], None] | None
) -> tuple[int, bool, float]:
    """Train in this process."""
    from stages.training.loop import train

    outcome = train(config, stop=stop, say=say)
    return outcome.step, outcome.finished, outcome.loss


def train_together(values: dict[str, Any], stop: Callable[[], bool], say: Callable[[str], None]) -> Row:
    """What each worker of a torch.distributed group runs: its part of one training."""
    step, finished, loss = train_here(whole_config(values), stop, say)
    return {"step": step, "finished": finished, "loss": loss}


class Measure(Job):
    """Measures a checkpoint on what its training never saw."""

    kind = "figures"
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("checkpoint_id", pa.string()),
            ("figures", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What a checkpoint is measured on.

        clips  held-out clips that are drawn
        whole  set by the flow: the config of the training, for stage, buckets and source
        """

        clips: int = 8
        whole: dict[str, Any] = field(default_factory=dict, metadata={"identity": False})

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The checkpoint."""
        return Inputs(ports={"checkpoint": Port(kind="checkpoint")})

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """One row."""
        from stages.training.evaluation import evaluate
        from stages.training.process import hush

        hush()
        checkpoint = _only(tables["checkpoint"])
        folder = fetch(self.workspace.storage, checkpoint)
        figures = evaluate(folder, whole_config(self.config.whole), self.config.clips)
        named = [{"name": name, "value": float(value)} for name, value in figures.items()]
        _log("measured: " + (", ".join(f"{n} {v:.3f}" for n, v in figures.items()) or "nothing is held out"))
        mark = digest("figures", checkpoint["id"], self.config.clips)
        return pa.Table.from_pylist([{"id": mark, "checkpoint_id": checkpoint["id"], "figures": named}], self.writes)


class Promote(Job):
    """Gives a checkpoint a name that cascades can use, if its figures are good enough."""

    kind = "promotion"
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("name", pa.string()),
            ("checkpoint_id", pa.string()),
            ("folder", pa.string()),
            ("promoted", pa.bool_()),
            ("reason", pa.string()),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What a checkpoint needs to be promoted.

        name      name that the checkpoint gets
        at_least  minimum of each figure
        """

        name: str = ""
        at_least: dict[str, float] = field(default_factory=dict)

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The checkpoint, and how good it is."""
        return Inputs(ports={"checkpoint": Port(kind="checkpoint"), "figures": Port(kind="figures")})

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """One row, which says why where it is not promoted."""
        checkpoint = _only(tables["checkpoint"])
        figures = {f["name"]: f["value"] for f in _only(tables["figures"])["figures"]}
        short = [
            f"{name} is {figures.get(name, 'not measured')}, at least {least:g} is needed"
            for name, least in self.config.at_least.items()
            if not figures.get(name, float("-inf")) >= least
        ]
        row = {
            "id": digest("promotion", self.config.name, checkpoint["id"], dict(self.config.at_least)),
            "name": self.config.name,
            "checkpoint_id": checkpoint["id"],
            "folder": checkpoint["folder"],
            "promoted": not short,
            "reason": "; ".join(short),
        }
        return pa.Table.from_pylist([row], self.writes)


def _only(table: pa.Table) -> Row:
    row: Row = table.to_pylist()[0]
    return row


def _log(text: str) -> None:
    import logging

    logging.getLogger("rushes").info("%s", text)
