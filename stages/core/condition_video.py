"""The frames of a video at a clip's own times and size: what is made after footage is made after these."""

from __future__ import annotations

import numpy as np

from stages.core.fitting import fit_picture
from stages.core.media import BadMedia, Frames, _opened

SLACK_S = 1e-3
"""A frame is shown until so shortly before the next one: clocks of files are rounded."""


def read_clip(
    data: bytes, width: int, height: int, fit: str, n_frames: int, fps: float
) -> tuple[Frames, tuple[int, int]]:
    """Frames [n_frames, height, width, 3] of a video from its beginning, 1 / fps apart, whatever its own rate is: at
    each moment, the frame that is then shown, fitted to that shape. And the video's own width and height.

    Raises BadMedia for a video that is broken, or lasts less.
    """
    found, size = _shown(data, width, height, fit, n_frames, fps)
    return np.stack(found), size


def _shown(
    data: bytes, width: int, height: int, fit: str, n_frames: int, fps: float
) -> tuple[list[Frames], tuple[int, int]]:
    size = (0, 0)
    found: list[Frames] = []
    with _opened(data) as container:
        if not container.streams.video:
            raise BadMedia("the file has no video stream")
        begin = last_time = step = None
        lasts = 0.0
        shown: Frames | None = None
        for frame in container.decode(container.streams.video[0]):
            now = frame.time if frame.time is not None else (last_time or 0.0)
            begin = now if begin is None else begin
            while shown is not None and len(found) < n_frames and begin + len(found) / fps < now - SLACK_S:
                found.append(shown)
            if len(found) == n_frames:
                return found, size
            step, last_time = (now - last_time if last_time is not None else step), now
            lasts = float((frame.duration or 0) * frame.time_base) if frame.time_base else 0.0
            size = (frame.width, frame.height)
            shown = fit_picture(frame.to_ndarray(format="rgb24"), width, height, fit)
    if shown is None or begin is None or last_time is None:
        raise BadMedia("the video has no frames")
    end = last_time + (lasts or step or 1 / fps)  # where the file does not say, as long as the one before it
    while len(found) < n_frames and begin + len(found) / fps < end - SLACK_S:
        found.append(shown)
    if len(found) < n_frames:
        raise BadMedia(
            f"the video lasts {end - begin:.2f} s, which is {len(found)} frames at {fps:g} fps; the clip has {n_frames}"
        )
    return found, size


def seconds_of(data: bytes) -> float:
    """How long a video's frames are shown, in seconds. Reads packets and decodes nothing. Raises BadMedia."""
    with _opened(data) as container:
        if not container.streams.video:
            raise BadMedia("the file has no video stream")
        stream = container.streams.video[0]
        times = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.size and p.pts is not None]
        if not times or stream.time_base is None:
            raise BadMedia("the video has no frames")
        end = max(times)
        last = end[1] or (end[0] - sorted(times)[-2][0] if len(times) > 1 else 0)
        return float((end[0] + last - min(times)[0]) * stream.time_base)
