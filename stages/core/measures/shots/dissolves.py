"""Dissolves and wipes in a stretch of signatures: frames that mix the two shots on either side."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stages.core.measures.mixing import (
    F32,
    fit_ramp,
    mixture,
    progress,
    spread_of,
    switched_share,
    unlikeness,
)
from stages.core.measures.registration import kept_share, motion_likeness, motion_over_mixture
from stages.core.measures.shots.gradual import Gradual, GradualRules
from stages.core.measures.signature import CHROMA, COLUMNS, LUMA, ROWS, U8, Novelty, pictures, plane_weights, relit

Cells = npt.NDArray[np.bool_]
_WIPE_LED = 1.5  # the most that what a wipe leaves unexplained and how well motion leads may come to
_IDENTICAL = 0.42  # the most of the picture that stayed the same in a labelled transition was 0.39
_SLOPE = 0.17  # by how much better motion may lead through a dissolve that it explains once worse
RETURN_S = 0.6
"""Seconds after which what passed in front of the camera is gone."""


class Stretch:
    """Frames between two other transitions, pooled to half size, picture cells only.

    Mixtures are fitted to the frames as they are; whether two frames differ is asked of them with exposure evened out.
    """

    def __init__(self, signatures: U8, cells: Cells) -> None:
        keep = cells[LUMA : LUMA + CHROMA]
        self.frames = pooled(signatures, keep)
        self.luma = self.frames[:, : int(keep.sum())]
        even = relit(signatures, cells)
        self.relit = pooled(even, keep)
        grid = cells[:LUMA].reshape(ROWS, COLUMNS)
        self._box = np.ix_(np.flatnonzero(grid.any(1)), np.flatnonzero(grid.any(0)))
        self._luma = even[:, :LUMA].reshape(-1, ROWS, COLUMNS)
        self.planes, self.cells, self._small = signatures, cells, keep.reshape(ROWS // 2, COLUMNS // 2)
        self.novelty = Novelty(even, plane_weights(cells))
        self._known: dict[tuple[int, int, str], tuple[float, float]] = {}

    def picture(self, frame: int) -> F32:
        """One frame's luma without bars, exposure evened out: float32 [rows, columns]."""
        return np.asarray(self._luma[frame][self._box], np.float32)

    def motion(self, a: int, b: int, kind: str) -> tuple[float, float]:
        """How well motion explains the frames from a to b: (how well it leads, how much worse it explains them).

        It leads from a to b in steps; the correlation is that of the worst one, and of a wipe that of the best way of
        taking halves, thirds or quarters. A mixture of two shots is not had by moving either. The middle of
        a dissolve is the mean of frames around it, which is not so where things move: the median, over three places,
        of how much worse than such a mean motion explains them. A wipe is no mixture, so it has 1.
        """
        if (a, b, kind) not in self._known:
            ways = (2, 3, 4) if kind == "wipe" else (2,)
            led = max(self._led(a, b, parts) for parts in ways)
            places = () if kind == "wipe" else (0.3, 0.5, 0.7)
            worse = float(np.median([self._worse(a, b, share) for share in places])) if places else 1.0
            self._known[a, b, kind] = led, worse
        return self._known[a, b, kind]

    def is_motion(self, a: int, b: int, kind: str, error: float, rules: GradualRules) -> bool:
        """Whether motion explains the frames from a to b better than a transition that leaves this error does.

        The error is relative to what is allowed. The better motion leads, the less may be left.
        """
        led, worse = self.motion(a, b, kind)
        if kind == "wipe":
            return led > rules.wipe_moved or error + led > _WIPE_LED
        return error > worse or led > rules.moved + _SLOPE * (worse - 0.5)

    def _worse(self, a: int, b: int, share: float) -> float:
        near, middle = max(1, round((b - a) / 4)), round(a + share * (b - a))
        first, last = max(0, middle - near), min(len(self.planes) - 1, middle + near)
        one, two, three = pictures(self.planes, self.cells, [first, middle, last])
        return motion_over_mixture(one, two, three, (middle - first) / (last - first))

    def _led(self, a: int, b: int, parts: int) -> float:
        """How well motion leads from a to b in so many steps: the worst of them."""
        steps = pairwise(np.unique(np.rint(np.linspace(a, b, parts + 1)).astype(int)))
        return min(motion_likeness(*pictures(self.planes, self.cells, step))[0] for step in steps)

    def returns(self, a: int, b: int, fps: float) -> bool:
        """Whether the picture of frame a is back soon after b: something passed in front of the camera."""
        later = range(b + 1, min(len(self.planes), b + 2 + round(RETURN_S * fps)))
        if not len(later):
            return False
        now, *then = pictures(self.planes, self.cells, [a, *later]).reshape(1 + len(later), -1)
        return bool(unlikeness(np.stack([now] * len(then)), np.stack(then)).min() < 0.15)

    def front(self, a: int, b: int) -> float:
        """How ragged the border is between what has switched from a to b and what has not, on average over a..b.

        The share of neighbouring cells that disagree: 0.03 for a straight edge, 0.3 for moving things.
        """
        ends, between = self._stack(np.array([a, b])), self._stack(np.arange(a + 1, b))
        change = np.abs(ends[1] - ends[0]).sum(0)
        telling = (change >= 0.5 * change[self._small].mean()) & self._small
        new = np.abs(between - ends[1]).sum(1) < np.abs(between - ends[0]).sum(1)
        ragged = pairs = 0
        for axis in (0, 1):
            both = telling & np.roll(telling, 1, axis)
            both[(0, slice(None)) if axis == 0 else (slice(None), 0)] = False  # the first has none before it
            ragged += int((new != np.roll(new, 1, axis + 1))[:, both].sum())
            pairs += int(both.sum()) * len(new)
        return ragged / max(1, pairs)

    def _stack(self, at: npt.NDArray[np.intp]) -> F32:
        return pooled(self.planes[at], np.ones(CHROMA, bool)).reshape(len(at), 3, ROWS // 2, COLUMNS // 2)

    def unchanged(self, a: int, b: int) -> float:
        """The share of the picture that is the same in frames a and b, exposure evened out."""
        return float((np.abs(self.picture(a) - self.picture(b)) < 5).mean())

    def identical(self, a: int, b: int) -> float:
        """The share of the picture that is the same in frames a and b as they are.

        Where much of a picture is black, evening out its exposure changes what has not changed.
        """
        before, after = pictures(self.planes, self.cells, [a, b])
        return float((np.abs(before - after) < 5).mean())


def pooled(signatures: U8, keep: Cells) -> F32:
    """Signatures [n, 864] with luma at half size, the cells of `keep` [144] only: float32 [n, 3 x kept cells]."""
    n = len(signatures)
    luma = signatures[:, :LUMA].reshape(n, ROWS // 2, 2, COLUMNS // 2, 2).astype(np.float32).mean(axis=(2, 4))
    chroma = [signatures[:, i : i + CHROMA][:, keep].astype(np.float32) for i in (LUMA, LUMA + CHROMA)]
    return np.concatenate([luma.reshape(n, -1)[:, keep], *chroma], axis=1)


def find_mixtures(
    signatures: U8, cells: Cells, taken: list[tuple[int, int]], bounds: tuple[int, int], fps: float, rules: GradualRules
) -> Iterator[tuple[str, Gradual]]:
    """Dissolves and wipes between the transitions that are `taken` already, as (kind, frames)."""
    start = bounds[0]
    for first, last in [*taken, (bounds[1], bounds[1])]:
        if first - start > 4:
            for kind, mix in mixtures_in(Stretch(signatures[start:first], cells), fps, rules):
                yield kind, Gradual(mix.first_frame + start, mix.last_frame + start, mix.score)
        start = max(start, last)


def mixtures_in(stretch: Stretch, fps: float, rules: GradualRules) -> list[tuple[str, Gradual]]:
    """Dissolves and wipes within one stretch that holds no other transition, the surest first."""
    found: list[tuple[str, Gradual]] = []

    def overlaps(first: int, last: int) -> bool:
        return any(first <= g.last_frame and last >= g.first_frame - 1 for _, g in found)

    for start, length in candidates(stretch, fps, rules):
        if overlaps(start, start + length):
            continue
        fits = [(kind, refine(stretch, start, length, kind, fps, rules)) for kind in ("dissolve", "wipe")]
        for kind, fit in sorted([(k, f) for k, f in fits if f], key=lambda x: -x[1].score)[:1]:
            if not overlaps(fit.first_frame, fit.last_frame):
                found.append((kind, fit))
    return found


def candidates(stretch: Stretch, fps: float, rules: GradualRules) -> list[tuple[int, int]]:
    """Windows (last frame of A, length) in which either model might hold, the best of their neighbourhood first."""
    found: list[tuple[float, int, int]] = []
    length = 3.0
    while length <= min(rules.max_s * fps, len(stretch.frames) - 1):
        found += _scan(stretch, round(length), rules)
        length = max(length + 1, length * 1.3)
    best: list[tuple[int, int]] = []
    for _, start, size in sorted(found):
        middle = start + size / 2
        if not any(abs(s + k / 2 - middle) < max(k, size) / 3 and 0.5 < k / size < 2 for s, k in best):
            best.append((start, size))
    return best


def _scan(stretch: Stretch, length: int, rules: GradualRules) -> list[tuple[float, int, int]]:
    frames = stretch.frames
    at = np.arange(0, len(frames) - length, max(1, length // 8))
    step = frames[at + length] - frames[at]
    power = np.einsum("ij,ij->i", step, step)
    keep = power / frames.shape[1] > rules.strength**2
    at, step, power = at[keep], step[keep], power[keep]
    novelty = stretch.novelty(at, at + length)
    keep = novelty > 0.7 * rules.novelty
    at, step, power, novelty = at[keep], step[keep], power[keep], novelty[keep]
    trust = np.minimum(1.0, novelty / rules.full_novelty)
    mixed, switched, drift = np.zeros((3, len(at)))
    for q in (0.25, 0.5, 0.75):
        offset = min(length - 1, max(1, round(length * q)))
        moved = frames[at + offset] - frames[at]
        alpha = np.einsum("ij,ij->i", moved, step) / power
        rest, other = moved - alpha[:, None] * step, moved - step
        mixed = np.maximum(mixed, np.sqrt(np.einsum("ij,ij->i", rest, rest) / power))
        switched = np.maximum(switched, np.sqrt(np.minimum(moved * moved, other * other).sum(1) / power))
        drift = np.maximum(drift, np.abs(alpha - offset / length))
    badness = np.minimum(mixed / rules.residual, switched / rules.switched) / np.maximum(trust, 1e-3) + drift
    good = np.flatnonzero((badness < 1.8) & (drift < 0.35))
    # Part of a transition fits as well as the whole, but the whole brings more that is new.
    rank = badness - 0.5 * np.log(np.maximum(novelty, 1.0))
    return [(float(rank[i]), int(at[i]), length) for i in good]


def refine(stretch: Stretch, start: int, length: int, kind: str, fps: float, rules: GradualRules) -> Gradual | None:
    """The exact span of one candidate, or None where the model does not hold on it after all."""
    frames = stretch.frames
    first, last = start, start + length
    for _ in range(5):
        margin, before = max(3, (last - first) // 2), (first, last)
        left, right = max(0, first - margin), min(len(frames), last + margin + 1)
        # Within a wipe, cells that have switched already say nothing: its anchors must lie outside it.
        a, b = (left, right - 1) if kind == "wipe" else (first, last)
        course = _course(frames, a, b, slice(left, right), kind)
        low, high, _ = fit_ramp(np.clip(course, -1.0, 2.0))
        first, last = left + low, left + high
        if (first, last) == before:
            break
    fit = judge(stretch, first, last, kind, fps, rules)
    if fit is None and kind == "wipe":  # over moving shots, anchors far outside mislead
        fit = judge(stretch, start, start + length, kind, fps, rules)
    return fit


def _rms(values: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _course(frames: F32, a: int, b: int, at: slice, kind: str) -> npt.NDArray[np.float64]:
    """How far frames `at` have got from frame a to frame b: 0 to 1 in between."""
    if kind == "wipe":
        return switched_share(frames[a], frames[b], frames[at])
    return progress(frames[a], frames[b], frames[at])


def judge(stretch: Stretch, a: int, b: int, kind: str, fps: float, rules: GradualRules) -> Gradual | None:
    """Hold the frames between a and b to the rules of a dissolve or a wipe."""
    if not 3 <= b - a <= rules.max_s * fps:
        return None
    frames, luma = stretch.frames, stretch.luma
    mix = mixture(frames[a], frames[b], frames[a + 1 : b])
    novelty = float(stretch.novelty(np.array([a]), np.array([b]))[0])
    unlike = float(unlikeness(luma[a : a + 1], luma[b : b + 1])[0])
    course = _course(frames, a, b, slice(a + 1, b), kind)
    drift = float(np.sqrt(np.mean((course - np.arange(1, b - a) / (b - a)) ** 2)))
    trust = min(1.0, novelty / rules.full_novelty)
    trust *= min(1.0, spread_of(stretch.relit[a], stretch.relit[b]) / rules.evenness)
    trust *= min(1.0, 0.55 + 2.0 * (b - a) / fps)  # the shorter it is, the less the shots have moved meanwhile
    if kind == "wipe":
        clean = np.clip(rules.front / max(stretch.front(a, b), 1e-3), 1.0, 1.6)  # a clean border is evidence too
        error = _rms(mix.switched) / (rules.switched * trust * clean)
    else:
        error = _rms(mix.residual) / (rules.residual * trust)
    if novelty < rules.novelty or unlike < rules.unlike or mix.strength < rules.strength:
        return None
    if error > 1 or drift > rules.drift or stretch.unchanged(a, b) > rules.unchanged:
        return None
    if stretch.identical(a, b) > _IDENTICAL:
        return None
    if kept_share(*pictures(stretch.planes, stretch.cells, [a, b])) > rules.unchanged or stretch.is_motion(
        a, b, kind, error, rules
    ):
        return None
    if kind == "wipe" and stretch.returns(a, b, fps):
        return None
    return Gradual(a + 1, b, round(float(1.0 / (1.0 + error)), 4))
