"""Nearest neighbours of many clips on a CPU: by hash bands, and by embeddings."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Pairs = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Matrix = npt.NDArray[np.float32]

BANDS = 4
CROWD = 64
"""Clips that share one band with more than this many others are only compared with that many neighbours in order."""


def hash_pairs(hashes: U64, most_bits: float) -> Pairs:
    """Pairs (i < j) of clips whose hashes [n, frames] differ by at most `most_bits` on average: int64 [m, 2].

    Candidates share 16 bits of a frame's hash at the same place, so of copies that differ by up to 12 bits a frame
    hardly any is missed over eight frames. A hash of 0 says nothing; half of the frames must say something.
    """
    sharing = [np.zeros((0, 2), np.int64)]
    for frame in range(hashes.shape[1]):
        for band in range(BANDS):
            key = (hashes[:, frame] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
            sharing.append(_sharing(key, hashes[:, frame] != 0))
    candidates = np.unique(np.concatenate(sharing), axis=0)
    return candidates[hash_distance(hashes, candidates) <= most_bits]


def _sharing(key: U64, usable: npt.NDArray[np.bool_]) -> Pairs:
    """Pairs of usable rows with the same key; in a crowd, each with the CROWD that follow it."""
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(key[rows], kind="stable")]
    values, pairs = key[rows], []
    for gap in range(1, min(CROWD, len(rows) - 1) + 1):
        same = np.flatnonzero(values[gap:] == values[:-gap])
        if not len(same):
            break
        pairs.append(np.stack([rows[same], rows[same + gap]], axis=1))
    return np.sort(np.concatenate(pairs), axis=1) if pairs else np.zeros((0, 2), np.int64)


def hash_distance(hashes: U64, pairs: Pairs) -> npt.NDArray[np.float64]:
    """The mean number of differing bits over the frames in which both hashes say something; inf below half of them."""
    a, b = hashes[pairs[:, 0]], hashes[pairs[:, 1]]
    both = (a != 0) & (b != 0)
    bits = np.bitwise_count(a ^ b).astype(np.float64) * both
    count = both.sum(axis=1)
    mean = bits.sum(axis=1) / np.maximum(count, 1)
    return np.where(count * 2 >= hashes.shape[1], mean, np.inf)


def embedding_pairs(
    vectors: pa.ChunkedArray, cosine: float, index: str = "exact"
) -> tuple[Pairs, npt.NDArray[np.float64]]:
    """Pairs (i < j) of rows whose embeddings have at least this cosine, and that cosine: int64 [m, 2], float64 [m].

    index is `exact`, by blocks of a matrix product, whose time grows with the square of the clips, or `faiss`, an
    inverted file whose time grows with their power of 1.5. Rows without an embedding have no neighbours.
    """
    values = vectors.combine_chunks()
    rows = np.flatnonzero((pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)) > 0)
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    matrix = np.asarray(values.take(pa.array(rows)).flatten(), np.float32).reshape(len(rows), -1)
    matrix = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
    pairs, cosines = (_by_faiss if index == "faiss" else _by_blocks)(matrix, cosine)
    return rows[pairs], cosines


def _by_blocks(matrix: Matrix, cosine: float, block: int = 1024) -> tuple[Pairs, npt.NDArray[np.float64]]:
    pairs, cosines = [], []
    for at in range(0, len(matrix), block):
        products = matrix[at : at + block] @ matrix[at:].T
        i, j = np.nonzero(np.triu(products, 1) >= cosine)
        pairs.append(np.stack([at + i, at + j], axis=1))
        cosines.append(products[i, j].astype(np.float64))
    return np.concatenate(pairs), np.concatenate(cosines)


def _by_faiss(matrix: Matrix, cosine: float) -> tuple[Pairs, npt.NDArray[np.float64]]:
    """Vectors in 4 sqrt(n) cells of their likes; each looks into the 8 nearest. One thread and a stated seed."""
    import faiss

    faiss.omp_set_num_threads(1)
    n, width = matrix.shape
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, max(1, int(4 * n**0.5)), faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 1, 8, 40, 1
    index.train(matrix)
    index.add(matrix)
    index.nprobe = 8
    limits, values, others = index.range_search(matrix, cosine)
    own = np.repeat(np.arange(n), np.diff(limits).astype(np.int64))
    once = own < others
    order = np.lexsort((others[once], own[once]))
    return np.stack([own[once], others[once]], axis=1)[order], values[once][order].astype(np.float64)


def components(pairs: Pairs) -> list[list[int]]:
    """The groups that pairs link together, each in ascending order, by their first member."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return []
    nodes, index = np.unique(pairs, return_inverse=True)
    index = index.reshape(-1, 2)
    graph = coo_array((np.ones(len(index)), (index[:, 0], index[:, 1])), shape=(len(nodes), len(nodes)))
    _, labels = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = defaultdict(list)
    for node, label in zip(nodes, labels, strict=True):
        groups[int(label)].append(int(node))
    return sorted(groups.values())
