"""Clips from the transitions of a source. Nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.core.measures.shots.detector import Shots


@dataclass(frozen=True, kw_only=True)
class SpanConfig:
    """Lengths in seconds.

    min_s   shorter shots make no clip
    max_s   longer ones are split into equal parts (0: never)
    trim_s  cut off at each transition, beyond the transition's own frames
    """

    min_s: float = 1.0
    max_s: float = 20.0
    trim_s: float = 0.0


@dataclass(frozen=True)
class Span:
    """Frames [start_frame, end_frame) of a source, and the same in pts.

    boundary_in and boundary_out are cut, dissolve, fade, wipe, split (a long shot was divided) or edge (of the source).
    """

    start_frame: int
    end_frame: int
    start_pts: int
    end_pts: int
    boundary_in: str
    boundary_out: str

    @property
    def n_frames(self) -> int:
        """How many frames the span holds."""
        return self.end_frame - self.start_frame


def clip_spans(shots: Shots, table: pa.Table, config: SpanConfig | None = None) -> list[Span]:
    """The clips between the transitions of a source, from its signal table (columns pts and time_s).

    A clip holds no frame of a transition: it runs from the first frame wholly of its shot up to the first mixed one of
    the next. Leading and trailing fades are left off.
    """
    config = config or SpanConfig()
    times = np.asarray(table.column("time_s"), np.float64)
    ends = _ends(times)
    found: list[Span] = []
    for first, last, before, after in _shots(shots):
        start = first if before == "edge" else int(np.searchsorted(times, times[first] + config.trim_s - 1e-9))
        stop = last if after == "edge" else int(np.searchsorted(ends, ends[last - 1] - config.trim_s + 1e-9, "right"))
        found += _parts(start, min(stop, last), before, after, times, ends, table, config)
    return found


def _shots(shots: Shots) -> list[tuple[int, int, str, str]]:
    """Each shot as (first frame, end frame, kind of boundary before, after)."""
    out, first, before = [], shots.first, "edge"
    for t in shots.transitions:
        out.append((first, max(first, t.first_frame), before, t.kind))
        first, before = t.last_frame, t.kind
    out.append((first, shots.end, before, "edge"))
    return [s for s in out if s[1] > s[0]]


def spans_between(shots: Shots) -> list[tuple[int, int]]:
    """Each shot as frames [first, end), without the frames of transitions."""
    return [(first, end) for first, end, _, _ in _shots(shots)]


def _ends(times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """When each frame ends: at the next one's start; the last lasts as long as the one before."""
    steps = np.diff(times)
    return np.append(times[1:], times[-1] + (steps[-1] if len(steps) else 0.04))


def _parts(
    start: int,
    stop: int,
    before: str,
    after: str,
    times: npt.NDArray[np.float64],
    ends: npt.NDArray[np.float64],
    table: pa.Table,
    config: SpanConfig,
) -> list[Span]:
    if stop <= start:
        return []
    length = float(ends[stop - 1] - times[start])
    count = max(1, int(np.ceil(length / config.max_s - 1e-6))) if config.max_s else 1
    count = min(count, stop - start)  # years may lie between two frames
    aims = times[start] + length * np.arange(1, count) / count
    inner = np.searchsorted(times, aims - 1e-9)
    edges = np.unique(np.concatenate([[start], np.clip(inner, start, stop), [stop]])).tolist()
    pts = table.column("pts")
    out = []
    for i, (a, b) in enumerate(pairwise(edges)):
        if b > a and ends[b - 1] - times[a] >= config.min_s - 1e-6:
            kinds = (before if i == 0 else "split", after if b == stop else "split")
            out.append(Span(a, b, pts[a].as_py(), _end_pts(pts, b), *kinds))
    return out


def _end_pts(pts: pa.ChunkedArray, end: int) -> int:
    if end < len(pts):
        return int(pts[end].as_py())
    last = int(pts[end - 1].as_py())
    return last + (last - int(pts[end - 2].as_py()) if end > 1 else 1)
