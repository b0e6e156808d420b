"""Nearest neighbours of many clips on a CPU: by hash bands, and by embeddings."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Pairs = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

BANDS = 4
CROWD = 64
"""Clips that share one band with more than this many others are only compared with that many neighbours in order."""


def hash_pairs(hashes: U64, most_bits: float) -> Pairs:
    """Pairs (i < j) of clips whose hashes [n, frames] differ by at most `most_bits` on average: int64 [m, 2].

    Candidates share 16 bits of a frame's hash at the same place, so of copies that differ by up to 12 bits a frame
    hardly any is missed over eight frames. A hash of 0 says nothing; half of the frames must say something.
    """
    found = [np.zeros((0, 2), np.int64)]
    for frame in range(hashes.shape[1]):
        for band in range(BANDS):
            key = (hashes[:, frame] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
            found.append(_sharing(key, hashes[:, frame] != 0))
    candidates = np.unique(np.concatenate(found), axis=0)
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


def embedding_pairs(vectors: pa.ChunkedArray, cosine: float, neighbours: int = 8) -> Pairs:
    """Pairs of rows whose embeddings have at least this cosine, among each one's nearest: int64 [m, 2].

    Exact k-d tree search of scipy on unit vectors; rows without an embedding have no neighbours.
    """
    from scipy.spatial import KDTree

    rows = np.array([i for i, v in enumerate(vectors) if v.is_valid and len(v) > 0], np.int64)
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    matrix = np.array([vectors[int(i)].as_py() for i in rows], np.float32)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
    reach = float(np.sqrt(max(0.0, 2 - 2 * cosine)))
    near, which = KDTree(matrix).query(matrix, k=min(neighbours + 1, len(rows)), distance_upper_bound=reach + 1e-6)
    left = np.repeat(np.arange(len(rows)), which.shape[1])
    ok = np.isfinite(near.ravel()) & (which.ravel() > left)
    return np.stack([rows[left[ok]], rows[which.ravel()[ok]]], axis=1)


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
