"""The frames of a video at a clip's own times and size: what is made after footage is made after these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.core.fitting import fit_picture
from stages.core.media import BadMedia, Frames, opened

SLACK_S = 1e-3
"""A frame is shown until so shortly before the next one: clocks of files are rounded."""


def read_clip(
    data: bytes, width: int, height: int, fit: str, n_frames: int, fps: float
) -> tuple[Frames, tuple[int, int]]:
    """Frames [n_frames, height, width, 3] of a video from its beginning, 1 / fps apart, whatever its own rate is: at
    each moment, the frame that is then shown, fitted to that shape. And the video's own width and height.

    Raises BadMedia for a video that is broken, or lasts less.
    """
    clip = Fitted(data, width, height, fit, n_frames, fps)
    return np.concatenate(list(clip)), clip.size


@dataclass
class Fitted:
    """The frames of `read_clip` one by one, each [1, height, width, 3]; `size` is the video's own width and height, as
    soon as a frame was read. Iterating raises BadMedia as `read_clip` does."""

    data: bytes | Path
    width: int
    height: int
    fit: str
    n_frames: int
    fps: float
    size: tuple[int, int] = (0, 0)

    def __iter__(self) -> Iterator[Frames]:
        for frame in iter_clip(self.data, self.n_frames, self.fps):
            self.size = frame.shape[1], frame.shape[0]
            yield fit_picture(frame, self.width, self.height, self.fit)[None]


def iter_clip(data: bytes | Path, n_frames: int, fps: float) -> Iterator[Frames]:
    """The frames of `read_clip` one by one, [H, W, 3] in the video's own size. Raises BadMedia as it does."""
    with opened(data) as container:
        if not container.streams.video:
            raise BadMedia("the file has no video stream")
        begin = last_time = step = None
        lasts, given = 0.0, 0
        shown: Frames | None = None
        for frame in container.decode(container.streams.video[0]):
            now = frame.time if frame.time is not None else (last_time or 0.0)
            begin = now if begin is None else begin
            while shown is not None and given < n_frames and begin + given / fps < now - SLACK_S:
                yield shown
                given += 1
            if given == n_frames:
                return
            step, last_time = (now - last_time if last_time is not None else step), now
            lasts = float((frame.duration or 0) * frame.time_base) if frame.time_base else 0.0
            shown = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    if shown is None or begin is None or last_time is None:
        raise BadMedia("the video has no frames")
    end = last_time + (lasts or step or 1 / fps)  # where the file does not say, as long as the one before it
    while given < n_frames and begin + given / fps < end - SLACK_S:
        yield shown
        given += 1
    if given < n_frames:
        raise BadMedia(
            f"the video lasts {end - begin:.2f} s, which is {given} frames at {fps:g} fps; the clip has {n_frames}"
        )


def seconds_of(data: bytes) -> float:
    """How long a video's frames are shown, in seconds. Reads packets and decodes nothing. Raises BadMedia."""
    with opened(data) as container:
        if not container.streams.video:
            raise BadMedia("the file has no video stream")
        stream = container.streams.video[0]
        times = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.size and p.pts is not None]
        if not times or stream.time_base is None:
            raise BadMedia("the video has no frames")
        end = max(times)
        last = end[1] or (end[0] - sorted(times)[-2][0] if len(times) > 1 else 0)
        return float((end[0] + last - min(times)[0]) * stream.time_base)
