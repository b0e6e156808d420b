"""Writing one clip as an mp4: its packets copied as they are, or its frames made ready to be shown and encoded.

Which frames are a clip's is not decided here: they come by number (see `data_prep.sources.counting`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from data_prep.sources.counting import FrameIndex
from data_prep.sources.display import deinterlaced, graph_of, orientation_of, pixel_aspect
from data_prep.sources.reading import open_media
from stages.core.errors import require
from stages.core.media import BadMedia

MUX = {"movflags": "+faststart", "fflags": "+bitexact"}
BT601 = 6
"""The matrix that pictures without one (RGB) are converted by, and marked with."""


@dataclass(frozen=True, kw_only=True)
class VideoForm:
    """What every published clip is brought to; 0 leaves it as the source has it.

    fps     [from 0] frames a second; 0 keeps the source's
    size    [from 0] pixels of the shorter side, an even number; the aspect stays; 0 keeps the source's
    frames  [from 0] keep only this many frames from the start, and leave out clips that have fewer; 0 keeps all
    """

    fps: float = 0.0
    size: int = 0
    frames: int = 0

    def __post_init__(self) -> None:
        require(
            (self.fps >= 0, "publish.video.fps", self.fps, "0 or more"),
            (self.size >= 0 and self.size % 2 == 0, "publish.video.size", self.size, "an even number, 0 or more"),
            (self.frames >= 0, "publish.video.frames", self.frames, "0 or more"),
        )

    @property
    def changes(self) -> bool:
        """Whether clips are changed at all."""
        return bool(self.fps or self.size or self.frames)

    def picture(self, width: float, height: float) -> tuple[int, int]:
        """The (width, height) of a picture that is shown as so many square pixels; both even."""
        scale = self.size / min(width, height) if self.size else 1.0
        return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


@dataclass(frozen=True)
class Quality:
    """Settings of x264: crf 0 to 51, and a preset."""

    crf: int = 18
    preset: str = "medium"


# -- sound beside the pictures -----------------------------------------------------------------------------------------


class Interleaved:
    """An mp4 that is being written: video packets as they come, and those of the sound up to where the pictures are."""

    def __init__(self, out: Any, sound: Any | None) -> None:
        self._out, self._packets, self._waiting = out, iter(()), None
        if sound is not None:
            stream = out.add_stream("aac", rate=sound.rate, layout=sound.layout)
            stream.codec_context.bit_rate = sound.bit_rate
            self._packets = _encoded(stream, sound.frames())

    def mux(self, packet: Any) -> None:
        """The next video packet."""
        at = packet.dts * packet.time_base if packet.dts is not None else None
        self._out.mux(packet)
        self._sound_until(at)

    def end(self) -> None:
        """What is left of the sound."""
        self._sound_until(None, True)

    def _sound_until(self, at: Fraction | None, everything: bool = False) -> None:
        while everything or at is not None:
            packet = self._waiting or next(self._packets, None)
            if packet is None:
                return
            if not everything and at is not None and packet.pts * packet.time_base > at:
                self._waiting = packet
                return
            self._waiting = None
            self._out.mux(packet)


def _encoded(stream: Any, frames: Iterable[Any]) -> Iterator[Any]:
    for frame in frames:
        yield from stream.encode(frame)
    yield from stream.encode(None)


# -- copying -----------------------------------------------------------------------------------------------------------


def copy_packets(
    path: Path, stream_index: int, index: FrameIndex, first: int, end: int, target: Path, sound: Any | None
) -> None:
    """Copy the packets of frames [first, end) into an mp4, without decoding. The first must be a key frame whose
    time is an address."""
    import av

    start = int(index.pts[first])
    stop = int(index.pts[end]) if end < len(index.pts) else None
    with open_media(path) as source, av.open(str(target), "w", format="mp4", options=MUX) as out:
        video = source.streams[stream_index]
        codec = video.codec_context.codec
        # Where the decoder is a library of its own, no encoder has its name, and none is needed.
        copied = out.add_stream_from_template(video, opaque=codec.name != codec.canonical_name)
        both = Interleaved(out, sound)
        source.seek(start, stream=video, backward=True)
        for packet in source.demux(video):
            if packet.pts is None or packet.dts is None:
                continue
            if stop is not None and packet.dts >= stop:
                break
            if start <= packet.pts and (stop is None or packet.pts < stop):
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copied
                both.mux(packet)
        both.end()


# -- encoding ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A frame of a clip on its clock: when it is shown and for how long, in ticks."""

    at: int
    duration: int


def encode(
    frames: Iterable[tuple[Any, Shown]],
    stream: Any,
    target: Path,
    form: VideoForm,
    quality: Quality,
    sound: Any | None,
) -> None:
    """Write frames as H.264: whole, upright, with square pixels, in 8 bits of limited range, and in the common form.

    Where the size of the frames changes on the way, all are brought to that of the first. Raises BadMedia where
    there are none.
    """
    import av

    base = Fraction(stream.time_base)
    pictures = _picked(_made_ready(frames, stream, form), base, form)
    first = next(pictures, None)
    if first is None:
        raise BadMedia("there are no frames")
    base = Fraction(first.time_base)
    with av.open(str(target), "w", format="mp4", options=MUX) as out:
        # No B-frames: with them this x264 gave the same pictures other bytes in other processes.
        settings = {"crf": str(quality.crf), "preset": quality.preset, "bf": "0"}
        video = out.add_stream("libx264", rate=_rate(stream, form), options=settings)
        context = video.codec_context
        context.width, context.height, context.pix_fmt = first.width, first.height, "yuv420p"
        context.time_base, context.thread_count = base, 1
        for name in ("color_range", "color_primaries", "color_trc", "colorspace"):
            setattr(context, name, int(getattr(first, name)))
        both = Interleaved(out, sound)
        for picture in _chain(first, pictures):
            for packet in video.encode(picture):
                both.mux(packet)
        for packet in video.encode(None):
            both.mux(packet)
        both.end()


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _rate(stream: Any, form: VideoForm) -> Fraction:
    """What x264 takes for the frame rate; times are given with each frame."""
    rate = Fraction(form.fps).limit_denominator(1001) if form.fps else stream.guessed_rate or stream.average_rate or 25
    return Fraction(min(max(rate, Fraction(1)), Fraction(240)))


def _made_ready(frames: Iterable[tuple[Any, Shown]], stream: Any, form: VideoForm) -> Iterator[Any]:
    """Frames as they are shown, each with its time."""
    from av.video.frame import PictureType

    aspect, base = pixel_aspect(stream), Fraction(stream.time_base)
    size: tuple[int, int] | None = None
    graph: Any = None
    shape: tuple[Any, ...] = ()
    for frame, shown in deinterlaced(iter(frames)):
        turn = orientation_of(frame)
        if size is None:
            size = form.picture(*shown_size(frame, turn, aspect))
        here = (frame.width, frame.height, frame.format.name, int(frame.color_range), int(frame.colorspace), turn)
        if graph is None or here != shape:
            graph, shape = _geometry(frame, turn, size, base), here
        frame.pts, frame.time_base = shown.at, base
        graph.vpush(frame)
        picture = graph.vpull()
        picture.pts, picture.time_base, picture.duration = shown.at, base, shown.duration
        picture.pict_type = PictureType.NONE
        yield picture


def shown_size(frame: Any, turn: Any, aspect: Fraction) -> tuple[float, float]:
    """(width, height) of a frame as it is shown with square pixels; not whole."""
    wide, high = float(frame.width * aspect), float(frame.height)
    return (high, wide) if turn.swapped else (wide, high)


def _geometry(frame: Any, turn: Any, size: tuple[int, int], base: Fraction) -> Any:
    """A graph that makes a whole frame upright, scales it, and brings it to 8 bits of limited range."""
    scale = f"w={size[0]}:h={size[1]}:flags=bicubic+accurate_rnd:out_range=tv"
    if frame.format.is_rgb:
        scale += ":out_color_matrix=bt601"
    filters = [*turn.filters(), ("scale", scale), ("format", "pix_fmts=yuv420p"), ("setsar", "sar=1")]
    return graph_of(frame, base, filters)


def _picked(pictures: Iterator[Any], base: Fraction, form: VideoForm) -> Iterator[Any]:
    """At the wanted rate, what shows at each moment; and no more than are wanted."""
    rated = _at_rate(pictures, base, form) if form.fps else pictures
    for number, picture in enumerate(rated):
        if form.frames and number >= form.frames:
            return
        yield picture


def _at_rate(pictures: Iterator[Any], base: Fraction, form: VideoForm) -> Iterator[Any]:
    from av import FFmpegError
    from av.video.frame import PictureType

    rate = Fraction(form.fps).limit_denominator(1001)
    graph: Any = None
    for picture in _with_end(pictures):
        if picture is not None and graph is None:
            graph = graph_of(picture, base, [("fps", f"fps={rate}:round=up")])
        if graph is None:
            return
        graph.vpush(picture)
        while True:
            try:
                out = graph.vpull()
            except (FFmpegError, OSError):
                break
            out.pict_type = PictureType.NONE
            yield out


def _with_end(pictures: Iterator[Any]) -> Iterator[Any]:
    yield from pictures
    yield None
