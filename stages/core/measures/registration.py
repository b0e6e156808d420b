"""Whether motion leads from one small picture to another: registration by a shift, then by dense optical flow.

Pictures are luma grids of signatures, float32 [rows, columns], 0-255. What a camera or a thing that moves shows next is
mostly what it showed before, at another place; the next shot, and a mixture of two shots, cannot be had that way.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stages.core.measures.motion import optical_flow
from stages.core.measures.signature import CHROMA, COLUMNS, LUMA, ROWS, U8, pictures

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Cells = npt.NDArray[np.bool_]

_FINER = 4
"""How much finer than a signature the grid is on which flow is computed: it moves things by parts of a cell."""
_OVERLAP = 0.3
"""The least share of the picture that both pictures of a shift must show."""
_AS_GOOD = 0.01  # correlations this near to each other tell nothing apart
_NOISE = 4.0
"""Variance of the luma, in grey levels squared, below which a picture counts as flat."""
_BLACK, _WHITE = 18.0, 233.0
_DRAWN = 0.25  # the least share of a picture that must have texture
CHANGED = 6.0
"""Grey levels from which on a cell counts as changed."""


def likeness(a: F32, b: F32) -> float:
    """The correlation of two sets of cells, 1: the same but for brightness and contrast. Flat sets are alike."""
    a, b = a - a.mean(), b - b.mean()
    power = (float((a * a).mean()) + _NOISE) * (float((b * b).mean()) + _NOISE)
    return float((float((a * b).mean()) + _NOISE) / power**0.5)


def best_shifts(a: F32, b: F32) -> list[tuple[int, int]]:
    """The shifts (down, across), in whole cells, under which a looks most like b: a[y + down, x + across] is b[y, x].

    Every shift counts under which the two overlap by 0.3 of the picture; what they share is held against each other.
    The first is the best; the second, where it is another, shares most of those within 0.01 of it. Plain surfaces and
    stripes look alike under many shifts, and then a small overlap wins by chance.
    """
    size = (2 * a.shape[0], 2 * a.shape[1])  # so that nothing wraps round
    one, two = (np.stack([np.ones_like(p), p, p * p]) for p in (q.astype(np.float64) - q.mean() for q in (a, b)))
    spectra = np.fft.rfft2(one, size), np.conj(np.fft.rfft2(two, size))

    def overlap(i: int, j: int) -> F64:
        """The sum of products over what overlaps, for every shift: float64 [2 x rows, 2 x columns]."""
        return np.asarray(np.fft.irfft2(spectra[0][i] * spectra[1][j], size))

    shared = np.rint(overlap(0, 0))
    count = np.maximum(shared, 1.0)
    left, right = overlap(1, 0) / count, overlap(0, 1) / count
    power = (overlap(2, 0) / count - left**2 + _NOISE) * (overlap(0, 2) / count - right**2 + _NOISE)
    alike = (overlap(1, 1) / count - left * right + _NOISE) / np.sqrt(np.maximum(power, 1.0))
    alike[shared < _OVERLAP * a.size] = -1.0
    widest = np.where(alike >= alike.max() - _AS_GOOD, shared + alike / 2, 0.0)
    shifts = []
    for table in (alike, widest):
        down, across = (int(i) for i in np.unravel_index(int(np.argmax(table)), alike.shape))
        shifts.append((down - size[0] * (down > a.shape[0]), across - size[1] * (across > a.shape[1])))
    return list(dict.fromkeys(shifts))


def finer(picture: F32) -> F32:
    """A picture on the grid of the flow: four times as many rows and columns."""
    return np.asarray(cv2.resize(picture, None, fx=_FINER, fy=_FINER, interpolation=cv2.INTER_CUBIC))


def moved(a: F32, b: F32, shift: tuple[int, int] = (0, 0)) -> tuple[F32, Cells]:
    """What of b can be had by moving a, and which cells of it lay inside a; all on the grid of `finer`.

    The way starts from `shift`, in cells of the finer grid.
    """
    rows, columns = a.shape
    down, across = shift
    near = cv2.warpAffine(
        a, np.array([[1, 0, -across], [0, 1, -down]], np.float32), (columns, rows), borderMode=cv2.BORDER_REPLICATE
    )
    flow = optical_flow(*(np.clip(p, 0, 255).astype(np.uint8) for p in (b, near)))
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    x, y = x + flow[..., 0] + across, y + flow[..., 1] + down
    inside = (x >= -0.5) & (x <= columns - 0.5) & (y >= -0.5) & (y <= rows - 0.5)
    return np.asarray(cv2.remap(a, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)), inside


def motion_likeness(a: F32, b: F32) -> tuple[float, float]:
    """How well motion leads from a to b, and how alike they are as they stand: correlations where they differ.

    The first is 1 where nothing differs, and -1 where what differs cannot have been in sight before.
    """
    before, after = finer(a), finer(b)
    changed = np.abs(before - after) >= CHANGED
    if changed.mean() < 0.03:
        return 1.0, 1.0
    best = -1.0
    for down, across in {(0, 0), *best_shifts(a, b)}:
        predicted, inside = moved(before, after, (_FINER * down, _FINER * across))
        telling = inside & changed
        if inside.mean() >= _OVERLAP and telling.mean() >= 0.03:
            best = max(best, likeness(predicted[telling], after[telling]))
    return best, likeness(before[changed], after[changed])


def motion_over_mixture(a: F32, middle: F32, b: F32, share: float) -> float:
    """How much worse motion explains `middle` than a mixture of a and b does, of which b has this share.

    Below 1 motion is the better explanation. Both are root mean square differences with half a grey level added.
    """
    before, between, after = finer(a), finer(middle), finer(b)
    by_motion = sum(np.abs(moved(end, between)[0] - between) for end in (before, after)) / 2
    by_mixture = (1 - share) * before + share * after - between
    return float((np.sqrt((by_motion**2).mean()) + 0.5) / (np.sqrt((by_mixture**2).mean()) + 0.5))


def rank_likeness(a: F32, b: F32) -> float:
    """The rank correlation of two pictures, -1 to 1: 1 where light alone differs, whatever its curve.

    0 where too little is drawn to tell: two plain title cards are not one in another light. Cells that are black or
    white in either picture have lost their rank; they count only where nearly all are.
    """
    if drawn(a, b, CHANGED).mean() < _DRAWN:
        return 0.0
    graded = (np.minimum(a, b) > _BLACK) & (np.maximum(a, b) < _WHITE)
    if graded.mean() < 0.25:
        graded[:] = True
    one, two = (_ranks(p[graded]) for p in (a, b))
    power = float((one * one).sum() * (two * two).sum())
    return float((one * two).sum()) / power**0.5 if power else 0.0


def _ranks(values: F32) -> F64:
    """The rank of each value less the mean of ranks; equal ones share theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[places]
    return np.asarray(ranks - ranks.mean())


def light_likeness(a: U8, b: U8, cells: Cells) -> float:
    """How well coloured light explains signature b [864] from a, and a from b: the worse share of variance, up to 1.

    Light scales red, green and blue, so each plane of the one is a linear mixture of all three of the other, the same
    in every cell. `cells` [864] are those that hold picture. 0 where too little is drawn to tell.
    """
    one, two = pictures(np.stack([a, b]), cells, [0, 1])
    if drawn(one, two, CHANGED).mean() < _DRAWN:
        return 0.0
    keep = cells[LUMA : LUMA + CHROMA]
    planes = []
    for s in (a, b):
        luma = s[:LUMA].reshape(ROWS // 2, 2, COLUMNS // 2, 2).astype(np.float64).mean((1, 3)).ravel()
        planes.append(np.stack([luma, *s[LUMA:].reshape(2, -1).astype(np.float64)], 1)[keep])
    return min(_explained(planes[0], planes[1]), _explained(planes[1], planes[0]))


def _explained(planes: F64, by: F64) -> float:
    """The share of the variance of `planes` [cells, 3] that a linear mixture of `by` [cells, 3] explains."""
    known = np.column_stack([by, np.ones(len(by))])
    left = planes - known @ np.linalg.lstsq(known, planes, rcond=None)[0]
    return float(1 - (left**2).sum() / max(float(((planes - planes.mean(0)) ** 2).sum()), 1e-6))


def drawn(a: F32, b: F32, level: float) -> Cells:
    """Where either picture has texture: cells whose neighbours differ by twice `level`, in grey levels."""
    kernel = np.ones((3, 3), np.uint8)
    steep = [cv2.dilate(p, kernel) - cv2.erode(p, kernel) >= 2 * level for p in (a, b)]
    return np.asarray(steep[0] | steep[1])


def kept_share(a: F32, b: F32, level: float = CHANGED) -> float:
    """The share of what is drawn in either picture that is the same in both, 0-1: an overlay leaves most as it is.

    The same within `level`, in grey levels. 0 where too little is drawn to tell.
    """
    where = drawn(a, b, level)
    return float((np.abs(a - b) < level)[where].mean()) if where.mean() >= _DRAWN else 0.0
