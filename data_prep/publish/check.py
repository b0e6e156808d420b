"""Whether a written clip shows what was scored: every frame of it is held against what the pass over its source saw.

The pass decoded the source from its start, in order, and kept a signature and a time of each frame. Nothing of how a
clip was cut, by seeking or by counting, enters here, and the source is not opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.publish.cutting import VideoForm
from data_prep.sources.reading import open_media
from stages.core.measures.signature import LUMA, U8
from stages.core.media import BadMedia
from stages.core.step import Rejected

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
CLEARLY = 2.0
"""How many times nearer to its neighbours a clip must be than to its own frames to be theirs."""
SLIGHT = 0.75
"""Grey levels: what differs by less does not tell frames apart."""


@dataclass(frozen=True)
class Seen:
    """What the pass saw of a clip: signatures [n, 864], when each frame is shown in seconds from the first, and how
    long the clip is; the signatures of the frame before and the one behind, where there are such. full: whether values
    are of full range."""

    signatures: U8
    seconds: F64
    length_s: float
    before: U8 | None = None
    behind: U8 | None = None
    full: bool = False


@dataclass(frozen=True)
class Written:
    """The same of a written clip, read from its file."""

    signatures: U8
    seconds: F64
    full: bool = False


def read_written(path: Path) -> Written:
    """Decode a written clip. Raises BadMedia where it has no frames, and where they are no whole pictures of one
    size."""
    from data_prep.signals.frames import signature_of

    seconds, found, full = [], [], False
    with open_media(path) as container:
        if not container.streams.video:
            raise BadMedia("the written clip has no frames")
        stream = container.streams.video[0]
        size = None
        for frame in container.decode(stream):
            size = size or (frame.width, frame.height)
            if frame.interlaced_frame or size != (frame.width, frame.height):
                raise BadMedia("the written clip's frames are interlaced, or of several sizes")
            seconds.append(float(frame.pts * frame.time_base))
            signature, full = signature_of(frame, stream)
            found.append(signature)
    if not found:
        raise BadMedia("the written clip has no frames")
    return Written(np.stack(found), np.array(seconds), full)


def luma(signatures: U8, full: bool) -> F32:
    """The luma cells of signatures [n, 864] on the scale of limited range: float32 [n, 576]."""
    cells = signatures[..., :LUMA].astype(np.float32)
    return cells * (219 / 255) + 16 if full else cells


def distance(a: F32, b: F32) -> F64:
    """Root mean square difference of frames [n, 576], in grey levels: [n]."""
    return np.asarray(np.sqrt(np.square(a - b).mean(-1)), np.float64)


def check_written(written: Written, seen: Seen, form: VideoForm, most: float) -> dict[str, float]:
    """The differences of the first and last frame, and the largest. Raises BadMedia where it is not what was seen.

    most: grey levels that a frame may differ by. Raises Rejected where it has fewer frames than the form wants.
    """
    n = len(written.seconds)
    if form.frames and n < form.frames:
        raise Rejected("n_frames", n, ">=", form.frames)
    if not form.fps and n != (form.frames or len(seen.seconds)):
        raise BadMedia(f"the written clip has {n} frames, its span {form.frames or len(seen.seconds)}")
    gaps = _at_rate(written, seen, form) if form.fps else _one_to_one(written, seen)
    worst = int(np.argmax(gaps))
    if gaps[worst] > most:
        raise BadMedia(
            f"frame {worst} of the written clip differs from the source's by {gaps[worst]:.1f} grey levels; "
            f"cut.difference allows {most:g}"
        )
    return {
        "first_difference": float(gaps[0]),
        "last_difference": float(gaps[-1]),
        "largest_difference": float(gaps[worst]),
    }


def _one_to_one(written: Written, seen: Seen) -> F64:
    n = len(written.seconds)
    late = np.abs(written.seconds - written.seconds[0] - seen.seconds[:n])
    if late.max() > _slack(seen.seconds):
        at = int(np.argmax(late))
        raise BadMedia(f"frame {at} of the written clip is shown {late[at]:.3f} s off its time")
    mine, theirs = luma(written.signatures, written.full), luma(seen.signatures, seen.full)
    gaps = distance(mine, theirs[:n])
    edges = [None if edge is None else luma(edge, seen.full) for edge in (seen.before, seen.behind)]
    for name, rows, others in (
        ("before", *_before(theirs, edges[0], n)),
        ("behind", *_behind(theirs, edges[1], n)),
    ):
        own = gaps[rows]
        if len(own) and own.mean() > SLIGHT and distance(mine[rows], others).mean() * CLEARLY < own.mean():
            raise BadMedia(f"the written clip shows the frames one {name} those of its span")
    return gaps


def _before(theirs: F32, edge: F32 | None, n: int) -> tuple[slice, F32]:
    """Which of n frames have one before them in the source, and those."""
    if edge is None:
        return slice(1, n), theirs[: n - 1]
    return slice(0, n), np.concatenate([edge, theirs[: n - 1]])


def _behind(theirs: F32, edge: F32 | None, n: int) -> tuple[slice, F32]:
    """Which of n frames have one behind them in the source, and those."""
    rest = theirs[1 : n + 1]
    if len(rest) < n and edge is not None:
        rest = np.concatenate([rest, edge])
    return slice(0, len(rest)), rest


def _slack(seconds: F64) -> float:
    steps = np.diff(seconds)
    return float(np.median(steps)) / 2 if len(steps) else 1.0


def _at_rate(written: Written, seen: Seen, form: VideoForm) -> F64:
    """Each frame against what shows at its time in the source: which of the neighbours a change of rate picks is
    rounding."""
    last, slack = float(seen.seconds[-1]), 1.5 / form.fps + _slack(seen.seconds)
    end = written.seconds[-1] - written.seconds[0]
    # The last frame is shown until the span ends, so it may come once more; what comes too early was cut off.
    if not form.frames and not last - slack <= end <= max(last + slack, seen.length_s + 1 / form.fps):
        raise BadMedia(f"the written clip's last frame comes after {end:.3f} s, its span's after {last:.3f} s")
    times = written.seconds - written.seconds[0]
    at = np.clip(np.searchsorted(seen.seconds, times + 1e-6, "right") - 1, 0, len(seen.seconds) - 1)
    near = [np.clip(at + k, 0, len(seen.seconds) - 1) for k in (-1, 0, 1)]
    mine, theirs = luma(written.signatures, written.full), luma(seen.signatures, seen.full)
    return np.asarray(np.min([distance(mine, theirs[i]) for i in near], axis=0))
