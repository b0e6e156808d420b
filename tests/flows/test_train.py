"""Training as its users meet it: a checkpoint with its history, stopped and taken up, named, and used by others."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli.main import main
from flows.run.promoted import find_promoted, list_checkpoints, promotions
from flows.run.session import existing_catalog
from flows.train.training import load_training
from stages.core.weights.store import own
from stages.training.state import list_states


def rushes(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


@pytest.fixture(scope="module")
def store(training_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the small VAE was trained and promoted."""
    folder = tmp_path_factory.mktemp("trained") / "store"
    result = rushes("train", training_file, "--store", folder, "clips=1", "promote=small")
    assert result.exit_code == 0, result.output
    assert "step 3/3  loss" in result.output
    return folder


def checkpoint(store: Path) -> dict:
    return list_checkpoints(existing_catalog(str(store)))[0]


def test_the_checkpoint_is_a_row_with_its_whole_history(store, training_file):
    row = checkpoint(store)
    assert (row["stage"], row["steps"], row["workers"], row["promoted"]) == ("vae", 3, 1, ["small"])
    assert json.loads(row["config"])["max_steps"] == 3
    assert row["dataset"].startswith("world:train:")
    assert row["code"]
    assert row["start"]
    assert {f["name"] for f in row["figures"]} == {"psnr", "psnr_least", "clips"}
    assert {f["path"] for f in row["files"]} >= {"model_index.json", "training.json", "vae/config.json"}
    result = rushes("status", row["id"], "--store", store)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.output.splitlines() if row["id"] in line][:2] == ["unit", "train"]


def test_the_checkpoint_opens_with_from_pretrained(store):
    from diffusers import AutoencoderKLLTXVideo

    vae = AutoencoderKLLTXVideo.from_pretrained(store / checkpoint(store)["folder"] / "vae", local_files_only=True)
    assert vae.config.latent_channels == 16


def test_the_same_training_again_does_nothing(store, training_file):
    result = rushes("train", training_file, "--store", store, "clips=1", "promote=small", "save_every_s=7")
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.output
    assert len(list_checkpoints(existing_catalog(str(store)))) == 1


def test_verify_sees_a_damaged_checkpoint(store):
    assert rushes("catalog", "verify", "--store", store).exit_code == 0
    path = store / checkpoint(store)["folder"] / "model_index.json"
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    assert rushes("catalog", "verify", "--store", store).exit_code == 1
    path.write_bytes(before)


def test_a_promoted_name_stands_for_the_folder(store):
    place = f"promoted:small@{store}"
    assert find_promoted(place) == str(store / checkpoint(store)["folder"])
    words = [
        "render",
        "--prompt",
        "a red circle",
        "--store",
        store / "other",
        f"model.checkpoint={place}",
        "--settings",
    ]
    result = rushes(*words)
    assert result.exit_code == 0, result.output
    assert checkpoint(store)["folder"] in result.output


def test_a_checkpoint_of_a_remote_store_is_fetched(training_file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = f"memory://{tmp_path.name}"
    result = rushes("train", training_file, "--store", store, "clips=0", "promote=far", "max_steps=1")
    assert result.exit_code == 0, result.output
    row = list_checkpoints(existing_catalog(store))[0]
    folder = Path(find_promoted(f"promoted:far@{store}"))
    assert folder.is_relative_to(tmp_path)
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        f["path"] for f in row["files"]
    }
    assert find_promoted(f"promoted:{row['id'][:12]}@{store}") == str(folder)


def test_what_is_trained_from_a_checkpoint_names_it_as_parent(store, training_file):
    overrides = [f"model.checkpoint=promoted:small@{store}", "max_steps=1", "clips=1"]
    result = rushes("train", training_file, "--store", store, *overrides, "promote=better", "at_least={psnr: 90}")
    assert result.exit_code == 0, result.output
    assert "not promoted: psnr is" in result.output
    first, second = list_checkpoints(existing_catalog(str(store)))
    assert (second["parent"], second["start"]) == (first["id"], first["digest"])
    assert promotions(existing_catalog(str(store))) == {"small": first["id"]}
    assert "trained from:" in rushes("status", second["id"], "--store", store).output


def test_a_training_that_ran_out_of_time_is_taken_up(training_file, tmp_path):
    words = ["train", training_file, "--store", tmp_path / "store", "clips=1"]
    result = rushes(*words, "stop_after_s=0.001")
    assert result.exit_code == 3, result.output
    assert "run the same command again to continue" in " ".join(result.output.split())
    assert list_checkpoints(existing_catalog(str(tmp_path / "store"))) == []
    assert rushes(*words).exit_code == 0


def test_an_interrupt_saves_and_leaves(training_file, tmp_path, monkeypatch):
    store, interrupted = tmp_path / "store", []

    class Interrupt(logging.Handler):
        def emit(self, record):
            if "step 3/" in record.getMessage() and not interrupted:
                interrupted.append(True)
                os.kill(os.getpid(), signal.SIGINT)

    handler = Interrupt()
    logging.getLogger("rushes").addHandler(handler)
    try:
        result = rushes("train", training_file, "--store", store, "max_steps=100000", "save_every_s=1000")
    finally:
        logging.getLogger("rushes").removeHandler(handler)
    assert (interrupted, result.exit_code) == ([True], 3), result.output
    (folder,) = (store / "training").iterdir()
    assert list_states(folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["max_stepz=3"], "did you mean 'max_steps'"),
        (["optim.lrr=1"], "lrr"),
        (["workers=0"], "workers is 0; it must be at least 1"),
        (["data.flip=2"], "rushes: data.flip is 2.0; it must be 0 to 1"),
        (["at_least={psnr: 20}"], "give `promote`"),
        (["promote=../x"], "is not a valid name"),
        (
            ["model.checkpoint=nowhere"],
            "model.checkpoint: there is no checkpoint at nowhere; train the parts before this one",
        ),
        (["model.checkpoint=promoted:none@{store}"], "no checkpoint of"),
        (["data.use=os:system"], "data.use"),
    ],
)
def test_bad_input_is_one_sentence(store, training_file, words, said):
    result = rushes("train", training_file, "--store", store, *(w.replace("{store}", str(store)) for w in words))
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_folder_that_belongs_to_another_training_is_refused(store, training_file, tmp_path):
    own(tmp_path / "mine", "another")
    result = rushes("train", training_file, "--store", store, "clips=1", f"out={tmp_path / 'mine'}", "seed=9")
    assert result.exit_code == 2, result.output
    assert "belongs to the training another" in result.output


def test_only_what_changes_the_outcome_makes_another_training(training_file, tmp_path):
    from flows.run.session import open_catalog

    catalog = open_catalog(str(tmp_path / "store"))

    def mark(*overrides: str) -> str:
        return load_training(training_file, overrides).plan(catalog).node("train").fingerprint

    assert mark() == mark("out=elsewhere", "device=auto", "save_every_s=3", "clips=2", "data.workers=2")
    assert len({mark(), mark("seed=1"), mark("workers=2"), mark("optim.lr=0.5"), mark("max_steps=4")}) == 5
