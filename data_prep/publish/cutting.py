"""One clip out of its source, exactly: every frame of the half-open span [start_pts, end_pts) and no other."""

from __future__ import annotations

import subprocess
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.sources.reading import open_media
from stages.core.media import BadMedia, ffmpeg_binary

TIMEOUT_S = 1800
SEEK_MARGIN_S = 1.0
GREY_SIZE = (64, 36)
COUNTED_SHARE = 0.6
"""The least share of a span's length that frames found by counting must last: below it, other frames were counted."""
Plane = npt.NDArray[np.uint8]
Filter = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Span:
    """A span of one video stream in its own time base, and the source's frames in it: [first, first + n)."""

    start_pts: int
    end_pts: int
    time_base: Fraction
    stream_index: int
    first_frame: int
    n_frames: int

    @property
    def start_s(self) -> float:
        """Where it starts, in seconds of the stream's own clock."""
        return float(self.start_pts * self.time_base)

    @property
    def end_s(self) -> float:
        """Where it ends."""
        return float(self.end_pts * self.time_base)


@dataclass(frozen=True)
class Ends:
    """How many frames there are, the first and last of them in small grey, and the seconds between these two; -1 where
    frames carry no times. Where frames will be picked by their times, all of them: `times` in seconds since the first,
    and `greys`."""

    n_frames: int
    first: Plane
    last: Plane
    seconds: float = -1.0
    times: tuple[float, ...] = ()
    greys: tuple[Plane, ...] = ()

    def near(self, seconds: float) -> list[Plane]:
        """The frame that shows at this moment, and its neighbours: which of them a change of rate picks is rounding."""
        at = max(0, bisect_right(self.times, seconds + 1e-6) - 1)
        return list(self.greys[max(0, at - 1) : at + 2])


def span_of(row: dict[str, Any]) -> Span:
    """The span of a row of kept clips."""
    base = Fraction(row["time_base_num"], row["time_base_den"])
    frames = row["start_frame"], row["end_frame"] - row["start_frame"]
    return Span(row["start_pts"], row["end_pts"], base, row["stream_index"], *frames)


# -- reading ---------------------------------------------------------------------------------------------------------


def decode_span(path: Path, span: Span) -> Iterator[Any]:
    """The frames of a span, decoded from the key frame before it. Ends early where what comes cannot be trusted:
    frames marked corrupt (open groups of pictures, a wrong index), or a first frame that is not at the start."""
    with open_media(path) as container:
        stream = container.streams[span.stream_index]
        container.seek(span.start_pts, stream=stream, backward=True)
        started = False
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts >= span.end_pts:
                return
            if frame.pts < span.start_pts:
                continue
            if frame.is_corrupt or (not started and frame.pts != span.start_pts):
                return
            started = True
            yield frame


def count_to_span(path: Path, span: Span) -> Iterator[Any]:
    """The frames of a span, decoded from the start of the file and found by counting."""
    with open_media(path) as container:
        for number, frame in enumerate(container.decode(container.streams[span.stream_index])):
            if number >= span.first_frame + span.n_frames:
                return
            if number >= span.first_frame:
                yield frame


def small_grey(frame: Any) -> Plane:
    """A frame's luma at 64 x 36, turned upright: enough to tell neighbouring frames apart, blind to coding noise."""
    grey = frame.reformat(width=GREY_SIZE[0], height=GREY_SIZE[1], format="gray", interpolation="AREA").to_ndarray()
    return np.ascontiguousarray(np.rot90(grey, round(frame.rotation / 90) % 4)) if frame.rotation else grey


def ends_of(frames: Iterable[Any], every: bool = False) -> Ends:
    """Count frames and keep the first and last, or every one. Raises BadMedia where there are none."""
    count, first, last = 0, None, None
    times: list[float] = []
    greys: list[Plane] = []
    for frame in frames:
        first, last = (frame if first is None else first), frame
        count += 1
        if every:
            times.append(_seconds_between(first, frame))
            greys.append(small_grey(frame))
    if first is None:
        raise BadMedia("there are no frames")
    seconds = _seconds_between(first, last)
    return Ends(count, small_grey(first), small_grey(last), seconds, tuple(times), tuple(greys))


def _seconds_between(first: Any, frame: Any) -> float:
    if frame.pts is None or first.pts is None:
        return -1.0
    return float((frame.pts - first.pts) * frame.time_base)


def source_ends(path: Path, span: Span, every: bool = False) -> Ends:
    """The ends of a span in its source. Raises BadMedia where the source does not hold the span's frames."""
    try:
        found = ends_of(decode_span(path, span), every)
        if found.n_frames == span.n_frames:
            return found
    except (BadMedia, OSError):  # the latter from files that cannot be sought in, such as Matroska without an index
        pass
    found = ends_of(count_to_span(path, span), every)
    if found.n_frames != span.n_frames:
        raise BadMedia(f"the source has {found.n_frames} of the span's {span.n_frames} frames")
    length = span.end_s - span.start_s
    if 0 <= found.seconds < COUNTED_SHARE * length and span.n_frames > 2:
        raise BadMedia(f"the source's frames at the span's places last {found.seconds:.2f} s, the span {length:.2f} s")
    return found


def written_ends(path: Path) -> Ends:
    """The ends of a written clip. Raises BadMedia where nothing was written."""
    with open_media(path) as container:
        if not container.streams.video:
            raise BadMedia("the written clip has no frames")
        return ends_of(container.decode(container.streams.video[0]))


def difference(a: Plane, b: Plane) -> float:
    """Root mean square difference of two small grey frames, in grey levels; 255 where their shapes differ."""
    if a.shape != b.shape:
        return 255.0
    return float(np.sqrt(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2)))


# -- writing ---------------------------------------------------------------------------------------------------------


def copy_packets(path: Path, span: Span, target: Path, audio: bool) -> None:
    """Copy a span's packets into an mp4, without decoding. The span must begin on a key frame."""
    import av

    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with open_media(path) as source, av.open(str(target), "w", format="mp4", options=options) as out:
        video = source.streams[span.stream_index]
        sound = next(iter(source.streams.audio), None) if audio else None
        pairs = {s.index: out.add_stream_from_template(s) for s in (video, sound) if s is not None}
        source.seek(span.start_pts, stream=video, backward=True)
        for packet in source.demux([s for s in (video, sound) if s is not None]):
            if packet.pts is None or packet.dts is None:
                continue
            base = packet.stream.time_base
            start, end = (round(p * span.time_base / base) for p in (span.start_pts, span.end_pts))
            if packet.stream is video and packet.dts >= end:
                break
            if start <= packet.pts < end:
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                packet.stream = pairs[packet.stream.index]
                out.mux(packet)


def encode(
    path: Path, container: str, span: Span, target: Path, chain: Sequence[Filter], audio: bool, options: dict[str, Any],
    by_count: bool = False,
) -> None:  # fmt: skip
    """Decode a span, filter and encode it with ffmpeg. Raises BadMedia with what ffmpeg said.

    by_count  find the frames by their number from the start of the file, for sources whose times cannot be trusted
    """
    import ffmpeg

    seek = {"ss": f"{max(0.0, span.start_s - SEEK_MARGIN_S):.6f}", "seek_timestamp": 1}
    source = ffmpeg.input(
        f"file:{path}", format=container.split(",")[0], protocol_whitelist="file", copyts=None, threads=1,
        **({} if by_count else seek),
    )  # fmt: skip
    wanted = (
        {"start_frame": span.first_frame, "end_frame": span.first_frame + span.n_frames}
        if by_count
        else {"start_pts": span.start_pts, "end_pts": span.end_pts}
    )
    video = source[str(span.stream_index)].filter("trim", **wanted).filter("setpts", "PTS-STARTPTS")
    for name, values in chain:
        video = video.filter(name, **values)
    streams = [video]
    if audio:
        sound = source.audio.filter("atrim", start=span.start_s, end=span.end_s)
        streams.append(sound.filter("asetpts", "PTS-STARTPTS"))
    exact = {"fflags": "+bitexact", "flags:v": "+bitexact", "map_metadata": -1, "movflags": "+faststart"}
    timing = {"fps_mode": "passthrough", "enc_time_base:v": "filter"}
    output = ffmpeg.output(*streams, f"file:{target}", format="mp4", **timing, **exact, **options)
    command = output.global_args("-hide_banner", "-loglevel", "error", "-nostdin", "-y").compile(cmd=ffmpeg_binary())
    run = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S)
    if run.returncode or not target.is_file():
        raise BadMedia(f"ffmpeg failed ({run.returncode}): {run.stderr.decode(errors='replace').strip()[:500]}")
