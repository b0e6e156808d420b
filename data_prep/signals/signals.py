"""One pass over a source: everything that is measured on its frames, decoded once, small, in presentation order.

    signals = decode_signals("clip.mp4")
    signals.table      one row a frame, see FRAMES
    signals.thumbnails small JPEG pictures

Each frame is scaled to 256 pixels on its longer side as luma and chroma planes (never as full RGB); cheap signals are
taken of every frame, optical flow and what needs detail at stated rates. Memory does not grow with the source: rows go
to a temporary file that the table is mapped from.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
from av.stream import Disposition

from data_prep.signals.frames import FRAMES, FrameMeter, Rates, Thumbnail
from data_prep.sources.counting import presented
from data_prep.sources.display import deinterlaced
from data_prep.sources.reading import knows_breaks, open_media
from stages.core.measures.bars import Bars, lasting
from stages.core.reach.containers import LIMITS

__all__ = ["FRAMES", "Rates", "SignalConfig", "Signals", "Thumbnail", "decode_signals"]

_BATCH = 1024
_REORDERED = 16  # frames by which times may go back without being another beginning
_HELD = 8  # the most frames that are held back until a later time comes
BREAK_S = 10.0
"""In formats that know breaks, times that jump forward by more than this start anew, as in FFmpeg's own tools."""
DECODER = {**LIMITS, "skip_loop_filter": "bidir"}
"""Bidirectional frames are not deblocked: no other kind of frame refers to them, at 256 pixels it does not show, and it
saves a tenth of the decoding. What needs detail is measured on the other frames."""


@dataclass(frozen=True, kw_only=True)
class SignalConfig:
    """What the pass looks at, and how closely.

    rates       how often the costly signals are taken, in Hz
    thumbnails  the most pictures that are kept; beyond it every second one goes and their spacing doubles
    max_errors  the number of broken packets after which the pass ends with what it has
    """

    rates: Rates = field(default_factory=Rates)
    thumbnails: int = 64
    max_errors: int = 100


@dataclass(frozen=True)
class Signals:
    """What one pass found.

    table          one row a frame (columns of FRAMES); frames count from 0 in presentation order
    thumbnails     JPEG pictures with their frame numbers and pts
    bars           black bars that stay throughout, or None where all is black
    width, height  of the picture as displayed, before scaling: rotated, and with square pixels
    time_base      seconds per unit of pts
    truncated      whether the pass ended before the source did: too many broken packets, or the time limit
    decode_error   why, or the first broken packet's error where the pass went on; None for a sound source
    broken         how many packets could not be decoded
    """

    table: pa.Table
    thumbnails: tuple[Thumbnail, ...]
    bars: Bars | None
    width: int
    height: int
    time_base: Fraction
    truncated: bool = False
    decode_error: str | None = None
    broken: int = 0


def decode_signals(
    source: Any,
    config: SignalConfig | None = None,
    *,
    stream_index: int | None = None,
    time_limit_s: float = 0.0,
    spool: str | None = None,
) -> Signals:
    """Decode the main video stream of a source once, sequentially, on one thread, and measure its frames.

    source is a path, or an open PyAV container. stream_index names the stream; without it, it is the
    first that is marked default, else the first that is no cover art. time_limit_s ends the pass early (0: no limit).
    spool is the folder of the temporary file. Raises PermanentError where the source cannot be opened and
    ValueError where it has no video or not one frame could be decoded.
    """
    config = config or SignalConfig()
    with nullcontext(source) if hasattr(source, "demux") else open_media(Path(source)) as container:
        return _Pass(container, _stream(container, stream_index), config, time_limit_s).run(spool)


def _stream(container: Any, index: int | None) -> Any:
    if index is not None:
        return container.streams[index]
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        raise ValueError("the source has no video stream")
    return next((s for s in videos if s.disposition & Disposition.default), videos[0])


@dataclass(frozen=True)
class Timed:
    """A frame with its time in ticks, what its container said (None: nothing), and how many times the times of its
    source had jumped before it."""

    frame: Any
    pts: int
    said: int | None
    epoch: int


class Clock:
    """Strictly increasing times for frames in presentation order, whatever their container says of them.

    A frame that comes with a later time than the one before keeps it. Frames that share a time, or go back by a little,
    are spread evenly up to the next one that rises, so they are held back until then. A jump back by far, and in
    formats
    that know breaks (`breaks`: MPEG streams) one forward too, is footage joined end to end: it goes on where it was.
    Where more pts
    than dts go backwards, dts count, as in FFmpeg's own guess; where nothing is said the stream's frame rate decides.
    """

    def __init__(self, stream: Any, breaks: bool = False) -> None:
        rate = stream.guessed_rate or stream.average_rate or 25
        self._stated = max(1, round(1 / (rate * stream.time_base)))
        self._far = round(BREAK_S / stream.time_base) if breaks else None
        self._gaps: deque[int] = deque(maxlen=31)
        self._last: int | None = None
        self._before: list[int | None] = [None, None]
        self._faults, self._offset, self._epoch = [0, 0], 0, 0
        self._held: list[tuple[Any, int | None]] = []

    def put(self, frame: Any, pts: int | None, dts: int | None) -> list[Timed]:
        """The next frame and what its container says of it. Returns the frames whose times are known now, in order."""
        said = self._said(pts, dts)
        if self._last is None:
            return [self._timed(frame, 0 if said is None else said, pts)]
        if said is None:
            return [*self.flush(), self._timed(frame, self._last + self._step(), pts)]
        now = said + self._offset
        if now > self._last and (self._far is None or now <= self._last + self._far):
            return [*self._spread(now), self._timed(frame, now, pts, good=True)]
        if now <= self._last - _REORDERED * self._step() or now > self._last:
            ready = self.flush()
            self._offset += self._last + self._step() - now
            self._epoch += 1
            return [*ready, self._timed(frame, self._last + self._step(), pts)]
        self._held.append((frame, pts))
        return self.flush() if len(self._held) >= _HELD else []

    def flush(self) -> list[Timed]:
        """The frames that are held back, by the usual step."""
        held, self._held = self._held, []
        return [self._timed(frame, (self._last or 0) + self._step(), pts) for frame, pts in held]

    def _spread(self, now: int) -> list[Timed]:
        """The frames that are held back, evenly between the last one and `now`."""
        held, self._held, last = self._held, [], self._last or 0
        parts = len(held) + 1
        return [self._timed(f, last + (now - last) * i // parts, pts) for i, (f, pts) in enumerate(held, 1)]

    def _timed(self, frame: Any, now: int, pts: int | None, good: bool = False) -> Timed:
        if self._last is not None:
            now = max(now, self._last + 1)
            if good:
                self._gaps.append(now - self._last)
        self._last = now
        return Timed(frame, now, pts, self._epoch)

    def _step(self) -> int:
        """The usual step between frames: the median of the last ones, else what the stream states."""
        return sorted(self._gaps)[len(self._gaps) // 2] if self._gaps else self._stated

    def _said(self, pts: int | None, dts: int | None) -> int | None:
        for i, value in enumerate((pts, dts)):
            before = self._before[i]
            self._faults[i] += value is not None and before is not None and value <= before
            self._before[i] = before if value is None else value
        if pts is None or (dts is not None and self._faults[0] > self._faults[1]):
            return dts
        return pts


class _Pass:
    def __init__(self, container: Any, stream: Any, config: SignalConfig, time_limit_s: float) -> None:
        self.container, self.stream, self.config = container, stream, config
        self.limit_s, self.started = time_limit_s, time.monotonic()
        self.broken, self.truncated = 0, False
        self.error: str | None = None

    def run(self, spool: str | None) -> Signals:
        cv2.setNumThreads(1)
        with tempfile.NamedTemporaryFile(prefix="rushes-signals-", dir=spool) as file:
            meter: FrameMeter | None = None
            with pa.OSFile(file.name, "wb") as sink, pa.ipc.new_file(sink, FRAMES) as writer:
                for frame, timed in deinterlaced(self._timed()):
                    if meter is None:
                        meter = FrameMeter(frame, self.stream, self.config.rates, self.config.thumbnails)
                    meter.measure(frame, timed.pts, timed.said, timed.epoch)
                    if meter.pending >= _BATCH:
                        writer.write_batch(meter.flush())
                if meter is not None and meter.pending:
                    writer.write_batch(meter.flush())
            if meter is None:
                raise ValueError(self.error or "no frame of the source could be decoded")
            table = pa.ipc.open_file(pa.memory_map(file.name)).read_all()
        return Signals(
            table,
            tuple(meter.thumbnails),
            lasting(meter.bars),
            *meter.display,
            Fraction(self.stream.time_base),
            self.truncated,
            self.error,
            self.broken,
        )

    def _timed(self) -> Iterator[tuple[Any, Timed]]:
        """Frames with strictly increasing integer pts."""
        clock = Clock(self.stream, knows_breaks(self.container))
        for frame in self._frames():
            for timed in clock.put(frame, frame.pts, frame.dts):
                yield timed.frame, timed
        for timed in clock.flush():
            yield timed.frame, timed

    def _frames(self) -> Iterator[Any]:
        context = self.stream.codec_context
        context.thread_count, self.stream.thread_type = 1, "NONE"
        if not context.is_open:
            context.options = DECODER
        return presented(self.container, self.stream, self._tolerates, self._overdue)

    def _overdue(self) -> bool:
        """Looked at before every packet, also those that give no frame."""
        if over := bool(self.limit_s) and time.monotonic() - self.started > self.limit_s:
            self._end(f"the time limit of {self.limit_s:g} s was reached")
        return over

    def _tolerates(self, error: Exception) -> bool:
        self.broken += 1
        self.error = self.error or f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
        if self.broken > self.config.max_errors:
            self._end(f"more than {self.config.max_errors} broken packets; the first: {self.error}")
            return False
        return True

    def _end(self, why: str) -> None:
        self.truncated, self.error = True, why
