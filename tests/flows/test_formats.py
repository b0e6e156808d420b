"""Stores of other formats: one sentence that says what to do, and what was published in them stays readable."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from flows.cli.main import main
from flows.run.promoted import find_promoted
from flows.run.session import existing_catalog, open_catalog
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog
from stages.core.ledger.records import RUN_SCHEMA
from stages.core.ledger.storage import Storage
from stages.core.weights.store import keep
from stages.train import CHECKPOINT, Measure, Promote

TRAINING = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def old(tmp_path: Path, small_checkpoint: Path) -> Path:
    """A store of format 1, with a dataset and a promoted checkpoint."""
    store = tmp_path / "old"
    catalog = Catalog(Storage(str(store)))
    catalog.storage.write("store.json", b'{"format": 1}\n')
    manifest = {"name": "set", "version": 1, "clips": 3, "train": 2, "val": 1, "excluded": 0, "hours": 0.5}
    manifest |= {"fingerprint": "f" * 32, "created": "2026-01-01"}
    catalog.storage.write("datasets/set/v1/dataset.json", json.dumps(manifest).encode())
    add_training(catalog, small_checkpoint)
    return store


def add_training(catalog: Catalog, folder: Path) -> None:
    """A finished run of `train` as format 1 wrote it: its plan has phases, and says nothing of kinds."""
    files = keep(catalog.storage, folder, f"checkpoints/{TRAINING}")
    checkpoint = {"id": TRAINING, "stage": "vae", "folder": f"checkpoints/{TRAINING}", "digest": "d", "files": files}
    rows = {
        "train": (CHECKPOINT, checkpoint),
        "evaluate": (
            Measure.writes,
            {"id": "m", "checkpoint_id": TRAINING, "figures": [{"name": "psnr", "value": 30}]},
        ),
        "promote": (Promote.writes, {"id": "p", "name": "small", "checkpoint_id": TRAINING, "promoted": True}),
    }
    for name, (schema, row) in rows.items():
        catalog.commit_table(name, "f1", pa.Table.from_pylist([row], schema), "job-mark")
    nodes = [{"name": n, "use": f"stages.train:{n}", "fingerprint": "f1", "after": ["roots"]} for n in rows]
    plan = {"flow": "train", "roots": "roots/r.parquet", "phases": [{"name": "training", "nodes": nodes}]}
    now = datetime.now(UTC)
    run = {"run_id": "r1", "flow": "train", "status": "done", "started": now, "ended": now, "plan": json.dumps(plan)}
    run["jobs"] = json.dumps(dict.fromkeys(rows, "mark"))
    catalog.commit("runs", "all", [run], RUN_SCHEMA)


def rushes(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


def test_work_on_a_store_of_format_1_is_refused_with_one_sentence(old, training_file):
    before = {p: p.read_bytes() for p in old.rglob("*") if p.is_file()}
    for words in (["status"], ["table", "videos"], ["catalog", "verify"], ["train", training_file]):
        result = rushes(*words, "--store", old)
        assert result.exit_code == 2, result.output
        said = " ".join(result.output.split())
        assert "is of format 1, but this version of Rushes reads format 2: give another --store" in said
    assert {p: p.read_bytes() for p in old.rglob("*") if p.is_file()} == before


def test_what_was_published_in_format_1_stays_readable(old):
    result = rushes("table", "datasets", "--store", old)
    assert result.exit_code == 0, result.output
    assert "datasets/set/v1" in result.output
    result = rushes("table", "checkpoints", "--store", old)
    assert result.exit_code == 0, result.output
    assert "small" in result.output
    assert find_promoted(f"promoted:small@{old}") == str(old / "checkpoints" / TRAINING)
    with pytest.raises(BadInput, match="has the name 'other'"):
        find_promoted(f"promoted:other@{old}")


def test_a_new_store_says_its_format(tmp_path):
    open_catalog(str(tmp_path / "new"))
    assert json.loads((tmp_path / "new" / "store.json").read_text()) == {"format": 2}
    assert existing_catalog(str(tmp_path / "new")) == open_catalog(str(tmp_path / "new"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"format": 3}', "of format 3.*use the version that made it"),
        ("{}", "does not say the format"),
        ("x", "format"),
    ],
)
def test_a_store_of_a_later_or_unknown_format_is_refused(tmp_path, text, says):
    (tmp_path / "store.json").write_text(text)
    for opened in (open_catalog, existing_catalog):
        with pytest.raises(BadInput, match=says):
            opened(str(tmp_path))
    with pytest.raises(BadInput, match=says):
        existing_catalog(str(tmp_path), results=True)
