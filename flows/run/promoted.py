"""The checkpoints of a store: all of them, and which one a name stands for, as in `checkpoint: promoted:NAME@STORE`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig, OmegaConf

from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog, connect
from stages.core.running.runs import runs_table
from stages.core.step import Row

PREFIX, SHORTEST = "promoted:", 6


def resolve_promoted(layer: Any) -> Any:
    """A config layer with the folder in place of every `promoted:NAME@STORE`. Raises BadInput where there is none."""
    plain = OmegaConf.to_container(layer if OmegaConf.is_config(layer) else OmegaConf.create(layer), resolve=False)
    if PREFIX not in json.dumps(plain, default=str):
        return layer
    found = OmegaConf.create(_replaced(plain))
    assert isinstance(found, DictConfig)
    return found


def _replaced(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _replaced(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_replaced(v) for v in value]
    return find_promoted(value) if isinstance(value, str) and value.startswith(PREFIX) else value


def find_promoted(location: str) -> str:
    """The folder on this machine of the checkpoint behind `promoted:NAME@STORE`; its id will do for the name. Raises
    BadInput."""
    from flows.run.session import existing_catalog
    from stages.core.weights.store import fetch

    name, _, store = location.removeprefix(PREFIX).partition("@")
    if not name or not store:
        raise BadInput(f"{location!r} must read promoted:NAME@STORE")
    catalog = existing_catalog(store, results=True)
    known = list_checkpoints(catalog)
    found = [c for c in known if name in c["promoted"]] or [c for c in known if _begins(c["id"], name)]
    if len(found) != 1:
        names = sorted({n for c in known for n in c["promoted"]})
        hint = nearest(name, names) if names else "none is promoted there"
        raise BadInput(f"{location}: no checkpoint of {store} has the name {name!r} ({hint})")
    return str(fetch(catalog.storage, found[0]))


def _begins(mark: str, name: str) -> bool:
    """Whether this is an id or its beginning, as people copy it from a table."""
    return len(name) >= SHORTEST and mark.startswith(name)


def promotions(catalog: Catalog) -> dict[str, str]:
    """name -> checkpoint id: of each name, what the latest run promoted to it."""
    found: dict[str, str] = {}
    for training in _trainings(catalog):
        for row in _job_rows(catalog, training, "promotion"):
            if row["promoted"]:
                found[row["name"]] = row["checkpoint_id"]
    return found


def list_checkpoints(catalog: Catalog) -> list[Row]:
    """Every checkpoint that a run of this store has trained, the oldest first, with `name`, `figures`, `promoted`."""
    names, found = promotions(catalog), dict[str, Row]()
    for training in _trainings(catalog):
        for row in _job_rows(catalog, training, "checkpoint"):
            found.setdefault(row["id"], {**row, "figures": []})
            found[row["id"]]["promoted"] = sorted(n for n, c in names.items() if c == row["id"])
        for row in _job_rows(catalog, training, "figures"):
            found[row["checkpoint_id"]]["figures"] = row["figures"]
    return list(found.values())


def checkpoints(catalog: Catalog) -> pa.Table:
    """Those as a table."""
    from stages.train import CHECKPOINT, Measure

    own = [pa.field("promoted", pa.list_(pa.string())), Measure.writes.field("figures")]
    return pa.Table.from_pylist(list_checkpoints(catalog), pa.schema([*CHECKPOINT, *own]))


@dataclass(frozen=True)
class _Training:
    """One run of the flow: the folder and the result of each of its jobs, by what the job makes."""

    folders: Mapping[str, tuple[str, str, str]]


OLD_KINDS = {"train": "checkpoint", "evaluate": "figures", "promote": "promotion"}
"""What the jobs of a training make, by the names that they have in stores of format 1, whose plans do not say it."""


def _trainings(catalog: Catalog) -> list[_Training]:
    found = []
    for run in (r for r in runs_table(catalog).to_pylist() if r["flow"] == "train"):
        raw, jobs = json.loads(run["plan"]), json.loads(run["jobs"])
        nodes = raw["nodes"] if "nodes" in raw else [n for phase in raw["phases"] for n in phase["nodes"]]
        found.append(
            _Training(
                {
                    n.get("kind") or OLD_KINDS.get(n["name"], ""): (n["name"], n["fingerprint"], jobs[n["name"]])
                    for n in nodes
                    if n["name"] in jobs
                }
            )
        )
    return found


def _job_rows(catalog: Catalog, training: _Training, kind: str) -> list[Row]:
    if kind not in training.folders:
        return []
    name, fingerprint, mark = training.folders[kind]
    sql = connect()
    source = catalog.scan(sql, [f"{catalog.folder(name, fingerprint)}/job-{mark}.parquet"])
    rows: list[Row] = sql.sql(f"SELECT * FROM {source}").to_arrow_table().to_pylist()
    return rows
