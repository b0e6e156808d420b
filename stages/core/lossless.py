"""Frames at rest: FFV1 in Matroska, which gives every pixel back as it was, written as the frames come."""

from __future__ import annotations

from pathlib import Path

from stages.core.ffmpeg import ffmpeg_binary
from stages.core.media import FrameWriter, check_encoding, rate_of, sound_input
from stages.core.sound import Sound

SUFFIX = ".mkv"


class LosslessWriter(FrameWriter):
    """`iter_frames` of `stages.core.media` reads the frames back, equal to the last bit, `read_sound` the sound, which
    begins with the first frame.

    One thread and a bit-exact mux: equal frames give equal bytes with the same ffmpeg. Each frame can be decoded by
    itself, and has a checksum. Raises BadInput for a rate that is none, else as `FrameWriter` does.
    """

    def __init__(self, target: Path, fps: float, *, sound: Sound | None = None) -> None:
        check_encoding(fps)
        super().__init__(target)
        self.fps, self.sound = fps, sound

    def command(self, shape: tuple[int, ...]) -> list[str]:
        """FFV1 in Matroska, the sound as floats."""
        import ffmpeg

        size = (shape[2], shape[1])
        source = ffmpeg.input(
            "pipe:", format="rawvideo", pix_fmt="rgb24", video_size=size, framerate=str(rate_of(self.fps))
        )
        whole = {"vcodec": "ffv1", "level": 3, "g": 1, "slicecrc": 1, "pix_fmt": "bgr0", "threads": 1}
        if shape[2] < 2:  # the encoder finds no number of slices for it by itself
            whole["slices"] = 1
        exact = {"fflags": "+bitexact", "flags:v": "+bitexact", "map_metadata": -1}
        streams = [source]
        if self.sound:
            streams.append(sound_input(self.sound, self.target.with_suffix(".f32")))
            whole |= {"acodec": "pcm_f32le", "flags:a": "+bitexact"}
        output = ffmpeg.output(*streams, str(self.target), format="matroska", **whole, **exact)
        command: list[str] = output.global_args("-hide_banner", "-loglevel", "error").compile(cmd=ffmpeg_binary())
        return command
