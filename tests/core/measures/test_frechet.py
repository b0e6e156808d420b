"""The Fréchet distance against what is known of Gaussians, and against the matrix root of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from stages.core.measures.frechet import frechet_distance


def test_equal_sets_are_at_distance_nought_in_any_order():
    features = np.random.default_rng(0).normal(size=(20, 50))  # fewer vectors than dimensions
    assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-6)


def test_moved_and_stretched_sets_are_as_far_as_the_formula_says():
    features = np.random.default_rng(1).normal(size=(500, 3))
    assert frechet_distance(features, features + np.array([3, 0, 4])) == pytest.approx(25)
    one, other = features[:, :1], 2 * features[:, :1]
    spread = features[:, 0].std(ddof=1)
    offset = features[:, 0].mean()
    assert frechet_distance(one, other) == pytest.approx(offset**2 + spread**2)


def test_it_agrees_with_the_matrix_root():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(100, 8)) @ rng.normal(size=(8, 8)), rng.normal(size=(80, 8)) + 0.5
    a, b = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    offset = one.mean(axis=0) - other.mean(axis=0)
    wanted = offset @ offset + np.trace(a + b - 2 * np.real(scipy.linalg.sqrtm(a @ b)))
    assert frechet_distance(one, other) == pytest.approx(wanted)
    assert frechet_distance(other, one) == pytest.approx(wanted)


def test_too_few_or_other_vectors_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="two sets"):
        frechet_distance(np.zeros((5, 2)), np.zeros((5, 3)))
