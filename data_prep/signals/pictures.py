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
import pyarrow as pa

from data_prep.sources.counting import presented, times_rise
from data_prep.sources.display import deinterlaced, orientation_of, pixel_aspect, square_size
from data_prep.sources.reading import open_media, unchanged_file
from stages.core.step import Row, Workspace

Picture = npt.NDArray[np.uint8]
"""RGB [h, w, 3], 0 to 255."""

NEAR_S = 2.0
"""A place this close behind the last one is reached by decoding on, not by seeking."""


@dataclass(frozen=True)
class Moment:
    """A frame of a source: its number in presentation order from 0, and its pts where that leads to it and to no other
    frame. Without pts it is reached by counting: on from the moment before, or from the start of the file."""

    frame: int
    pts: int | None


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
    """Each clip of a source's row (`clips`, `signals`, and what `source_pictures` reads) with `count` pictures of it.

    A clip has fewer where it is shorter, and none where its frames cannot be decoded any more.
    """
    clips = row["clips"]["rows"]
    wanted = clip_moments(workspace, row, lambda clip: even_places(clip["n_frames"], count)) if clips else []
    yield from zip(clips, source_pictures(row, wanted, fit), strict=True)


def clip_moments(workspace: Workspace, row: Row, places: Callable[[Row], Sequence[int]]) -> list[list[Moment]]:
    """The moments of each clip of a source's row, from the places within the clip that `places` gives."""
    from data_prep.signals.store import read_signals

    table = read_signals(workspace, row["signals"], ("pts", "said"))
    return [moments_of(table, [c["start_frame"] + p for p in places(c)]) for c in row["clips"]["rows"]]


def moments_of(table: pa.Table, frames: Sequence[int]) -> list[Moment]:
    """The moments of these frames of a source, from its signals (`pts`, `said`)."""
    pts = table.column("pts") if times_rise(table) else None
    return [Moment(f, None if pts is None else pts[f].as_py()) for f in frames]


def source_pictures(row: Row, wanted: Sequence[Sequence[Moment]], fit: Fit) -> Iterator[list[Picture]]:
    """The pictures of each list of moments of a source's row: `uri`, `bytes`, `sha256`, `version`, `stream_index`.

    Raises AbsentError where the source is another file now.
    """
    if any(wanted):
        with unchanged_file(row["uri"], row["bytes"], row["sha256"], row["version"]) as path:
            yield from pictures_of(path, row["stream_index"], wanted, fit)
    else:
        yield from ([] for _ in wanted)


def pictures_of(path: Path, stream_index: int, wanted: Sequence[Sequence[Moment]], fit: Fit) -> Iterator[list[Picture]]:
    """The pictures of each list of moments of one file; both lists ascend."""
    moments = [m for group in wanted for m in group]
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
    """Frames reached by their time, or by counting on from one that was. Raises _Lost where another frame comes."""
    near, at = round(NEAR_S / stream.time_base), 0
    frame: Any = None
    frames: Iterator[Any] = iter(())
    for moment in moments:
        if moment.pts is None:
            if frame is None:
                raise _Lost
            while at < moment.frame:
                frame, at = _next(frames), at + 1
        else:
            if frame is None or not 0 <= moment.pts - frame.pts <= near:
                container.seek(moment.pts, stream=stream, backward=True)
                frames = container.decode(stream)
                frame = _next(frames)
            while frame.pts < moment.pts:
                frame = _next(frames)
            if frame.pts != moment.pts or frame.is_corrupt:
                raise _Lost
            at = moment.frame
        yield frame


def _next(frames: Iterator[Any]) -> Any:
    frame = next(frames, None)
    if frame is None or frame.pts is None or frame.is_corrupt:
        raise _Lost
    return frame


def _counted(container: Any, stream: Any, moments: Sequence[Moment], done: int) -> Iterator[tuple[int, Any]]:
    for number, frame in enumerate(presented(container, stream)):
        while done < len(moments) and moments[done].frame <= number:
            yield done, frame
            done += 1
        if done == len(moments):
            return


def as_picture(frame: Any, stream: Any, fit: Fit) -> Picture:
    """A decoded frame as RGB as it is shown: whole, turned and mirrored as it asks, with square pixels."""
    if frame.interlaced_frame:
        frame, _ = next(deinterlaced(iter([(frame, None)])))
    turn = orientation_of(frame)
    width, height = fit.size(*square_size(frame.width, frame.height, pixel_aspect(stream)))
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA", threads=1).to_ndarray()
    return turn.apply(rgb)
