"""Fades through black or white in a stretch of signatures, and the cuts beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.measures.mixing import F32, fit_ramp, unlikeness
from stages.core.measures.registration import motion_over_mixture
from stages.core.measures.shots.gradual import Gradual, GradualRules
from stages.core.measures.signature import LUMA, U8, pictures

Cells = npt.NDArray[np.bool_]
_BLACK, _WHITE = 16.0, 235.0  # luma of black and white in limited range
_MOTION = 1.5  # how much worse than a mixture motion must explain a fade; blurred pans reach 1.3, fades begin at 2.5
_EVEN = 0.15  # by how much less than the rest a fade may have dimmed its strongest part; pans begin at 0.29
_TRACE = 0.7  # grey levels by which a frame differs from a plain one


@dataclass
class Fades:
    """What the plain frames of a stretch mean: fades, cuts beside them, and the picture proper [first, end)."""

    fades: list[Gradual]
    cuts: dict[int, float]
    first: int
    end: int


def find_fades(signatures: U8, cells: Cells, cuts: list[int], fps: float, rules: GradualRules) -> Fades:
    """Look at both sides of each run of plain black or white frames: a ramp makes a fade, a step makes a cut."""
    n, shape = len(signatures), pictures(signatures[:1], cells, [0]).shape[1:]
    luma = signatures[:, :LUMA][:, cells[:LUMA]].astype(np.float32)
    found = Fades([], {}, 0, n)
    reach = int(rules.max_s * fps) + 4
    for start, stop in flat_runs(luma, fps, rules):
        plain = np.median(luma[start:stop], axis=0)
        low = max([c for c in cuts if c <= start], default=0)
        high = min([c for c in cuts if c >= stop], default=n)
        left = ramp_length(luma[max(low, start - reach) : start + 1][::-1], plain, shape)
        right = ramp_length(luma[stop - 1 : min(high, stop - 1 + reach)], plain, shape)
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


def ramp_length(luma: F32, floor: F32, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """How a picture comes up from `floor` over frames luma [n, d]: (last frame at the floor, first at full strength).

    `shape` is that of a picture, rows and columns.

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
    return None if _is_motion(luma[low : high + 1].reshape(-1, *shape)) else (low, high)


def _is_motion(ramp: F32) -> bool:
    """Whether motion explains the middle of a ramp [n, rows, columns] nearly as well as a mixture of its ends.

    A blurred pan over a bright wall looks like a fade to white. What moves out of sight keeps its contrast until it is
    gone; where a picture fades, its strongest part does so with the rest.
    """
    if len(ramp) < 4:
        return False
    change = np.abs(ramp - ramp[0])
    height, peak = change.mean((1, 2)), change.max((1, 2))
    middle = int(np.clip(np.argmin(np.abs(height - height[-1] / 2)), 1, len(ramp) - 2))
    share = float(height[middle] / max(float(height[-1]), 1e-3))
    if peak[middle] < (share + _EVEN) * peak[-1]:
        return False
    return motion_over_mixture(ramp[0], ramp[middle], ramp[-1], share) < _MOTION


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
