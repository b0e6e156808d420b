"""Frames that stand still where the clip moves: frozen stretches, and doubled frames between moving ones."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Held = npt.NDArray[np.bool_]

_TOP = 0.02
"""The share of pixels that change most, of which the mean counts: what moves may be small."""
_STILL, _SHARE = 1.5, 0.25
_STILL_LEAP, _SHARE_LEAP, _LEAP = 3.5, 0.4, 1.15
_MOVES = 0.5
"""Grey levels from which on something moves; it must do so by twice as much for a pair to be held among its like."""
_REACH, _SHARE_NEAR, _SHARE_ALL = 8, 0.3, 0.3
"""Pairs to either side that are looked at, and the share of them, else of all, that must move."""
_ALONE = 3
"""A pair that changes while the three to either side do not is a key frame of the encoder, and no motion."""
_DOUBLED = 2
"""Pairs of frames in a row that may be the same and still be doubled frames; more are a frozen stretch."""


def change(before: F32, after: F32) -> float:
    """How much the fiftieth of the pixels that change most does, in grey levels: two luma pictures [h, w], 0-255."""
    off = np.abs(after - before).ravel()
    count = max(1, round(_TOP * off.size))
    return float(np.partition(off, off.size - count)[-count:].mean())


def held_pairs(changes: F64) -> Held:
    """Which of the pairs of neighbouring frames, with their `change` [n], are the same frame once more: bool [n].

    Such a pair changes by less than 1.5 grey levels, as encoders leave it, and by less than a quarter of what is usual
    among the pairs around it that move. Less than 3.5 and two fifths will do where what moves leaps thereafter. Where
    too few of these pairs move, the whole clip says what is usual. Where too few of all do, nothing is held: the clip
    stands still, and what moves now and then are the encoder's key frames.
    """
    held, overall = np.zeros(len(changes), bool), _usual(changes, _SHARE_ALL)
    for i, value in enumerate(changes):
        usual = _usual(changes[max(0, i - _REACH) : i + _REACH + 1], _SHARE_NEAR) or overall
        if usual >= 2 * _MOVES:
            still, share = (_STILL_LEAP, _SHARE_LEAP) if _leaps(changes, i) else (_STILL, _SHARE)
            held[i] = value < still and value < share * usual
    return held


def _leaps(changes: F64, i: int) -> bool:
    """Whether what moves leaps after pair i, to where it would be: it changes by more than before."""
    return 0 < i < len(changes) - 1 and bool(changes[i + 1] >= _LEAP * changes[i - 1] > _LEAP * changes[i])


def _usual(changes: F64, share: float) -> float:
    """The median of the changes that move; 0 where fewer than this share of them do."""
    moves = changes > _MOVES
    near = np.convolve(moves, np.ones(2 * _ALONE + 1), "same") if len(moves) > 2 * _ALONE else np.full(len(moves), 2)
    moving = changes[moves & (near > 1)]
    return float(np.median(moving)) if len(moving) >= max(1.0, share * len(changes)) else 0.0


def frozen_share(held: Held) -> float:
    """The share of pairs [n] in stretches of three held ones and more, 0-1."""
    return sum(n for n in _runs(held) if n > _DOUBLED) / max(1, len(held))


def doubled_share(held: Held) -> float:
    """The share of pairs [n] that are held by themselves, one or two in a row between moving ones, 0-1: stutter."""
    return sum(n for n in _runs(held) if n <= _DOUBLED) / max(1, len(held))


def _runs(held: Held) -> list[int]:
    return [len(list(run)) for value, run in groupby(held.tolist()) if value]
