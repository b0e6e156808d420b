"""Naming the motion of a tracked object: straight lines fitted to place, size and turn over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]
TRAVEL = 0.09  # short sides over the clip that count as moving
GROWTH = float(np.log(1.17))  # of the radius over the clip that counts as growing
SPIN = 22.0  # degrees over the clip that count as rotating
STILL = 0.45  # share of these below which nothing happens
LEAD = 2.0  # by which one kind of motion must outdo the others
MAX_SCATTER = 0.35  # of the whole change: root mean square distance from the line
MIN_FRAMES = 3


@dataclass(frozen=True)
class Track:
    """An object over time: seconds, centre in short sides (y down), log of the radius, degrees; nan where unknown."""

    t: Series
    x: Series
    y: Series
    log_radius: Series
    turn: Series

    def part(self, first: int, last: int) -> Track:
        """The frames first..last, both included."""
        cut = slice(first, last + 1)
        return Track(self.t[cut], self.x[cut], self.y[cut], self.log_radius[cut], self.turn[cut])


def change(t: Series, values: Series) -> tuple[float, float]:
    """The change of a fitted line over the whole time, and the root mean square distance from it; (0, 0) if unknown."""
    known = np.isfinite(values)
    if known.sum() < MIN_FRAMES:
        return 0.0, 0.0
    slope, start = np.polyfit(t[known], values[known], 1)
    scatter = np.sqrt(np.mean((values[known] - slope * t[known] - start) ** 2))
    return float(slope * (t[-1] - t[0])), float(scatter)


def name_motion(track: Track, share: float = 1.0) -> str | None:
    """The motion of a track, or None where it is mixed, unsteady, between still and moving, or seen too rarely.

    share: how much of a clip's usual change the track covers (a quarter of the frames shows a quarter of it).
    """
    if np.isfinite(track.x).mean() < 0.6 or np.isfinite(track.x).sum() < MIN_FRAMES:
        return None
    moves = _strengths(track)
    ranked = sorted(moves, key=lambda word: -moves[word][0])
    best, second = (moves[word][0] / share for word in ranked[:2])
    if best < STILL * max(1.0, 0.4 / share):
        return "staying still"
    steady = moves[ranked[0]][1] <= MAX_SCATTER
    return ranked[0] if best >= 1.0 and best >= LEAD * second and steady else None


def _strengths(track: Track) -> dict[str, tuple[float, float]]:
    """Per kind of motion how strong it is (1: clearly there) and its scatter as a share of the change."""
    (dx, sx), (dy, sy) = change(track.t, track.x), change(track.t, track.y)
    grown, sg = change(track.t, track.log_radius)
    turn, st = change(track.t, track.turn)
    return {
        "moving right" if dx > 0 else "moving left": _strength(dx, sx, TRAVEL),
        "moving down" if dy > 0 else "moving up": _strength(dy, sy, TRAVEL),
        "growing" if grown > 0 else "shrinking": _strength(grown, sg, GROWTH),
        "rotating": _strength(turn, st, SPIN),
    }


def _strength(amount: float, scatter: float, unit: float) -> tuple[float, float]:
    return abs(amount) / unit, scatter / max(abs(amount), 1e-9)
