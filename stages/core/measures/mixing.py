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
        pairs = np.array([(a, b) for a in starts for b in ends if b > a])
        errors = _ramp_errors(values, pairs)
        best = int(np.argmin(errors))
        low, high = int(pairs[best, 0]), int(pairs[best, 1])
        if stride == 1:
            return low, high, float(errors[best])
        near, stride = stride, max(1, stride // 4)
        starts = np.unique(np.clip(np.arange(low - near, low + near + 1, stride), 0, n - 2))
        ends = np.unique(np.clip(np.arange(high - near, high + near + 1, stride), 1, n - 1))


def _ramp_errors(values: F64, pairs: npt.NDArray[np.int_]) -> F64:
    t = np.arange(len(values), dtype=np.float64)
    ramps = np.clip((t - pairs[:, :1]) / (pairs[:, 1:] - pairs[:, :1]), 0, 1)
    ramps -= ramps.mean(1, keepdims=True)
    centred = values - values.mean()
    slope = (ramps @ centred) / np.maximum((ramps * ramps).sum(1), 1e-9)
    left = centred @ centred - slope * (ramps @ centred)
    return np.asarray(np.sqrt(np.maximum(left, 0) / len(values)))


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


def unlikeness_after_shift(a: F32, b: F32, reach: tuple[int, int] = (5, 8)) -> float:
    """The least `unlikeness` of two luma pictures [rows, columns] when one is moved over the other, by up to `reach`.

    Near 0 where a camera pan leads from one to the other.
    """
    rows, columns = a.shape
    best = 2.0
    for dy in range(-min(reach[0], rows // 3), min(reach[0], rows // 3) + 1):
        for dx in range(-min(reach[1], columns // 3), min(reach[1], columns // 3) + 1):
            one = a[max(0, dy) : rows + min(0, dy), max(0, dx) : columns + min(0, dx)]
            two = b[max(0, -dy) : rows + min(0, -dy), max(0, -dx) : columns + min(0, -dx)]
            best = min(best, float(unlikeness(one.reshape(1, -1), two.reshape(1, -1))[0]))
    return best
