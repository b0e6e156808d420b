"""Gradual transitions as a model: between a last frame A and a first frame B, is what lies between a mixture of both?

In a dissolve every cell is the same mixture of A and B; in a wipe each cell is either A or B; camera or object motion
is neither. Frames come as float32 vectors (signatures, or pooled ones).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """How the frames between A and B follow the two models.

    alpha     [k] how far each frame has got from A (0) to B (1), by projection on B - A
    residual  [k] what a dissolve leaves unexplained, relative to the distance of A and B (0 none, 0.5 a wipe's middle)
    switched  [k] what a wipe leaves unexplained (0 none, 0.5 a dissolve's middle)
    strength  root mean square difference of A and B, in grey levels
    """

    alpha: F64
    residual: F64
    switched: F64
    strength: float


def mixture(a: F32, b: F32, between: F32) -> Mixture:
    """Fit both models to the frames `between` [k, d], given the anchors a and b [d]."""
    step = (b - a).astype(np.float64)
    power = float(step @ step) + 1e-3
    moved = between.astype(np.float64) - a
    alpha = moved @ step / power
    rest = moved - alpha[:, None] * step
    nearest = np.minimum(moved**2, (moved - step) ** 2)
    return Mixture(
        alpha,
        np.sqrt((rest**2).sum(1) / power),
        np.sqrt(nearest.sum(1) / power),
        float(np.sqrt(power / len(step))),
    )


def progress(a: F32, b: F32, between: F32) -> F64:
    """`mixture(a, b, between).alpha` by itself: how far each frame [k, d] has got from a (0) to b (1)."""
    step = (b - a).astype(np.float64)
    return np.asarray((between.astype(np.float64) @ step - a @ step) / (float(step @ step) + 1e-3))


def switched_share(a: F32, b: F32, between: F32) -> F64:
    """The share of cells nearer to b than to a, for each frame of `between` [k, d]: a wipe's course, float64 [k].

    Only cells count in which a and b differ by at least half as much as on average.
    """
    telling = np.abs(b - a) >= 0.5 * np.abs(b - a).mean()
    nearer = np.abs(between[:, telling] - b[telling]) < np.abs(between[:, telling] - a[telling])
    return np.asarray(nearer.mean(1), np.float64)


def fit_ramp(values: F64) -> tuple[int, int, float]:
    """The clamped ramp nearest to `values` [n]: (last index at the one level, first at the other, rms error).

    Both levels are fitted too. Least squares over all pairs of knots, first on a coarse grid of at most 24 x 24.
    """
    n = len(values)
    stride = max(1, n // 24)
    starts, ends = np.arange(0, n - 1, stride), np.arange(1, n, stride)
    while True:
        i, j = np.nonzero(ends[None, :] > starts[:, None])
        pairs = np.stack([starts[i], ends[j]], axis=1)
        errors = _ramp_errors(values, pairs)
        best = int(np.argmin(errors))
        low, high = int(pairs[best, 0]), int(pairs[best, 1])
        if stride == 1:
            return low, high, float(errors[best])
        near, stride = stride, max(1, stride // 4)
        starts = np.unique(np.clip(np.arange(low - near, low + near + 1, stride), 0, n - 2))
        ends = np.unique(np.clip(np.arange(high - near, high + near + 1, stride), 1, n - 1))


def _ramp_errors(values: F64, pairs: npt.NDArray[np.int_]) -> F64:
    """The rms error of the best ramp at each pair of knots [m, 2], from running sums: no ramp is drawn."""
    n, first, last = len(values), pairs[:, 0], pairs[:, 1]
    length = (last - first).astype(np.float64)
    centred = values - values.mean()
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    moments = np.concatenate([[0.0], np.cumsum(centred * np.arange(n))])
    level = (length - 1) / 2 + (n - last)
    square = (length - 1) * (2 * length - 1) / (6 * length) + (n - last)
    rising = (moments[last] - moments[first]) - first * (sums[last] - sums[first])
    product = rising / length + (sums[n] - sums[last])
    left = centred @ centred - product**2 / np.maximum(square - level**2 / n, 1e-9)
    return np.asarray(np.sqrt(np.maximum(left, 0) / n))


def unlikeness(a: F32, b: F32) -> F64:
    """1 - correlation of two sets of luma vectors [n, d], row by row: 0 same picture, 1 unrelated, up to 2.

    It does not see a change of brightness or contrast. Flat pictures count as unrelated to textured ones.
    """
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    power = ((a * a).mean(1) + 4.0) * ((b * b).mean(1) + 4.0)
    return np.asarray(1.0 - ((a * b).mean(1) + 4.0) / np.sqrt(power), np.float64)


def spread_of(a: F32, b: F32) -> float:
    """How evenly the change from a to b [d] covers the picture: 1 all cells alike, near 0 a few cells only."""
    size = np.abs(b - a)
    return float(size.mean() ** 2 / max(float((size**2).mean()), 1e-6))
