"""Scores by checkpoints of the user's own, in a whole run: tiny ones of the same formats as the real ones."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from data_prep.models.clip_model import TwoTowers
from data_prep.scores.aesthetic import Aesthetic, one_layer
from data_prep.scores.text_match import TextMatch
from data_prep.scores.watermark import Watermark
from flows.curate.curation import load_curation
from flows.run.session import execute, prepare
from flows.views.tables import read_table
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.step import Workspace
from tests.data_prep.little import texture, video
from tests.data_prep.models import tiny_classifier, tiny_clip

WIDTH = 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(4)
    sizes = (WIDTH, 8, 4, 1)
    layers = {f"layers.{2 * i}": (b, a) for i, (a, b) in enumerate(pairwise(sizes))}
    state = {f"{n}.weight": torch.randn(shape) for n, shape in layers.items()}
    state |= {f"{n}.bias": torch.randn(shape[0]) for n, shape in layers.items()}
    torch.save(state, folder / "head.pth")
    save_file(state, folder / "head.safetensors")
    return {
        "clip": tiny_clip(folder / "clip"),
        "watermark": tiny_classifier(folder / "watermark", ("clean", "Watermark")),
        "head": folder / "head.pth",
        "same head": folder / "head.safetensors",
    }


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(Storage(str(tmp_path / "store")))


def words_for(weights: dict[str, Path]) -> list[str]:
    on = [f"{name}.enabled=true" for name in ("aesthetic", "watermark", "vectors", "text_match")]
    clips = [f"{name}.clip={weights['clip']}" for name in ("aesthetic", "vectors")]
    return [*on, *clips, f"aesthetic.head={weights['head']}", f"watermark.model={weights['watermark']}"]


@pytest.mark.soak
def test_a_whole_run_with_all_of_them(weights, tmp_path):
    video(tmp_path / "a.mp4", (1, 2))
    video(tmp_path / "b.mp4", (3,))
    listing = tmp_path / "m.jsonl"
    words = [*words_for(weights), "select.text_match.min=-2", "infra.executor=local", "select.motion=null"]

    def run(caption: str) -> tuple[dict, Counter[str]]:
        rows = [{"uri": "a.mp4", "caption": caption}, {"uri": "b.mp4"}]
        listing.write_text("".join(json.dumps(r) + "\n" for r in rows))
        prepared = prepare(load_curation([str(listing)], "curate", {}, words), str(tmp_path / "store"))
        work = Counter[str]()
        execute(prepared, listener=lambda n, _: work.update([n]))
        return {r["clip_id"]: r for r in read_table(prepared.catalog, "scores").to_pylist()}, work

    first, _ = run("A dog runs after a red ball.")
    assert len(first) == 3
    for row in first.values():
        assert np.isfinite(row["aesthetic"])
        assert 0 < row["watermark"] < 1
        assert "clip_vector" not in row
    said = {c: r["text_match"] for c, r in first.items()}
    assert sorted(v is None for v in said.values()) == [False, False, True]
    assert all(-1 <= v <= 1 for v in said.values() if v is not None)
    second, work = run("The camera pans left over an old tree.")
    assert work["text_match"] == 1
    assert not {"vectors", "aesthetic", "watermark", "analyse"} & set(+work)
    changed = {c for c, r in second.items() if r["text_match"] != said[c]}
    assert changed == {c for c, v in said.items() if v is not None}


def test_a_chain_of_linear_layers_is_one(weights):
    from safetensors.torch import load_file

    state = load_file(str(weights["same head"]))
    vector = torch.randn(WIDTH, dtype=torch.float64)
    value = vector
    for name in ("layers.0", "layers.2", "layers.4"):
        value = state[f"{name}.weight"].double() @ value + state[f"{name}.bias"].double()
    for name in ("head", "same head"):
        gain, offset = one_layer(weights[name])
        assert float(gain @ vector.numpy()) + offset == pytest.approx(float(value))


def test_pictures_and_texts_have_unit_vectors_in_one_space(weights):
    towers = TwoTowers(str(weights["clip"]), "", "x", "cpu")
    shown = towers.pictures([texture(1), texture(2)])
    said = towers.texts(["a dog runs", "the camera pans " * 60])
    assert shown.shape == said.shape == (2, WIDTH)
    assert np.linalg.norm(np.concatenate([shown, said]), axis=1) == pytest.approx(1)
    assert abs(shown[0] - shown[1]).max() > 1e-4


def test_a_head_for_another_clip_is_refused(weights, tmp_path, workspace):
    save_file({"weight": torch.ones(1, 5), "bias": torch.zeros(1)}, tmp_path / "five.safetensors")
    step = Aesthetic(Aesthetic.Config(clip=str(weights["clip"]), head=str(tmp_path / "five.safetensors")), workspace)
    step.setup()
    with pytest.raises(BadInput, match="is for 5 numbers, clip gives 16"):
        step.score([texture(1)])
    assert step.score([]) is None


def test_a_head_that_is_none_is_refused(tmp_path):
    torch.save({"conv.weight": torch.ones(1, 2, 3)}, tmp_path / "x.pth")
    with pytest.raises(BadInput, match="not a chain of linear layers"):
        one_layer(tmp_path / "x.pth")


def test_words_and_pictures_of_different_models_are_not_compared(weights, workspace):
    tables = {
        "vectors": pa.table({"unit_id": ["s"], "clip_id": ["c"], "clip_vector": [[0.5, 0.5]]}),
        "units": pa.table({"id": ["s"], "caption": [""], "label": ["DogRuns"]}),
    }
    with pytest.raises(BadInput, match=r"gives 16 numbers, vectors\.clip 2"):
        TextMatch(TextMatch.Config(clip=str(weights["clip"])), workspace).run(tables)


def test_a_label_that_the_classifier_lacks_is_named(weights, workspace):
    step = Watermark(Watermark.Config(model=str(weights["watermark"]), label="watermarks"), workspace)
    with pytest.raises(BadInput, match="no class 'watermarks'; did you mean 'watermark'"):
        step.setup()


def test_texts_are_compared_with_vectors(weights):
    with pytest.raises(BadInput, match=r"step text_match needs .* that makes scores with the columns clip_vector"):
        load_curation(["a.mp4"], "curate", {}, ["text_match.enabled=true", f"text_match.clip={weights['clip']}"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["aesthetic.enabled=true"], "aesthetic: give the folder of a CLIP checkpoint"),
        (["watermark.enabled=true"], "watermark.model: give the folder of an image-classification"),
        (["vectors.enabled=true"], "vectors.clip: give the folder of a CLIP or SigLIP"),
        (["cuts.use=data_prep.shots.second_opinion:ConfirmedCuts", "cuts.keep=2"], "must be 0 to 1"),
    ],
)
def test_what_is_missing_is_said_before_any_work(words, says):
    with pytest.raises(BadInput, match=says):
        load_curation(["a.mp4"], "curate", {}, words)
