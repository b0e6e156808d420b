"""Gradual transitions in a stretch of signatures: fades through black or white, dissolves and wipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

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
    unlikeness_after_shift,
)
from stages.core.measures.signature import (
    CHROMA,
    COLUMNS,
    LUMA,
    ROWS,
    U8,
    Novelty,
    plane_weights,
    relit,
)

Cells = npt.NDArray[np.bool_]
_BLACK, _WHITE = 16.0, 235.0  # luma of black and white in limited range
_TRACE = 0.7  # grey levels by which a frame differs from a plain one


@dataclass(frozen=True, kw_only=True)
class GradualRules:
    """Thresholds of gradual transitions; residuals are relative to the difference of the two shots.

    residual      the most that a dissolve may leave unexplained, where the shots differ by `full_novelty` or more
    switched      the most that a wipe may leave unexplained, likewise
    front         how ragged a border (share of neighbouring cells that disagree) speaks neither for nor against a wipe
    novelty       the least difference of the two shots, small motion forgiven, in grey levels
    full_novelty  the difference from which on the residuals are allowed in full; below it proportionally less
    unlike        how unrelated the luma of both sides must be (1 - correlation)
    unchanged     the largest share of the picture that may be the same on both sides
    strength      the least root mean square difference of both sides, in grey levels
    evenness      how evenly the change must cover the picture for full trust (0 a few cells, 1 all alike)
    drift         the largest rms deviation of the mixture's course from a straight line
    flat          spread of luma, in grey levels, below which a frame counts as plain black or white
    max_s         the longest transition looked for, in seconds
    """

    residual: float = 0.4
    switched: float = 0.25
    front: float = 0.12
    novelty: float = 8.0
    full_novelty: float = 25.0
    unlike: float = 0.33
    unchanged: float = 0.3
    strength: float = 10.0
    evenness: float = 0.35
    drift: float = 0.14
    flat: float = 2.5
    max_s: float = 4.0


@dataclass(frozen=True)
class Gradual:
    """First mixed frame, first frame wholly of the new shot, and the strength of evidence (0.5 at the threshold)."""

    first_frame: int
    last_frame: int
    score: float


# ---------------------------------------------------------------- fades


@dataclass
class Fades:
    """What the plain frames of a stretch mean: fades, cuts beside them, and the picture proper [first, end)."""

    fades: list[Gradual]
    cuts: dict[int, float]
    first: int
    end: int


def find_fades(signatures: U8, cells: Cells, cuts: list[int], fps: float, rules: GradualRules) -> Fades:
    """Look at both sides of each run of plain black or white frames: a ramp makes a fade, a step makes a cut."""
    n = len(signatures)
    luma = signatures[:, :LUMA][:, cells[:LUMA]].astype(np.float32)
    found = Fades([], {}, 0, n)
    reach = int(rules.max_s * fps) + 4
    for start, stop in flat_runs(luma, fps, rules):
        plain = np.median(luma[start:stop], axis=0)
        low = max([c for c in cuts if c <= start], default=0)
        high = min([c for c in cuts if c >= stop], default=n)
        left = ramp_length(luma[max(low, start - reach) : start + 1][::-1], plain)
        right = ramp_length(luma[stop - 1 : min(high, stop - 1 + reach)], plain)
        at_end = start == 0 or stop == n
        if stop - start == n or (at_end and not (left or right) and np.median(luma[start:stop].std(1)) > _TRACE):
            continue  # a dark shot
        if start == 0:
            found.first = max(found.first, stop - 1 + (right[1] if right else 1))
        elif stop == n:
            found.end = min(found.end, start - (left[1] if left else 1) + 1)
        elif (left or right) and not _is_flash(luma, start, stop, left, right, fps):
            head, tail = nearly_plain(luma[start:stop], plain)
            _add_fade(found, start + head, stop - tail, left and left[1] + head, right and right[1] + tail)
    found.end = max(found.first, found.end)
    inside = [f for f in found.fades if f.first_frame > found.first and f.last_frame < found.end]
    found.fades = _without_overlap(inside)
    return found


def _add_fade(found: Fades, start: int, stop: int, left: int | None, right: int | None) -> None:
    """Beside plain frames [start, stop): two ramps make one fade, one ramp a fade and, on the other side, a cut.

    left and right say how many frames before `start`, or after the last plain one, the picture is at full strength.
    """
    first, last = start - (left or 0) + 1, stop - 1 + (right or 0)
    if left and right:
        found.fades.append(Gradual(first, last, 0.9))
    elif left:
        found.fades.append(Gradual(first, start, 0.8))
        found.cuts[stop] = 0.8
    elif right:
        found.fades.append(Gradual(stop, last, 0.8))
        found.cuts[start] = 0.8


def nearly_plain(luma: F32, plain: F32) -> tuple[int, int]:
    """How many frames at the head and at the tail of a plain run [n, d] still hold a trace of the picture."""
    trace = np.sqrt(((luma - plain) ** 2).mean(1)) > _TRACE
    if trace.all():
        return 0, 0
    return int(np.argmin(trace)), int(np.argmin(trace[::-1]))


def _without_overlap(fades: list[Gradual]) -> list[Gradual]:
    kept: list[Gradual] = []
    for fade in sorted(fades, key=lambda f: f.first_frame - f.last_frame):
        if not any(fade.first_frame < k.last_frame and fade.last_frame > k.first_frame for k in kept):
            kept.append(fade)
    return sorted(kept, key=lambda f: f.first_frame)


def flat_runs(luma: F32, fps: float, rules: GradualRules) -> list[tuple[int, int]]:
    """Half-open runs of frames that are plain black or white, or nearly so at the bottom of a dip to it."""
    reach = max(3, round(0.75 * fps))
    level, spread = luma.mean(1), luma.std(1)
    around = np.minimum(*_sides(spread, reach, np.max))
    flat = (spread < np.maximum(rules.flat, 0.12 * around)) & ((level < 45) | (level > 205))
    for depth in (level - _BLACK, _WHITE - level):  # a short fade may turn before it is quite black
        shore = np.minimum(*_sides(depth, 4, np.max))
        flat |= (depth <= np.minimum(*_sides(depth, 4, np.min))) & (depth < 0.25 * shore) & (shore > 12)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _sides(values: F32, reach: int, pick: Callable[..., npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The extreme over the `reach` frames up to each frame, and over those from it on."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, mode="edge"), reach + 1)
    n = len(values)
    return pick(windows[:n], axis=1), pick(windows[reach : reach + n], axis=1)


def ramp_length(luma: F32, floor: F32) -> tuple[int, int] | None:
    """How a picture comes up from `floor` over frames luma [n, d]: (last frame at the floor, first at full strength).

    None where it comes at once, or not at all, or where what comes is not the same picture all along.
    """
    height = np.sqrt(((luma - floor) ** 2).mean(1)).astype(np.float64)
    end = _levels_off(height)
    if end is None:
        return None
    part = height[: min(len(height), end + max(4, end // 2))]
    low, high, error = fit_ramp(part)
    rise = float(np.median(part[high:])) - float(part[0])
    middle = round(low + 0.6 * (high - low))
    alike = unlikeness(luma[middle : middle + 1], luma[high : high + 1])[0] < 0.6
    if high - low < 2.5 or rise < 8 or error > 0.15 * rise or not (alike or error < 0.06 * rise):
        return None
    return low, high


def _levels_off(height: npt.NDArray[np.float64]) -> int | None:
    """The first frame after which a rising curve rises much less than it did so far."""
    for t in range(1, len(height)):
        ahead = min(len(height) - 1, t + max(2, t // 4))
        if ahead <= t:
            return t if height[t] - height[0] > 8 else None
        so_far = (height[t] - height[0]) / t
        if height[t] - height[0] > 8 and (height[ahead] - height[t]) / (ahead - t) < 0.3 * so_far:
            return t
    return None


def _is_flash(
    luma: F32, start: int, stop: int, left: tuple[int, int] | None, right: tuple[int, int] | None, fps: float
) -> bool:
    """Whether the same picture comes back soon after the plain frames [start, stop)."""
    before = max(0, start - (left[1] if left else 1))
    after = min(len(luma) - 1, stop - 1 + (right[1] if right else 1))
    same = unlikeness(luma[before : before + 1], luma[after : after + 1])[0] < 0.3
    return bool(same and after - before < 0.6 * fps)


# ---------------------------------------------------------------- dissolves and wipes


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
        self._planes, self._small = signatures, keep.reshape(ROWS // 2, COLUMNS // 2)
        self.novelty = Novelty(even, plane_weights(cells))

    def picture(self, frame: int) -> F32:
        """One frame's luma without bars, exposure evened out: float32 [rows, columns]."""
        return np.asarray(self._luma[frame][self._box], np.float32)

    def is_pan(self, a: int, b: int) -> bool:
        """Whether moving the camera leads from frame a to the middle and on to frame b."""
        middle = self.picture((a + b) // 2)
        return all(unlikeness_after_shift(self.picture(end), middle) < 0.1 for end in (a, b))

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
        return pooled(self._planes[at], np.ones(CHROMA, bool)).reshape(len(at), 3, ROWS // 2, COLUMNS // 2)

    def unchanged(self, a: int, b: int) -> float:
        """The share of the picture that is the same in frames a and b."""
        return float((np.abs(self.picture(a) - self.picture(b)) < 5).mean())


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
    trust *= min(1.0, 0.4 + 1.5 * (b - a) / fps)  # the shorter it is, the less the shots have moved meanwhile
    if kind == "wipe":
        clean = np.clip(rules.front / max(stretch.front(a, b), 1e-3), 1.0, 1.6)  # a clean border is evidence too
        error = _rms(mix.switched) / (rules.switched * trust * clean)
    else:
        error = _rms(mix.residual) / (rules.residual * trust)
    if novelty < rules.novelty or unlike < rules.unlike or mix.strength < rules.strength:
        return None
    if error > 1 or drift > rules.drift or stretch.unchanged(a, b) > rules.unchanged or stretch.is_pan(a, b):
        return None
    return Gradual(a + 1, b, round(float(1.0 / (1.0 + error)), 4))
