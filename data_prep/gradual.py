"""Gradual transitions in a stretch of signatures: fades through black or white, dissolves and wipes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.core.measures.mixing import F32, Mixture, fit_ramp, mixture, spread_of, unlikeness
from stages.core.measures.signature import CHROMA, COLUMNS, LUMA, ROWS, U8

Cells = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class GradualRules:
    """Thresholds of gradual transitions; residuals are relative to the difference of the two shots.

    residual  the most that a dissolve may leave unexplained when both shots are unrelated (less when they are alike)
    switched  the most that a wipe may leave unexplained
    unlike    how unrelated both sides must be (1 - correlation of their luma)
    drift     the largest rms deviation of the mixture's course from a straight line
    flat      spread of luma, in grey levels, below which a frame counts as plain black or white
    max_s     the longest transition looked for
    """

    residual: float = 0.5
    switched: float = 0.25
    unlike: float = 0.5
    drift: float = 0.14
    strength: float = 10.0
    evenness: float = 0.3
    flat: float = 3.5
    max_s: float = 3.0


@dataclass(frozen=True)
class Gradual:
    """First mixed frame, first frame wholly of the new shot, and the strength of evidence (0.5 at the threshold)."""

    first_frame: int
    last_frame: int
    score: float


# ---------------------------------------------------------------- fades


def find_fades(signatures: U8, cells: Cells, cuts: list[int], fps: float, rules: GradualRules) -> tuple[
        list[Gradual], int, int]:
    """Fades in signatures [n, 864], and the picture proper [first, end) without leading and trailing black or white."""
    n = len(signatures)
    luma = signatures[:, :LUMA][:, cells[:LUMA]].astype(np.float32)
    fades: list[Gradual] = []
    first, end = 0, n
    for start, stop in flat_runs(luma, fps, rules):
        floor = luma[start:stop].mean(0)
        low = max([c for c in cuts if c <= start], default=0)
        high = min([c for c in cuts if c >= stop], default=n)
        reach = int(rules.max_s * fps) + 4
        left = ramp_length(luma[max(low, start - reach) : start + 1][::-1], floor)
        right = ramp_length(luma[stop - 1 : min(high, stop - 1 + reach)], floor)
        if start == 0:
            first = max(first, stop - 1 + (right[1] if right else 1))
        elif stop == n:
            end = min(end, start - (left[1] if left else 1) + 1)
        elif left and right:
            if not _is_flash(luma, start - left[1], stop - 1 + right[1], fps):
                fades.append(Gradual(start - left[1] + 1, stop - 1 + right[1], 0.9))
        elif left:
            fades.append(Gradual(start - left[1] + 1, start, 0.8))
        elif right and not _is_flash(luma, start - 1, stop - 1 + right[1], fps):
            fades.append(Gradual(stop - 1 + right[0] + 1, stop - 1 + right[1], 0.8))
    return fades, first, max(first, end)


def flat_runs(luma: F32, fps: float, rules: GradualRules) -> list[tuple[int, int]]:
    """Half-open runs of frames that are plain black or white, or nearly so beside what surrounds them."""
    n, reach = len(luma), max(3, round(0.75 * fps))
    level, spread = luma.mean(1), luma.std(1)
    padded = np.pad(spread, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach + 1)
    around = np.minimum(windows[:n].max(1), windows[reach : reach + n].max(1))
    flat = (spread < np.maximum(rules.flat, 0.12 * around)) & ((level < 45) | (level > 205))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


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
    rise = float(np.median(part[round(high) :])) - float(part[0])
    middle = round(low + 0.6 * (high - low))
    alike = unlikeness(luma[middle : middle + 1], luma[round(high) : round(high) + 1])[0] < 0.6
    if high - low < 2.5 or rise < 8 or error > 0.15 * rise or not alike:
        return None
    return round(low), round(high)


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


def _is_flash(luma: F32, before: int, after: int, fps: float) -> bool:
    before, after = max(0, before), min(len(luma) - 1, after)
    same = unlikeness(luma[before : before + 1], luma[after : after + 1])[0] < 0.3
    return bool(same and after - before < 0.6 * fps)


# ---------------------------------------------------------------- dissolves and wipes


def pool(signatures: U8, cells: Cells) -> tuple[F32, int]:
    """Signatures at half size, picture cells only: float32 [n, d] with luma first, and how many columns are luma."""
    n = len(signatures)
    luma = signatures[:, :LUMA].reshape(n, ROWS // 2, 2, COLUMNS // 2, 2).astype(np.float32).mean(axis=(2, 4))
    keep = cells[LUMA : LUMA + CHROMA]
    chroma = [signatures[:, i : i + CHROMA][:, keep].astype(np.float32) for i in (LUMA, LUMA + CHROMA)]
    return np.concatenate([luma.reshape(n, -1)[:, keep], *chroma], axis=1), int(keep.sum())


def find_mixtures(signatures: U8, cells: Cells, taken: list[tuple[int, int]], bounds: tuple[int, int], fps: float,
                  rules: GradualRules) -> Iterator[tuple[str, Gradual]]:
    """Dissolves and wipes between the transitions that are `taken` already, as (kind, frames)."""
    pooled, luma = pool(signatures, cells)
    start = bounds[0]
    for first, last in [*taken, (bounds[1], bounds[1])]:
        stretch = pooled[start : max(start, first)]
        for kind, mix in mixtures_in(stretch, luma, fps, rules):
            yield kind, Gradual(mix.first_frame + start, mix.last_frame + start, mix.score)
        start = max(start, last)


def mixtures_in(frames: F32, luma: int, fps: float, rules: GradualRules) -> list[tuple[str, Gradual]]:
    """Dissolves and wipes within one stretch of pooled frames [n, d] that holds no other transition."""
    found: list[tuple[str, Gradual]] = []
    for _, start, length in candidates(frames, luma, fps, rules):
        if any(start < g.last_frame + 1 and start + length > g.first_frame - 2 for _, g in found):
            continue
        for wipe in (False, True):
            fitted = refine(frames, luma, start, length, wipe, rules)
            if fitted and not any(fitted.first_frame <= g.last_frame and fitted.last_frame >= g.first_frame
                                  for _, g in found):
                found.append(("wipe" if wipe else "dissolve", fitted))
                break
    return found


def candidates(frames: F32, luma: int, fps: float, rules: GradualRules) -> list[tuple[float, int, int]]:
    """Windows (badness, last frame of A, length) in which either model might hold, the best first."""
    found: list[tuple[float, int, int]] = []
    length = 3.0
    while length <= min(rules.max_s * fps, len(frames) - 1):
        found += _scan(frames, luma, round(length), rules)
        length = max(length + 1, length * 1.3)
    return sorted(found)


def _scan(frames: F32, luma: int, length: int, rules: GradualRules) -> list[tuple[float, int, int]]:
    at = np.arange(0, len(frames) - length, max(1, length // 8))
    step = frames[at + length] - frames[at]
    power = (step * step).sum(1)
    at, step, power = _where(power / frames.shape[1] > rules.strength**2, at, step, power)
    unlike = unlikeness(frames[at][:, :luma], frames[at + length][:, :luma])
    at, step, power, unlike = _where(unlike > 0.8 * rules.unlike, at, step, power, unlike)
    worst_mix = np.zeros(len(at))
    worst_switch, drift = worst_mix.copy(), worst_mix.copy()
    for q in (0.25, 0.5, 0.75):
        offset = min(length - 1, max(1, round(length * q)))
        moved = frames[at + offset] - frames[at]
        alpha = (moved * step).sum(1) / power
        rest = moved - alpha[:, None] * step
        worst_mix = np.maximum(worst_mix, np.sqrt((rest * rest).sum(1) / power))
        switched = np.minimum(moved**2, (moved - step) ** 2).sum(1) / power
        worst_switch = np.maximum(worst_switch, np.sqrt(switched))
        drift = np.maximum(drift, np.abs(alpha - offset / length))
    badness = np.minimum(worst_mix / (rules.residual * np.minimum(1, unlike)), worst_switch / rules.switched) + drift
    good = np.flatnonzero((badness < 1.6) & (drift < 0.35))
    return [(float(badness[i]), int(at[i]), length) for i in good]


def _where(mask: npt.NDArray[np.bool_], *columns: np.ndarray) -> list[np.ndarray]:
    return [c[mask] for c in columns]


def refine(frames: F32, luma: int, start: int, length: int, wipe: bool, rules: GradualRules) -> Gradual | None:
    """The exact span of one candidate, or None where the model does not hold on it after all."""
    first, last = float(start), float(start + length)
    for _ in range(2):
        a, b = max(0, int(np.floor(first))), min(len(frames) - 1, int(np.ceil(last)))
        margin = max(3, (b - a) // 2)
        left, right = max(0, a - margin), min(len(frames), b + margin + 1)
        course = mixture(frames[a], frames[b], frames[left:right]).alpha
        low, high, _ = fit_ramp(np.clip(course, -0.5, 1.5))
        first, last = left + low, left + high
    return judge(frames, luma, round(first), round(last), wipe, rules)


def judge(frames: F32, luma: int, a: int, b: int, wipe: bool, rules: GradualRules) -> Gradual | None:
    """Hold the frames between a and b to the model's rules."""
    if b - a < 3:
        return None
    mix = mixture(frames[a], frames[b], frames[a + 1 : b])
    unlike = float(unlikeness(frames[a : a + 1, :luma], frames[b : b + 1, :luma])[0])
    drift = float(np.sqrt(np.mean((mix.alpha - np.arange(1, b - a) / (b - a)) ** 2)))
    error = _model_error(mix, wipe, unlike, rules)
    even = spread_of(frames[a], frames[b])
    if error > 1 or unlike < rules.unlike or mix.strength < rules.strength or even < rules.evenness:
        return None
    if drift > rules.drift * (1.4 if wipe else 1.0):
        return None
    return Gradual(a + 1, b, round(1.0 / (1.0 + error), 4))


def _model_error(mix: Mixture, wipe: bool, unlike: float, rules: GradualRules) -> float:
    """How much of what the model may leave unexplained it does leave: 1 is the limit."""
    if wipe:
        return float(np.sqrt(np.mean(mix.switched**2))) / rules.switched
    return float(np.sqrt(np.mean(mix.residual**2))) / (rules.residual * min(1.0, unlike))
