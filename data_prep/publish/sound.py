"""The sound of a clip, on its own clock: as long as the pictures, each sample at its time, silence where there is none.

Sound is placed by what its container says of it, beside what it says of the pictures. Where footage was joined end
to end its times jump; pictures and sound of one part go together (`epoch`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.sources.reading import knows_breaks, open_media
from stages.core.media import BadMedia

Samples = npt.NDArray[np.float32]
RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
BITS_A_CHANNEL = 96_000
PREROLL_S = 1.0
"""Decoding begins this much before the first sample: codecs of sound need some packets to come right."""
JITTER_S = 0.03
"""Sound that is off its place by no more than this is taken to go on where it was: containers round times."""
BACK_S, AHEAD_S = 0.5, 10.0
"""Times of packets that jump by more than this begin another part; forward only in formats that know breaks."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the container's clock, in seconds, within one epoch, and where it lies in the clip."""

    epoch: int
    start_s: float
    end_s: float
    at_s: float


def pieces_of(
    said: Sequence[int | None], epochs: Sequence[int], times: Sequence[float], length_s: float, base: Fraction
) -> list[Piece]:
    """The stretches of the container's clock that a clip's frames cover.

    said: what the container said of each frame, in ticks of `base`; epochs: its part; times: when it is shown, in
    seconds from the clip's start; length_s: how long the clip is.
    """
    found: list[Piece] = []
    at = 0
    while at < len(times):
        stop = next((i for i in range(at + 1, len(times)) if epochs[i] != epochs[at]), len(times))
        until = times[stop] if stop < len(times) else length_s
        known = next((i for i in range(at, stop) if said[i] is not None), None)
        if known is not None:
            begin = float((said[known] or 0) * base) - (times[known] - times[at])
            found.append(Piece(int(epochs[at]), begin, begin + until - times[at], times[at]))
        at = stop
    return found


@dataclass(frozen=True)
class Sound:
    """The sound of one clip, ready to be encoded. parts: (place in the clip in seconds, samples [channels, n])."""

    rate: int
    layout: str
    channels: int
    length_s: float
    parts: Sequence[tuple[float, Samples]]

    @property
    def bit_rate(self) -> int:
        """Of the encoder, in bits a second."""
        return BITS_A_CHANNEL * self.channels

    @property
    def samples(self) -> int:
        """How many samples the clip is long."""
        return round(self.length_s * self.rate)

    def frames(self) -> Iterator[Any]:
        """Audio frames without a gap from the start of the clip to its end."""
        import av

        done = 0
        for part in self._laid_out():
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, done, Fraction(1, self.rate)
            done += part.shape[1]
            yield frame

    def _laid_out(self) -> Iterator[Samples]:
        at, jitter = 0, round(JITTER_S * self.rate)
        for place_s, part in self.parts:
            place = round(place_s * self.rate)
            if place > at + (jitter if at else 0):
                yield from self._silence(min(place, self.samples) - at)
                at = max(at, min(place, self.samples))
            fresh = part[:, at - place :] if place < at - jitter else part
            fresh = part[:, -place:] if place < 0 and not at else fresh
            fresh = fresh[:, : self.samples - at]
            if fresh.shape[1]:
                yield fresh
                at += fresh.shape[1]
        yield from self._silence(self.samples - at)

    def _silence(self, samples: int) -> Iterator[Samples]:
        for at in range(0, samples, self.rate):
            yield np.zeros((self.channels, min(self.rate, samples - at)), np.float32)


class SoundReader:
    """Reads the sound of one source, piece by piece in ascending order.

    By seeking where `seekable`: where its times do not jump. Else from the start of the file, once.
    """

    def __init__(self, path: Path, stream_index: int, seekable: bool) -> None:
        self.path, self._stream_index, self._seekable = path, stream_index, seekable
        self._open: dict[str, ExitStack] = {}
        self._frames: Iterator[tuple[int, float, Any]] = iter(())
        self._kept: deque[tuple[int, float, float, Any]] = deque()
        self._served: tuple[int, float] | None = None

    def close(self) -> None:
        """Let go of the file."""
        self._frames = iter(())
        self._kept.clear()
        for stack in self._open.values():
            stack.close()
        self._open = {}

    def _container(self, use: str) -> Any:
        """The file, opened anew for this use."""
        self._open.pop(use, ExitStack()).close()
        self._open[use] = ExitStack()
        return self._open[use].enter_context(open_media(self.path))

    def sound(self, pieces: Sequence[Piece], length_s: float) -> Sound | None:
        """The sound of a clip; None where the source has none that can be decoded."""
        with open_media(self.path) as container:
            stream = pick_audio(container)
            if stream is None:
                return None
            rate, channels = stream.codec_context.sample_rate, stream.codec_context.layout.nb_channels
        if not rate or not channels:
            return None
        rate = rate if rate in RATES else 48000
        layout = LAYOUTS.get(channels, "stereo")
        parts: list[tuple[float, Samples]] = []
        maker = _Samples(layout, rate)
        for piece in pieces:
            for start, frame in self._window(piece):
                parts += [(piece.at_s + start - piece.start_s, s) for s in maker.of(frame)]
        parts = [(p, s) for p, s in parts if p < length_s and p + s.shape[1] / rate > 0]
        return Sound(rate, layout, maker.channels, length_s, parts)

    def _window(self, piece: Piece) -> Iterator[tuple[float, Any]]:
        """(time, frame) of what sounds within a piece."""
        found = list(self._sought(piece)) if self._seekable else []
        if found and found[0][0] <= piece.start_s + JITTER_S:
            yield from found
            return
        # nothing may be there, or the demuxer has landed behind the place
        if self._served is None or self._served > (piece.epoch, piece.start_s + JITTER_S):
            self._start_over()
        yield from self._passing(piece)

    def _sought(self, piece: Piece) -> Iterator[tuple[float, Any]]:
        import av

        container = self._container("seek")
        stream = pick_audio(container)
        if stream is None:
            return
        try:
            container.seek(round((piece.start_s - PREROLL_S) / stream.time_base), stream=stream, backward=True)
            for packet in container.demux(stream):
                for frame in _frames_of(packet):
                    start = float(frame.pts * frame.time_base)
                    if start >= piece.end_s:
                        return
                    if start + frame.samples / frame.sample_rate > piece.start_s:
                        yield start, frame
        except (av.FFmpegError, OSError):
            return

    def _passing(self, piece: Piece) -> Iterator[tuple[float, Any]]:
        """From the sequence, keeping what the next piece may want too."""
        self._served = (piece.epoch, piece.end_s)
        while self._kept and self._kept[0][:1] + self._kept[0][2:3] < (piece.epoch, piece.start_s):
            self._kept.popleft()
        while not self._kept or (self._kept[-1][0], self._kept[-1][1]) < (piece.epoch, piece.end_s):
            item = next(self._frames, None)
            if item is None:
                break
            epoch, start, frame = item
            end = start + frame.samples / frame.sample_rate
            if (epoch, end) >= (piece.epoch, piece.start_s):
                self._kept.append((epoch, start, end, frame))
        for epoch, start, end, frame in self._kept:
            if epoch == piece.epoch and start < piece.end_s and end > piece.start_s:
                yield start, frame

    def _start_over(self) -> None:
        self._kept.clear()
        self._frames, self._served = self._sequence(), None

    def _sequence(self) -> Iterator[tuple[int, float, Any]]:
        """(epoch, time, frame) of all the sound. Parts are told by jumps of its own times; which it is, by where the
        pictures are then."""
        import av

        container = self._container("sequence")
        audio = pick_audio(container)
        if audio is None:
            return
        breaks = knows_breaks(container)
        pictures, sounds = _Jumps(breaks), _Jumps(breaks)
        epoch = 0
        packets = container.demux([container.streams[self._stream_index], audio])
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError):
                return
            if packet is None:
                return
            if packet.stream_index != audio.index:
                pictures.see(packet)
                continue
            if packet.size and sounds.see(packet):
                epoch = max(epoch + 1, pictures.count)
            for frame in _frames_of(packet):
                yield epoch, float(frame.pts * frame.time_base), frame


class _Jumps:
    """Counts how often the times of a stream's packets have jumped."""

    def __init__(self, breaks: bool) -> None:
        self.count, self._breaks = 0, breaks
        self._last: float | None = None

    def see(self, packet: Any) -> bool:
        """The next packet; whether its time has jumped."""
        when = packet.dts if packet.dts is not None else packet.pts
        if when is None:
            return False
        now, last = float(when * packet.time_base), self._last
        jumped = last is not None and (now < last - BACK_S or (self._breaks and now > last + AHEAD_S))
        self.count += jumped
        self._last = now
        return jumped


class _Samples:
    """Decoded frames as samples [channels, n] of one rate and layout."""

    def __init__(self, layout: str, rate: int) -> None:
        self._layout, self._rate = layout, rate
        self.channels = next(n for n, name in LAYOUTS.items() if name == layout)
        self._shape: tuple[Any, ...] = ()
        self._maker: Any = None

    def of(self, frame: Any) -> list[Samples]:
        """The samples of one frame."""
        import av

        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            self._maker = av.AudioResampler(format="fltp", layout=self._layout, rate=self._rate)
            self._shape = shape
        return [np.asarray(f.to_ndarray(), np.float32) for f in self._maker.resample(frame)]


def _frames_of(packet: Any) -> list[Any]:
    from av import FFmpegError

    try:
        return [f for f in packet.decode() if f.pts is not None and f.sample_rate]
    except (FFmpegError, OSError):
        return []


def pick_audio(container: Any) -> Any | None:
    """The sound stream that counts: the first marked default, else the first."""
    from av.stream import Disposition

    found = [s for s in container.streams.audio if s.codec_context]
    return next((s for s in found if s.disposition & Disposition.default), found[0] if found else None)


def check_sound(target: Path, length_s: float) -> None:
    """Raises BadMedia where the sound of a written clip is not as long as its pictures."""
    slack, samples, rate = 0.1, 0, 0
    with open_media(target) as container:
        stream = pick_audio(container)
        if stream is None:
            raise BadMedia("the written clip has no sound")
        for packet in container.demux(stream):
            for frame in _frames_of(packet):
                samples, rate = samples + frame.samples, frame.sample_rate
    found = samples / rate if rate else 0.0
    if abs(found - length_s) > slack:
        raise BadMedia(f"the written clip's sound lasts {found:.2f} s, its pictures {length_s:.2f} s")
