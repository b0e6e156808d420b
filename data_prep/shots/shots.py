"""Where one shot ends and the next begins: transitions from the signal table alone, without decoding.

    shots = find_shots(signals.table, PRESETS["broadcast"])

The detector itself is `stages.core.measures.shots.detector`; here it goes over a source of any length.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from data_prep.signals.store import signatures_of
from stages.core.measures.shots.detector import ShotConfig, Shots, Transition, cut_signals, find_in
from stages.core.measures.signature import picture_cells

_CORE = 6000  # frames looked at in one go, so that memory does not grow with the source
_SAMPLE = 400


def frame_rate(table: pa.Table) -> float:
    """Frames per second from the median spacing of the frames' times; 25 where there is only one frame."""
    steps = np.diff(np.asarray(table.column("time_s")))
    steps = steps[steps > 0]
    return float(np.clip(1.0 / np.median(steps), 1.0, 1000.0)) if len(steps) else 25.0


def find_shots(table: pa.Table, config: ShotConfig | None = None) -> Shots:
    """All transitions of a source, from its signal table (`time_s`, `signature`; see `data_prep.signals.signals`).

    Long sources are looked at in overlapping parts, so the working memory is bounded.
    """
    config = config or ShotConfig()
    n, fps = len(table), frame_rate(table)
    if n < 2:
        return Shots((), 0, n)
    sample = [signatures_of(table, i, i + 1) for i in np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(int))]
    cells = picture_cells(np.concatenate(sample))
    margin = int(2 * config.gradual.max_s * fps) + 20
    transitions: list[Transition] = []
    first, end = 0, n
    for core in range(0, n, _CORE):
        start, stop = max(0, core - margin), min(n, core + _CORE + margin)
        part = find_in(signatures_of(table, start, stop), cells, fps, config)
        shifted = [
            replace(t, first_frame=t.first_frame + start, last_frame=t.last_frame + start) for t in part.transitions
        ]
        transitions += [t for t in shifted if core <= t.first_frame < core + _CORE]
        first = part.first if start == 0 else first
        end = part.end + start if stop == n else end
    return Shots(tuple(sorted(transitions, key=lambda t: (t.first_frame, t.last_frame))), first, end)


def cut_signal(table: pa.Table, config: ShotConfig | None = None) -> np.ndarray:
    """How much each frame of a source differs from those before it, in grey levels: float32 [n]. This is what
    `cut_floor` and `cut_ratio` are held against."""
    config = config or ShotConfig()
    n, fps = len(table), frame_rate(table)
    if n < 2:
        return np.zeros(n, np.float32)
    sample = [signatures_of(table, i, i + 1) for i in np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(int))]
    cells = picture_cells(np.concatenate(sample))
    margin, found = int(2 * config.gradual.max_s * fps) + 20, []
    for core in range(0, n, _CORE):
        start = max(0, core - margin)
        signatures = signatures_of(table, start, min(n, core + _CORE + margin))
        found.append(cut_signals(signatures, cells, fps, config)[1][core - start :][:_CORE])
    return np.concatenate(found).astype(np.float32)
