"""Frames at rest: FFV1 in Matroska, which gives every pixel back as it was, written as the frames come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stages.core.ffmpeg import Feed, ffmpeg_binary
from stages.core.media import Frames, check_encoding, check_frames, rate_of

SUFFIX = ".mkv"


class LosslessWriter:
    """Writes RGB frames into a local file, piece by piece; no more of them are held than one piece. `iter_frames` of
    `stages.core.media` reads them back, equal to the last bit.

    A context; the file is whole at its end. One thread and a bit-exact mux: equal frames give equal bytes with the same
    ffmpeg. Each frame can be decoded by itself, and has a checksum. Raises BadInput for a rate that is none, ValueError
    for frames of another form, RuntimeError where ffmpeg fails.
    """

    def __init__(self, target: Path, fps: float) -> None:
        check_encoding(fps)
        self.target, self.fps, self.count = target, fps, 0
        self._feed: Feed | None = None
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> LosslessWriter:
        return self

    def write(self, frames: Frames) -> None:
        """Some more frames [F, H, W, 3], all of one size. Raises ValueError for another form."""
        check_frames(frames, self._shape)
        if self._feed is None:
            self._shape = frames.shape[1:]
            self._feed = Feed(self._command(), self.target).__enter__()
        self._feed.write(np.ascontiguousarray(frames))
        self.count += len(frames)

    def __exit__(self, *error: Any) -> None:
        if self._feed is not None:
            self._feed.__exit__(*error)
        elif error[0] is None:
            raise ValueError("a video needs at least one frame")

    def _command(self) -> list[str]:
        import ffmpeg

        source = ffmpeg.input(
            "pipe:", format="rawvideo", pix_fmt="rgb24", video_size=self._shape[1::-1], framerate=str(rate_of(self.fps))
        )
        whole = {"vcodec": "ffv1", "level": 3, "g": 1, "slicecrc": 1, "pix_fmt": "bgr0", "threads": 1}
        exact = {"fflags": "+bitexact", "flags:v": "+bitexact", "map_metadata": -1}
        output = source.output(str(self.target), format="matroska", **whole, **exact)
        command: list[str] = output.global_args("-hide_banner", "-loglevel", "error").compile(cmd=ffmpeg_binary())
        return command
