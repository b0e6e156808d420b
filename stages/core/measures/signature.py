"""A frame's signature: a very small picture, kept for every frame so that cuts are found without decoding again.

A signature is 864 bytes: luma averaged over a grid of 18 x 32 cells (rows x columns), then the two chroma planes
over 9 x 16 cells each, all 0-255, in display orientation.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

ROWS, COLUMNS = 18, 32
LUMA, CHROMA = ROWS * COLUMNS, (ROWS // 2) * (COLUMNS // 2)
SIZE = LUMA + 2 * CHROMA
_PLANES = ((0, LUMA, ROWS, COLUMNS), (LUMA, LUMA + CHROMA, 9, 16), (LUMA + CHROMA, SIZE, 9, 16))
_BAR_LUMA, _BAR_SPREAD, _BAR_SHARE, _MIN_ACTIVE = 30.0, 3.0, 0.7, 0.1


def signature(y: U8, u: U8, v: U8) -> U8:
    """The signature of one frame: uint8 [864], from its luma [h, w] and chroma planes (any size), values 0-255."""
    luma = cv2.resize(y, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)
    small = [cv2.resize(c, (COLUMNS // 2, ROWS // 2), interpolation=cv2.INTER_AREA) for c in (u, v)]
    return np.concatenate([luma.ravel(), small[0].ravel(), small[1].ravel()])


def picture_cells(signatures: U8) -> npt.NDArray[np.bool_]:
    """Which of the 864 cells hold picture rather than black bars: bool [864], from a sample of signatures [n, 864].

    A row or column is a bar where most of its cells stay dark and still throughout; a logo in the bar goes with it.
    Where nearly nothing would be left, everything counts as picture.
    """
    luma = signatures[:, :LUMA].astype(np.float32)
    dark = (luma.mean(0) < _BAR_LUMA) & (luma.std(0) < _BAR_SPREAD)
    bar = dark.reshape(ROWS, COLUMNS)
    keep = ~((bar.mean(1) > _BAR_SHARE)[:, None] | (bar.mean(0) > _BAR_SHARE)[None, :])
    if keep.mean() < _MIN_ACTIVE:
        keep = np.ones_like(keep)
    small = keep.reshape(ROWS // 2, 2, COLUMNS // 2, 2).any(axis=(1, 3))
    return np.concatenate([keep.ravel(), small.ravel(), small.ravel()])


def pictures(signatures: U8, cells: npt.NDArray[np.bool_], at: Sequence[int]) -> F32:
    """The luma of frames `at` without bars: float32 [len(at), rows, columns]."""
    grid = cells[:LUMA].reshape(ROWS, COLUMNS)
    box = np.ix_(np.arange(len(at)), np.flatnonzero(grid.any(1)), np.flatnonzero(grid.any(0)))
    return np.asarray(signatures[list(at), :LUMA].reshape(-1, ROWS, COLUMNS)[box], np.float32)


def cells_within(top: float, bottom: float, left: float, right: float) -> npt.NDArray[np.bool_]:
    """Which of the 864 cells lie wholly within bars of these shares of the height and width: bool [864]."""
    found = []
    for _, _, rows, columns in _PLANES:
        y, x = np.arange(rows), np.arange(columns)
        keep = (y >= top * rows - 1e-6) & (y + 1 <= (1 - bottom) * rows + 1e-6)
        across = (x >= left * columns - 1e-6) & (x + 1 <= (1 - right) * columns + 1e-6)
        found.append((keep[:, None] & across[None, :]).ravel())
    cells = np.concatenate(found)
    return cells if cells.mean() >= _MIN_ACTIVE else np.ones_like(cells)


def relit(signatures: U8, cells: npt.NDArray[np.bool_]) -> U8:
    """The signatures [n, 864] with the mean luma of the picture cells brought to 128: exposure does not count."""
    keep = cells[:LUMA]
    shift = 128.0 - signatures[:, :LUMA][:, keep].astype(np.float32).mean(1, keepdims=True)
    out = signatures.copy()
    out[:, :LUMA] = np.clip(np.rint(signatures[:, :LUMA] + shift), 0, 255).astype(np.uint8)
    return out


def plane_weights(cells: npt.NDArray[np.bool_]) -> F32:
    """float32 [864]: weights under which a dot product is mean luma plus mean of each chroma over the picture cells."""
    weights = np.zeros(SIZE, np.float32)
    for start, end, _, _ in _PLANES:
        weights[start:end] = cells[start:end] / max(1, int(cells[start:end].sum()))
    return weights


def _spread(planes: U8, pick: np.ufunc) -> U8:
    """The largest (or smallest) value among each cell and its eight neighbours; planes is [n, rows, columns]."""
    out = planes.copy()
    pick(out[:, 1:], planes[:, :-1], out=out[:, 1:])
    pick(out[:, :-1], planes[:, 1:], out=out[:, :-1])
    rows = out.copy()
    pick(out[:, :, 1:], rows[:, :, :-1], out=out[:, :, 1:])
    pick(out[:, :, :-1], rows[:, :, 1:], out=out[:, :, :-1])
    return out


def envelopes(signatures: U8) -> tuple[U8, U8]:
    """The lowest and highest value in the 3 x 3 neighbourhood of each cell: two uint8 [n, 864]."""
    low, high = np.empty_like(signatures), np.empty_like(signatures)
    for start, end, rows, columns in _PLANES:
        planes = signatures[:, start:end].reshape(-1, rows, columns)
        low[:, start:end] = _spread(planes, np.minimum).reshape(len(planes), -1)
        high[:, start:end] = _spread(planes, np.maximum).reshape(len(planes), -1)
    return low, high


class Novelty:
    """How unlike two frames of a sequence are when small motion is forgiven, in grey levels.

    What moved by less than a cell (3 % of the picture) costs nothing, what is new costs its difference: a frame is held
    against the envelope (least and greatest value near each cell) of the other, and the other way round.
    """

    def __init__(self, signatures: U8, weights: F32) -> None:
        self._signatures, self._weights = signatures, weights
        self._low, self._high = envelopes(signatures)

    def __len__(self) -> int:
        return len(self._signatures)

    def __call__(self, a: npt.NDArray[np.intp], b: npt.NDArray[np.intp]) -> F32:
        """The distance of frame a[i] and frame b[i]: float32 [n]."""
        if not len(a):
            return np.zeros(0, np.float32)
        return np.maximum(self._outside(a, b), self._outside(b, a))

    def _outside(self, a: npt.NDArray[np.intp], b: npt.NDArray[np.intp]) -> F32:
        above = cv2.subtract(self._signatures[b], self._high[a])
        below = cv2.subtract(self._low[a], self._signatures[b])
        return np.asarray(cv2.max(above, below).astype(np.float32) @ self._weights)


def cut_distance(distance: Novelty, span: int, floor: float = 2.0) -> F32:
    """The cut signal: float32 [n], in grey levels; entry t tells how unlike frames t, t+1, ... are to t-1, t-2, ...

    It is the smallest motion-tolerant distance between a frame before t and a frame from t on that are at most
    `span` frames apart. So a flash shorter than `span` frames, after which the old picture comes back, scores low, and
    a new picture scores high at exactly its first frame. Where neighbours differ by less than `floor` the distance
    of those neighbours stands, which is an upper bound.
    """
    n = len(distance)
    best = np.zeros(n, np.float32)
    if n < 2:
        return best
    index = np.arange(1, n)
    best[1:] = distance(index - 1, index)
    for before in range(1, span + 1):
        for after in range(span + 1 - before):
            at = np.flatnonzero(best >= floor)
            at = at[(at >= before) & (at + after < n)]
            if len(at) and (before, after) != (1, 0):
                best[at] = np.minimum(best[at], distance(at - before, at + after))
    return best
