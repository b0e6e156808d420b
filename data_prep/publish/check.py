"""Whether a written clip shows what was scored: every frame of it is held against what the pass over its source saw.

The pass decoded the source from its start, in order, and kept a signature and a time of each frame. Nothing of how a clip was cut, by
seeking or by counting, enters here, and the source is not opened.
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

F64 = npt.NDArray[np.float64]
CLEARLY = 2.0
"""How many times nearer to its neighbours a clip must be than to its own frames to be theirs."""
SLIGHT = 0.75
"""Grey levels: what differs by less does not tell frames apart."""


@dataclass(frozen=True)
class Seen:
    """What the pass saw of a clip: signatures [n, 864], when each frame is shown in seconds from the first, and how
    long the clip is. `around` has the signatures of the frame before and the one behind where there are such."""

    signatures: U8
    seconds: F64
    length_s: float
    before: U8 | None = None
    behind: U8 | None = None


@dataclass(frozen=True)
class Written:
    """The same of a written clip, read from its file."""

    signatures: U8
    seconds: F64


def read_written(path: Path) -> Written:
    """Decode a written clip. Raises BadMedia where it has no frames, and where they are no whole pictures of one size."""
    from data_prep.signals.frames import signature_of

    seconds, found = [], []
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
            found.append(signature_of(frame, stream))
    if not found:
        raise BadMedia("the written clip has no frames")
    return Written(np.stack(found), np.array(seconds))


def distance(a: U8, b: U8) -> F64:
    """Root mean square difference of the luma cells of frames [n, 864] and [n, 864], in grey levels: [n]."""
    gaps = a[..., :LUMA].astype(np.float32) - b[..., :LUMA].astype(np.float32)
    return np.asarray(np.sqrt((gaps * gaps).mean(-1)), np.float64)


def check_written(written: Written, seen: Seen, form: VideoForm, most: float) -> dict[str, float]:
    """The differences of the first and last frame, and the largest. Raises BadMedia where a written clip is not what was seen.

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
        raise BadMedia(f"frame {worst} of the written clip differs from the source's by {gaps[worst]:.1f} levels")
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
    gaps = distance(written.signatures, seen.signatures[:n])
    for name, others in (("before", _shifted(seen, -1, n)), ("behind", _shifted(seen, 1, n))):
        mine, theirs = gaps[others[0]], distance(written.signatures[others[0]], others[1])
        if len(mine) and mine.mean() > SLIGHT and theirs.mean() * CLEARLY < mine.mean():
            raise BadMedia(f"the written clip shows the frames one {name} those of its span")
    return gaps


def _slack(seconds: F64) -> float:
    steps = np.diff(seconds)
    return float(np.median(steps)) / 2 if len(steps) else 1.0


def _shifted(seen: Seen, by: int, n: int) -> tuple[slice, U8]:
    """The frames of a clip that have a neighbour in the source, and those neighbours."""
    if by < 0:
        parts = [seen.before, seen.signatures[: n - 1]]
        rows = slice(0 if seen.before is not None else 1, n)
    else:
        rest = seen.signatures[1 : n + 1]
        parts = [rest, seen.behind if len(rest) < n else None]
        rows = slice(0, n if len(rest) == n or seen.behind is not None else n - 1)
    return rows, np.concatenate([np.atleast_2d(p) for p in parts if p is not None])


def _at_rate(written: Written, seen: Seen, form: VideoForm) -> F64:
    """Each frame against what shows at its time in the source: which of the neighbours a change of rate picks is rounding."""
    last, slack = float(seen.seconds[-1]), 1.5 / form.fps + _slack(seen.seconds)
    if not form.frames and abs(written.seconds[-1] - written.seconds[0] - last) > slack:
        raise BadMedia(
            f"the written clip's last frame comes after {written.seconds[-1]:.3f} s, its span's after {last:.3f} s"
        )
    times = written.seconds - written.seconds[0]
    at = np.clip(np.searchsorted(seen.seconds, times + 1e-6, "right") - 1, 0, len(seen.seconds) - 1)
    near = [np.clip(at + k, 0, len(seen.seconds) - 1) for k in (-1, 0, 1)]
    return np.asarray(np.min([distance(written.signatures, seen.signatures[i]) for i in near], axis=0))

