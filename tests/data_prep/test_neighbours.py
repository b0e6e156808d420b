"""Clips that are alike: by embeddings, exactly and through an index, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from data_prep.dedup.copies import Copies
from data_prep.dedup.neighbours import embedding_pairs
from stages.core.config import make_ref
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.step import Workspace


def vectors(n: int, width: int = 64, copies: int = 0, seed: int = 0) -> np.ndarray:
    """Vectors in thirty crowds [n, width]; the last `copies` are those at the front with a little noise."""
    random = np.random.default_rng(seed)
    crowds = random.normal(0, 1, (30, width))
    found = crowds[random.integers(0, 30, n)] + 0.7 * random.normal(0, 1, (n, width))
    if copies:
        found[-copies:] = found[:copies] + 0.05 * random.normal(0, 1, (copies, width))
    return found.astype(np.float32)


def column(matrix: np.ndarray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(matrix.tolist(), pa.list_(pa.float32()))])


@pytest.mark.parametrize("index", ["exact", "faiss"])
def test_every_pair_that_is_near_enough_is_found_and_no_other(index):
    if index == "faiss":
        pytest.importorskip("faiss")
    matrix = vectors(1500, copies=40)
    pairs, cosine = embedding_pairs(column(matrix), 0.97, index)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    i, j = np.nonzero(np.triu(unit @ unit.T, 1) >= 0.97)
    assert pairs.tolist() == np.stack([i, j], axis=1).tolist()
    assert len(pairs) == 40
    assert cosine == pytest.approx((unit @ unit.T)[i, j], abs=1e-5)


def test_clips_without_an_embedding_have_no_neighbours():
    rows = [[1.0, 0.0], None, [], [1.0, 0.01], [0.0, 1.0]]
    pairs, _ = embedding_pairs(pa.chunked_array([pa.array(rows, pa.list_(pa.float32()))]), 0.99)
    assert pairs.tolist() == [[0, 3]]
    assert len(embedding_pairs(pa.chunked_array([pa.array([None], pa.list_(pa.float32()))]), 0.9)[0]) == 0


def test_copies_are_semantic_where_a_step_embeds_and_none_where_it_does_not(tmp_path):
    ids = [f"c{i}" for i in range(4)]
    clips = pa.table({"clip_id": ids, "start_s": [0.0] * 4, "end_s": [2.0] * 4})
    given = {
        "clips": clips,
        "action": pa.table({"clip_id": ids, "embedding": column(np.array([[3, 4], [6, 8.1], [4, 3], [-3, 4]]))}),
    }
    found = Copies(Copies.Config(cosine=0.97), Workspace(Storage(str(tmp_path)))).run(given)
    assert [(r["clip_a"], r["clip_b"], r["kind"]) for r in found.to_pylist()] == [("c0", "c1", "semantic")]
    assert found.column("distance")[0].as_py() == pytest.approx(0, abs=1e-4)
    off = Copies(Copies.Config(cosine=0.0), Workspace(Storage(str(tmp_path))))
    assert len(off.run(given)) == 0
    assert len(Copies(Copies.Config(cosine=0.97), off.workspace).run({"clips": clips})) == 0


def test_an_index_that_is_none_is_refused():
    with pytest.raises(BadInput, match="no index 'fais'; did you mean 'faiss'"):
        make_ref("copies", {"use": "data_prep.dedup.copies:Copies", "index": "fais"})
