"""Models that curation measures with: a checkpoint with a tensor less would measure at random, so it is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.captions.vlm import VlmCaption
from data_prep.models.clip_model import TwoTowers
from data_prep.scores.watermark import Watermark
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.step import Workspace
from tests.data_prep.models import tiny_classifier, tiny_clip, tiny_vlm


def changed(folder: Path, change) -> Path:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return folder


def less(tensors: dict) -> dict:
    """Without the first weight of a layer."""
    lost = next(k for k in sorted(tensors) if k.endswith((".k_proj.weight", ".q_proj.weight", ".query.weight")))
    return {k: v for k, v in tensors.items() if k != lost}


def load(kind: str, folder: Path, workspace: Workspace) -> object:
    if kind == "clip":
        return TwoTowers(str(folder), "", "x", "cpu")
    if kind == "watermark":
        step = Watermark(Watermark.Config(model=str(folder), label="watermark", device="cpu"), workspace)
    else:
        step = VlmCaption(VlmCaption.Config(model=str(folder), device="cpu"), workspace)
    step.setup()
    return step


MAKERS = {
    "clip": tiny_clip,
    "watermark": lambda folder: tiny_classifier(folder, ("clean", "watermark")),
    "vlm": tiny_vlm,
}


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(Storage(str(tmp_path / "store")))


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_tensor_less_is_refused_by_name(kind, tmp_path, workspace):
    folder = changed(MAKERS[kind](tmp_path / "model"), less)
    with pytest.raises(BadInput, match=r"its weights lack 1 tensor .*(k_proj|q_proj|query)\.weight"):
        load(kind, folder, workspace)


def test_a_head_that_is_not_asked_for_is_named_in_the_log(tmp_path, caplog):
    folder = changed(tiny_clip(tmp_path / "model"), lambda t: {**t, "some_head.weight": torch.ones(2)})
    with caplog.at_level(logging.WARNING, "rushes"):
        TwoTowers(str(folder), "", "x", "cpu")
    assert [r for r in caplog.records if "have 1 tensor that nothing uses: some_head.weight" in r.getMessage()]
