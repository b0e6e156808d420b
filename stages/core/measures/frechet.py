"""The Fréchet distance between two sets of feature vectors, each taken as a Gaussian."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def frechet_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of features [N, D] and [M, D] (Dowson and Landau, 1982).

    0 for equal sets. The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which
    is symmetric, so that covariances without full rank need no correction. Raises ValueError for fewer than 2 rows.
    """
    if len(one) < 2 or len(other) < 2 or one.shape[1:] != other.shape[1:]:
        raise ValueError(f"two sets of at least 2 vectors are needed, not {list(one.shape)} and {list(other.shape)}")
    (mean_one, spread_one), (mean_other, spread_other) = _gaussian(one), _gaussian(other)
    root = _root(spread_one)
    values = np.linalg.eigvalsh(root @ spread_other @ root)
    cross = np.sqrt(np.clip(values, 0, None)).sum()
    offset = mean_one - mean_other
    return float(max(0.0, offset @ offset + np.trace(spread_one) + np.trace(spread_other) - 2 * cross))


def _gaussian(features: NDArray[np.floating]) -> tuple[Floats, Floats]:
    wide = features.astype(np.float64)
    return wide.mean(axis=0), np.atleast_2d(np.cov(wide, rowvar=False))


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    found: Floats = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return found
