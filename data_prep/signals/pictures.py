"""Single frames of clips as pictures for models: at stated places, upright, with square pixels, sized as asked.

Reads from the key frame before a place, and counts from the start of the file where what comes cannot be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.sources.reading import local_file, open_media
from stages.core.step import Row, Workspace

Picture = npt.NDArray[np.uint8]
"""RGB [h, w, 3], 0 to 255."""

MOST_BROKEN = 100
"""Broken packets after which a source is given up, as in the pass that found its frames."""
NEAR_S = 2.0
"""A place this close behind the last one is reached by decoding on, not by seeking."""


@dataclass(frozen=True)
class Moment:
    """A frame of a source: its number in presentation order from 0, and its pts."""

    frame: int
    pts: int


@dataclass(frozen=True)
class Fit:
    """The size of pictures: their longer or shorter side in pixels, never larger than the source where `shrink`."""

    long: int = 0
    short: int = 0
    shrink: bool = True

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a picture that is `width` x `height`, at least 2 each."""
        scale = self.long / max(width, height) if self.long else self.short / min(width, height)
        scale = min(1.0, scale) if self.shrink else scale
        return max(2, round(width * scale)), max(2, round(height * scale))


class _Lost(Exception):
    """Seeking did not lead to the frame that was looked for."""


def even_places(n: int, count: int) -> list[int]:
    """`count` frame numbers within n frames: the middles of equal parts, each once."""
    places = ((np.arange(count) + 0.5) * n / count).astype(int)
    return sorted({min(int(p), n - 1) for p in places})


def clip_pictures(workspace: Workspace, row: Row, count: int, fit: Fit) -> Iterator[tuple[Row, list[Picture]]]:
    """Each clip of a source's row (`clips`, `signals`, `uri`, `stream_index`) with `count` pictures of it.

    A clip has fewer where it is shorter, and none where its frames cannot be decoded any more.
    """
    clips = row["clips"]["rows"]
    wanted = clip_moments(workspace, row, lambda clip: even_places(clip["n_frames"], count)) if clips else []
    yield from zip(clips, pictures_of(row["uri"], row["stream_index"], wanted, fit), strict=True)


def clip_moments(workspace: Workspace, row: Row, places: Callable[[Row], Sequence[int]]) -> list[list[Moment]]:
    """The moments of each clip of a source's row, from the places within the clip that `places` gives."""
    from data_prep.signals.store import read_signals

    pts = read_signals(workspace, row["signals"], ("pts",)).column("pts")
    starts = [(clip["start_frame"], places(clip)) for clip in row["clips"]["rows"]]
    return [[Moment(start + p, pts[start + p].as_py()) for p in chosen] for start, chosen in starts]


def pictures_of(uri: str, stream_index: int, wanted: Sequence[Sequence[Moment]], fit: Fit) -> Iterator[list[Picture]]:
    """The pictures of each list of moments of one source; both lists ascend."""
    moments = [m for group in wanted for m in group]
    with local_file(uri) as path:
        found = pictures_at(path, stream_index, moments, fit)
        held, place, ended = dict[int, Picture](), -1, False
        start = 0
        for group in wanted:
            stop = start + len(group)
            while not ended and place < stop - 1:
                place, picture = next(found, (len(moments), None))
                ended = picture is None
                if picture is not None:
                    held[place] = picture
            yield [held.pop(i) for i in range(start, stop) if i in held]
            start = stop


def pictures_at(path: Path, stream_index: int, moments: Sequence[Moment], fit: Fit) -> Iterator[tuple[int, Picture]]:
    """(place in the list, picture) of each moment in ascending order; those that cannot be decoded are left out."""
    import av

    done = 0
    try:
        with open_media(path) as container:
            stream = container.streams[stream_index]
            stream.codec_context.thread_count = 1
            for frame in _sought(container, stream, moments):
                yield done, as_picture(frame, stream, fit)
                done += 1
            return
    except (_Lost, av.FFmpegError, OSError):
        pass
    with open_media(path) as container:
        stream = container.streams[stream_index]
        for place, frame in _counted(container, stream, moments, done):
            yield place, as_picture(frame, stream, fit)


def _sought(container: Any, stream: Any, moments: Sequence[Moment]) -> Iterator[Any]:
    near, frame = round(NEAR_S / stream.time_base), None
    frames: Iterator[Any] = iter(())
    for moment in moments:
        if frame is None or not 0 <= moment.pts - frame.pts <= near:
            container.seek(moment.pts, stream=stream, backward=True)
            frames, frame = container.decode(stream), None
        while frame is None or frame.pts < moment.pts:
            first, frame = frame is None, next(frames, None)
            if frame is None or frame.pts is None or frame.is_corrupt or (first and frame.pts > moment.pts):
                raise _Lost
        yield frame


def _counted(container: Any, stream: Any, moments: Sequence[Moment], done: int) -> Iterator[tuple[int, Any]]:
    import av

    number, broken, packets = 0, 0, container.demux(stream)
    while done < len(moments) and broken <= MOST_BROKEN:
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet is not None else None
        except (av.FFmpegError, OSError):
            broken += 1
            continue
        if frames is None:
            return
        for frame in frames:
            while done < len(moments) and moments[done].frame <= number:
                yield done, frame
                done += 1
            number += 1


def as_picture(frame: Any, stream: Any, fit: Fit) -> Picture:
    """A decoded frame as RGB, turned upright, with square pixels."""
    sar = stream.sample_aspect_ratio or 1
    width, height = fit.size(max(1, round(frame.width * float(sar))), frame.height)
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA", threads=1).to_ndarray()
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
