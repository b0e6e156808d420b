"""The embedded checkpoint: it travels, opens with diffusers, says how it was trained, and shows what it is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from diffusers import LTXConditionPipeline

from flows.cli.main import main
from stages.core.config_files import ROOT
from stages.core.weights.checkpoint import check_parts
from stages.families.untrained import PARTS

FOLDER = ROOT / "stages" / "pretrained" / "world"
STAGES = ["vae", "spatial", "temporal", "vae", "base", "vae", "base", "vae", "vae", "base"]
FIGURES = {"colour": 0.97, "shape": 0.97, "motion": 0.97, "background": 0.97, "all": 0.97}
"""Some 0.03 below what was measured: other machines round otherwise."""


def test_it_travels_and_opens_as_any_diffusers_folder():
    files = [p for p in FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 24e6
    assert max(p.stat().st_size for p in files) < 16 * 2**20
    assert {p.suffix for p in files} <= {".json", ".safetensors"}
    check_parts(FOLDER, PARTS)
    pipeline = LTXConditionPipeline.from_pretrained(FOLDER, local_files_only=True)
    assert pipeline.vae.spatial_compression_ratio == 16


def test_it_says_how_it_was_trained():
    record = json.loads((FOLDER / "training.json").read_text())
    history = [*record["before"], record]
    assert [h["stage"] for h in history] == STAGES
    for entry in history:
        assert entry["step"] > 0
        assert entry["seconds"] > 0
        assert entry["data"].startswith("world:train:"), "held-out combinations were not trained on"
        assert not Path(entry["config"]["out"]).is_absolute()


def judged(out: Path, store: Path, *words: str) -> dict:
    command = ["evaluate", "--store", str(store), "--out", str(out), "--executor", "local", *words]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text())


def test_prompts_become_what_they_ask_for(tmp_path):
    """A held-out prompt through the whole cascade: far above chance (an eighth, a fifth, an eighth, a fifth)."""
    found = judged(tmp_path / "figures.json", tmp_path / "store", "heldout=1", "seeds=1")
    assert found["n"] == 1
    assert np.mean([found["accuracy"][a] for a in ("colour", "shape", "motion", "background")]) >= 0.6


@pytest.mark.soak
def test_the_figures_of_the_readme(tmp_path):
    """The run that the README tells of: 200 held-out prompts, two seeds each."""
    found = judged(tmp_path / "figures.json", tmp_path / "store")
    assert found["n"] == 400
    for attribute, least in FIGURES.items():
        assert found["accuracy"][attribute] >= least, found["accuracy"]
