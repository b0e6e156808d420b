"""Probe each file: its streams, times and the SHA-256 of its bytes. Only the first two frames are decoded.

What is not a plain video has a stated rule:
  audio only             skipped, metric `video_streams`; cover art is no video stream
  several video streams  the first marked default, else the first, as players do; `n_video_streams` counts them
  still image            skipped, metric `frames`: a source needs two frames at least
  interlaced             kept as it is stored, `interlaced` says so; publishing deinterlaces what it re-encodes
  text, images, sidecars (.txt, .json, .srt ...) that libav finds no video in: skipped, metric `suffix`
  playlists              an error: a source is one file, and what it refers to is never opened
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.sources.display import orientation_of, pixel_aspect, square_size
from data_prep.sources.reading import knows_breaks, local_file, open_media
from stages.core.step import Inputs, PermanentError, Resources, Row, Skipped, Step

CHUNK = 1 << 20
EVERY_CORE = 4096
"""Workers of a step that may use all there is: no more start than there are cores, and sources left to do."""
SHARED_FROM = 0.25
"""The share of frames with the time of the one before from which on they count as frames of their own."""
BREAK_S, BACK_S, REORDERED = 10.0, 0.5, 16
"""Times that jump forward by more than BREAK_S, in formats that know breaks, or back by more than BACK_S and so many
frames, begin a new part."""
FIELD_ORDERS = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}
HIGH_DYNAMIC_RANGE = {
    curve: f"its pictures have a high dynamic range ({name}), and nothing maps them to a standard one"
    for curve, name in ((16, "PQ"), (18, "HLG"))
}
"""By the transfer characteristics of ITU-T H.273."""
COLOR_RANGES = {1: "limited", 2: "full"}
SIDECARS = frozenset(
    [
        ".txt",
        ".md",
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".yaml",
        ".yml",
        ".xml",
        ".html",
        ".htm",
        ".pdf",
        ".srt",
        ".vtt",
        ".ass",
        ".nfo",
        ".log",
        ".parquet",
        ".sha256",
        ".md5",
    ]
)


class Ingest(Step):
    """One row per file: its digest, container, streams, integer time, key frames; `note` says what is odd about it."""

    kind = "probe"
    version = 5
    writes = pa.schema(
        [
            ("sha256", pa.string()),
            ("bytes", pa.int64()),
            ("container", pa.string()),
            ("codec", pa.string()),
            ("pix_fmt", pa.string()),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("rotation", pa.int64()),
            ("mirrored", pa.bool_()),
            ("display_width", pa.int64()),
            ("display_height", pa.int64()),
            ("sar_num", pa.int64()),
            ("sar_den", pa.int64()),
            ("interlaced", pa.bool_()),
            ("field_order", pa.string()),
            ("color_range", pa.string()),
            ("stream_index", pa.int64()),
            ("n_video_streams", pa.int64()),
            ("time_base_num", pa.int64()),
            ("time_base_den", pa.int64()),
            ("start_pts", pa.int64()),
            ("duration_pts", pa.int64()),
            ("duration_s", pa.float64()),
            ("n_frames", pa.int64()),
            ("fps", pa.float64()),
            ("is_vfr", pa.bool_()),
            ("bitrate", pa.int64()),
            ("keyframes", pa.list_(pa.int64())),
            ("n_keyframes", pa.int64()),
            ("has_audio", pa.bool_()),
            ("audio_codec", pa.string()),
            ("note", pa.string()),
        ]
    )
    resources = Resources(batch_rows=4, workers=EVERY_CORE, time_limit_s=360)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How long a source may take.

        time_limit_s  seconds that one source may take, at most; 0 sets no limit. Does not change what is found. On Ray,
                      `resources.time_limit_s` ends a worker that hangs, so raise that too and keep it the larger of the
                      two
        """

        time_limit_s: float = field(default=300.0, metadata={"identity": False})

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The file as it was listed: another size or version is another file."""
        return Inputs(depends=("uri", "size", "version", "problem"))

    def process(self, row: Row) -> Row:
        """Probe the file at `uri`. Raises PermanentError with the reason for one that is broken."""
        if row.get("problem"):
            raise PermanentError(row["problem"])
        check = deadline(self.config.time_limit_s)
        with local_file(row["uri"], check) as path:
            found = {**hashed(path, check)}
            try:
                return {**found, **probe(path, check, self.config.time_limit_s)}
            except (PermanentError, Skipped):
                if (suffix := Path(row["uri"]).suffix.lower()) in SIDECARS:
                    raise Skipped("suffix", suffix, "in", "the suffixes of video files") from None
                raise


def deadline(limit_s: float) -> Callable[[], None]:
    """A function that raises TimeoutError once the limit is over."""
    end = time.monotonic() + limit_s

    def check() -> None:
        if limit_s and time.monotonic() > end:
            raise TimeoutError(f"it took longer than the limit of {limit_s:g} s")

    return check


def hashed(path: Path, check: Callable[[], None]) -> Row:
    """SHA-256 and length of a file. Raises PermanentError for an empty one."""
    hasher, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            hasher.update(part)
            size += len(part)
            check()
    if not size:
        raise PermanentError("the file is empty")
    return {"sha256": hasher.hexdigest(), "bytes": size}


def probe(path: Path, check: Callable[[], None], time_limit_s: float = 0.0) -> Row:
    """All columns but the digest. Reads every packet, decodes the first two frames."""
    from av import FFmpegError

    from data_prep.sources.completeness import holes, what_is_missing

    with open_media(path, time_limit_s) as container:
        stream, count = pick_video(container)
        audio = next(iter(container.streams.audio), None)
        try:
            packets = read_packets(container, stream, check)
        except FFmpegError as error:
            raise PermanentError(f"its video cannot be read: {error.strerror}") from None
        if not packets.frames:
            raise PermanentError("no frame of it can be decoded")
        if len(packets.frames) < 2:
            raise Skipped("frames", len(packets.frames), ">=", 2)
        odd = (
            what_is_missing(container, stream, packets.read, packets.end, path, time_limit_s),
            holes(packets.times, float(stream.time_base)),
            HIGH_DYNAMIC_RANGE.get(int(packets.frames[0].color_trc), ""),
        )
        return {
            "container": container.format.name,
            **picture(stream, packets.frames[0]),
            **timing(stream, packets),
            "stream_index": stream.index,
            "n_video_streams": count,
            "has_audio": audio is not None,
            "audio_codec": audio.codec_context.name if audio is not None and audio.codec_context else "",
            "note": "; ".join(filter(None, odd)),
        }


def pick_video(container: Any) -> tuple[Any, int]:
    """The video stream that counts, and how many there are. Raises Skipped where there is none."""
    from av.stream import Disposition

    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic and s.codec_context]
    if not videos:
        raise Skipped("video_streams", 0, ">=", 1)
    return next((s for s in videos if s.disposition & Disposition.default), videos[0]), len(videos)


@dataclass
class Packets:
    """What the packets of one stream say, in the stream's time base, and the first two frames that decode.

    times: presentation times as one sequence that rises, footage that was joined end to end laid out one part after
    the other. count: frames to be shown; read: with those that are only decoded.
    """

    frames: list[Any] = field(default_factory=list)
    times: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    keyframes: list[int] = field(default_factory=list)
    count: int = 0
    read: int = 0
    size: int = 0
    last_duration: int = 0
    parts: int = 1

    @property
    def end(self) -> int:
        """When the last frame ends, on a clock that starts with the first, or at 0 where that is later."""
        return int(self.times[-1] - min(0, self.times[0])) + self.last_duration if len(self.times) else 0


def read_packets(container: Any, stream: Any, check: Callable[[], None]) -> Packets:
    """Go over every packet of one stream. A truncated file counts as far as it goes."""
    found, parts = Packets(), Parts(stream, knows_breaks(container))
    for packet in container.demux(stream):
        if len(found.frames) < 2:
            found.frames += decoded(packet)
        if packet.size == 0:
            continue
        found.read += 1
        if packet.is_discard:
            continue
        found.count += 1
        found.size += packet.size
        when = packet.pts if packet.pts is not None else packet.dts
        if when is not None:
            parts.add(when, packet.dts)
            found.last_duration = packet.duration or found.last_duration
            if packet.is_keyframe:
                found.keyframes.append(when)
        if found.count % 1024 == 0:
            check()
    found.times, found.parts = parts.laid_out(), parts.count
    return found


class Parts:
    """Presentation times in the order of decoding, cut where they jump: back by far, or forward where formats know
    breaks. Times within a part may come in any order, as those of B-frames do."""

    def __init__(self, stream: Any, breaks: bool) -> None:
        self._step = _stated_step(stream)
        self._back = max(round(BACK_S / stream.time_base), REORDERED * self._step)
        self._far = round(BREAK_S / stream.time_base) if breaks else None
        self._parts: list[array[int]] = [array("q")]
        self._latest: int | None = None

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self._parts)

    def add(self, when: int, dts: int | None) -> None:
        """The next packet."""
        now = when if dts is None else dts
        latest = now if self._latest is None else self._latest
        if now < latest - self._back or (self._far and now > latest + self._far):
            self._parts.append(array("q"))
            latest = now
        self._latest = max(now, latest)
        self._parts[-1].append(when)

    def laid_out(self) -> npt.NDArray[np.int64]:
        """All times ascending; each further part begins a usual step behind the one before."""
        laid: list[npt.NDArray[np.int64]] = []
        for part in self._parts:
            times = np.sort(np.array(part, np.int64))
            if laid and len(laid[-1]) and len(times):
                times = times - times[0] + laid[-1][-1] + usual_step(laid[-1], self._step)
            laid.append(times)
        return np.concatenate(laid)


def usual_step(times: npt.NDArray[np.int64], stated: int) -> int:
    """The median gap between times that differ, the stated one where there are none."""
    gaps = np.diff(times)
    steps = np.sort(gaps[gaps > 0])
    return int(steps[len(steps) // 2]) if len(steps) else stated


def decoded(packet: Any) -> list[Any]:
    """The frames that come out of one packet; none where it is broken."""
    from av import FFmpegError

    try:
        return list(packet.decode())
    except FFmpegError:
        return []


def picture(stream: Any, first: Any) -> Row:
    """The picture's size, shape and kind; display size is after rotation and aspect. `mirrored`: across, after it."""
    context = stream.codec_context
    aspect = pixel_aspect(stream)
    shown = orientation_of(first)
    display = shown.size(*square_size(first.width, first.height, aspect))
    return {
        "codec": context.name,
        "pix_fmt": first.format.name,
        "width": first.width,
        "height": first.height,
        "rotation": shown.rotation,
        "mirrored": shown.mirrored,
        "display_width": display[0],
        "display_height": display[1],
        "sar_num": aspect.numerator,
        "sar_den": aspect.denominator,
        "interlaced": bool(first.interlaced_frame),
        "field_order": FIELD_ORDERS.get(int(context.field_order), "unknown"),
        "color_range": COLOR_RANGES.get(int(first.color_range), "unknown"),
    }


def timing(stream: Any, packets: Packets) -> Row:
    """Time in integers. Where packets carry no times, the stream's stated rate has to do."""
    base, times = stream.time_base, packets.times
    stated = _stated_step(stream)
    gaps = np.diff(times)
    gaps = shared(gaps) if len(gaps) else gaps
    steps = np.sort(gaps[gaps > 0])
    step = int(steps[len(steps) // 2]) if len(steps) else stated
    last = packets.last_duration or step
    duration = int(times[-1] - times[0]) + last if len(times) > 1 else step * packets.count
    seconds = float(duration * base)
    return {
        "time_base_num": base.numerator,
        "time_base_den": base.denominator,
        "start_pts": int(times[0]) if len(times) else 0,
        "duration_pts": duration,
        "duration_s": seconds,
        "n_frames": packets.count,
        "fps": _rate(packets, len(steps), base, seconds),
        "is_vfr": _varies(steps, step),
        "bitrate": round(packets.size * 8 / seconds) if seconds > 0 else 0,
        "keyframes": packets.keyframes,
        "n_keyframes": len(packets.keyframes),
    }


def shared(gaps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The gaps [n] between frames where frames share a time: each gap is divided among the frames before it.

    Only where that is the rule, for a quarter of the frames or more; a single repeat is a packet that shows nothing.
    """
    if (gaps == 0).mean() < SHARED_FROM:
        return gaps.astype(np.float64)
    ends = np.flatnonzero(gaps > 0)
    sizes = np.diff(np.concatenate([[-1], ends]))
    spread = np.repeat(gaps[ends] / sizes, sizes)
    return np.asarray(spread, np.float64)


def _rate(packets: Packets, gaps: int, base: Any, seconds: float) -> float:
    """Frames per second on average; a frame that repeats the time of another counts where that is the rule."""
    if gaps:
        ends = np.flatnonzero(np.diff(packets.times) > 0)
        return float(gaps / ((packets.times[ends[-1] + 1] - packets.times[0]) * base))
    return packets.count / seconds if seconds > 0 else 0.0


def _stated_step(stream: Any) -> int:
    rate = stream.guessed_rate or stream.average_rate or 25
    step: int = round(1 / (rate * stream.time_base))
    return max(1, step)


def _varies(steps: npt.NDArray[np.float64], usual: int) -> bool:
    """Whether the frame rate varies: over 2 % of the gaps [n] are off by more than a tick and a tenth of the usual."""
    off = int((abs(steps - usual) > 1 + usual * 0.1).sum())
    return off > max(1, 0.02 * len(steps))
