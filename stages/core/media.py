"""Videos to and from bytes: H.264 in mp4 through one pinned ffmpeg, the same bytes for the same frames; PyAV reads."""

from __future__ import annotations

import io
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stages.core.errors import BadInput
from stages.core.ffmpeg import Feed, run_ffmpeg
from stages.core.ffmpeg import ffmpeg_binary as ffmpeg_binary
from stages.core.ffmpeg import ffmpeg_version as ffmpeg_version
from stages.core.fitting import fit_picture
from stages.core.pictures import read_rgb
from stages.core.reach.containers import NotOpened, open_container
from stages.core.sound import Sound

Frames = npt.NDArray[np.uint8]
"""RGB frames [F, H, W, 3], 0 to 255."""

BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
AAC = {"acodec": "aac", "audio_bitrate": "192k", "flags:a": "+bitexact"}
MPEG4 = ("mp4", "mov")
"""Containers that are read as one."""
HIGHEST_FPS, HIGHEST_CRF = 1000, 51
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
"""x264's presets, from fast and large to slow and small."""


class BadMedia(ValueError):
    """A file that is no readable video. Permanent: reading it again gives the same."""


def check_encoding(fps: float, crf: float = 18, preset: str = "medium") -> None:
    """Refuse what no video can be written with. Raises BadInput.

    fps: over 0, at most 1000, and a rate that is not 0 as a fraction of whole numbers up to 1001; crf: 0 (lossless) to
    51; preset: one of PRESETS.
    """
    if not _is_number(fps) or not 0 < fps <= HIGHEST_FPS or not rate_of(fps):
        raise BadInput(f"fps is {fps!r}; give a number over 0, at most {HIGHEST_FPS}")
    if not _is_number(crf) or not 0 <= crf <= HIGHEST_CRF:
        raise BadInput(f"crf is {crf!r}; give a number from 0 to {HIGHEST_CRF}")
    if preset not in PRESETS:
        raise BadInput(f"preset is {preset!r}; give one of {', '.join(PRESETS)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def rate_of(fps: float) -> Fraction:
    """The rate that the container states: 24000/1001 for 23.976."""
    return Fraction(fps).limit_denominator(1001)


def write_video(
    frames: Frames,
    fps: float,
    *,
    crf: float = 18,
    preset: str = "medium",
    metadata: Mapping[str, str] | None = None,
    sound: Sound | None = None,
) -> bytes:
    """An mp4 (H.264, yuv420p, BT.709, index in front) of RGB frames [F, H, W, 3] at `fps`; its sound as AAC.

    The sound begins with the first frame.

    One encoder thread and a bit-exact mux: equal input gives equal bytes with the same ffmpeg. There are no tags in the
    container but those of `metadata`. Raises BadInput for what `check_encoding` refuses, ValueError for frames of
    another form, RuntimeError where ffmpeg fails.
    """
    with tempfile.TemporaryDirectory(prefix="rushes-") as folder:
        target = Path(folder) / "video.mp4"
        with VideoWriter(target, fps, crf=crf, preset=preset, sound=sound) as video:
            video.write(frames)
        return with_tags(target, metadata) if metadata else target.read_bytes()


class FrameWriter:
    """Frames that come piece by piece, into a local file by one run of ffmpeg: no more of them are held than one piece.

    A context; the file is whole at its end. However the frames are cut into pieces, the bytes are the same. Raises
    ValueError for frames of another form, RuntimeError where ffmpeg fails.
    """

    def __init__(self, target: Path) -> None:
        self.target, self.count = target, 0
        self._feed: Feed | None = None
        self._shape: tuple[int, ...] = ()

    def command(self, shape: tuple[int, ...]) -> list[str]:
        """What is run for frames [F, H, W, 3] of this shape. Raises ValueError for a size that it cannot write."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def write(self, frames: Frames) -> None:
        """Some more frames [F, H, W, 3], all of one size. Raises ValueError for another form."""
        check_frames(frames, self._shape)
        if self._feed is None:
            self._feed = Feed(self.command(frames.shape), self.target).__enter__()
            self._shape = frames.shape[1:]
        self._feed.write(np.ascontiguousarray(frames))
        self.count += len(frames)

    def __exit__(self, *error: Any) -> None:
        if self._feed is not None:
            self._feed.__exit__(*error)
        elif error[0] is None:
            raise ValueError("a video needs at least one frame")


class VideoWriter(FrameWriter):
    """`write_video` for frames that come piece by piece. The samples of `sound` lie beside the target meanwhile. Raises
    as `write_video` does."""

    def __init__(
        self, target: Path, fps: float, *, crf: float = 18, preset: str = "medium", sound: Sound | None = None
    ) -> None:
        check_encoding(fps, crf, preset)
        super().__init__(target)
        self.sound, self._settings = sound, (fps, crf, preset)

    def command(self, shape: tuple[int, ...]) -> list[str]:
        """H.264 in mp4, with the sound."""
        if shape[1] % 2 or shape[2] % 2:
            raise ValueError(f"H.264 in yuv420p needs even sizes, these are {shape[2]}x{shape[1]}")
        heard = sound_input(self.sound, self.target.with_suffix(".f32")) if self.sound else None
        # +faststart moves the index after writing, so that a pipe for the result will not do.
        return _encode_command(shape, *self._settings, self.target, heard)


def check_frames(frames: Frames, shape: tuple[int, ...] = ()) -> None:
    """Raise ValueError for what are no RGB frames, or frames of another [H, W, 3] than `shape`, where it is given."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 [F, H, W, 3], these are {frames.dtype} {list(frames.shape)}")
    if shape and frames.shape[1:] != shape:
        raise ValueError(f"the frames before were {list(shape)}, these are {list(frames.shape[1:])}")


def sound_input(sound: Sound, path: Path) -> Any:
    """The samples, interleaved in a file, as an input of ffmpeg."""
    import ffmpeg

    path.write_bytes(np.ascontiguousarray(sound.samples.T).astype("<f4").tobytes())
    return ffmpeg.input(str(path), format="f32le", ar=sound.rate, ac=len(sound.samples))


def _encode_command(
    shape: tuple[int, ...], fps: float, crf: float, preset: str, target: Path, heard: Any = None
) -> list[str]:
    import ffmpeg

    source = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", video_size=(shape[2], shape[1]), framerate=str(rate_of(fps))
    )
    yuv = source.filter("scale", out_color_matrix="bt709", out_range="tv", flags="bicubic+accurate_rnd+bitexact")
    # The frames carry their own colour tags, and what they lack the encoder takes for unknown, whatever its options
    # say: browsers then decode as BT.601.
    tagged = yuv.filter("setparams", color_primaries="bt709", color_trc="bt709", colorspace="bt709", range="tv")
    options: dict[str, Any] = {"vcodec": "libx264", "pix_fmt": "yuv420p", "crf": crf, "preset": preset, "threads": 1}
    exact = {"fflags": "+bitexact", "flags:v": "+bitexact", "map_metadata": -1, "movflags": "+faststart"}
    streams = [tagged] if heard is None else [tagged, heard]
    if heard is not None:
        options |= AAC
    output = ffmpeg.output(*streams, str(target), format="mp4", **options, **BT709, **exact)
    command: list[str] = output.global_args("-hide_banner", "-loglevel", "error").compile(cmd=ffmpeg_binary())
    return command


def with_tags(source: bytes | Path, tags: Mapping[str, str], muxer: str = "mp4") -> bytes:
    """The same mp4 (mov, webm) with these tags in its container and no others. Streams are copied: their packets stay
    as they are.

    Tags that the container has a name for are kept (title, comment, description, ...); equal input gives equal bytes.
    Tags go to ffmpeg in a file, so they have no limit and stand in no list of processes. Raises RuntimeError where
    ffmpeg fails.
    """
    demuxer = "mov" if muxer in MPEG4 else "matroska"
    with tempfile.TemporaryDirectory(prefix="rushes-") as name:
        folder = Path(name)
        target, listed = folder / "tagged", folder / "tags.txt"
        if isinstance(source, bytes):
            (folder / "source").write_bytes(source)
            source = folder / "source"
        lines = [f"{_escaped(key)}={_escaped(value)}\n" for key, value in sorted(tags.items())]
        listed.write_text(";FFMETADATA1\n" + "".join(lines), encoding="utf-8", newline="")
        alone = ["-protocol_whitelist", "file"]
        inputs = [*alone, "-f", demuxer, "-i", f"file:{source}", *alone, "-f", "ffmetadata", "-i", f"file:{listed}"]
        copied = ["-map", "0", "-c", "copy", "-map_metadata", "1", "-map_chapters", "-1"]
        front = ["-movflags", "+faststart"] if muxer in MPEG4 else []
        form = ["-fflags", "+bitexact", *front, "-f", muxer, str(target)]
        command = [ffmpeg_binary(), "-hide_banner", "-loglevel", "error", *inputs, *copied, *form]
        run_ffmpeg(command, target)
        return target.read_bytes()


def _escaped(text: str) -> str:
    """As ffmpeg's metadata files want it."""
    return re.sub(r"([=;#\\\n\r])", r"\\\1", text)


def read_tags(source: bytes | Path) -> dict[str, str]:
    """The tags of the container of an mp4, mov or webm, their names in small letters. Raises BadMedia, OSError where
    the file cannot be opened.

    Whatever the file holds, no other one is opened.
    """
    with opened(source) as container:
        if not re.search("mov|webm", container.format.name):
            raise BadMedia(f"it is {container.format.name}, not mp4, mov or webm")
        return {name.lower(): text for name, text in container.metadata.items()}


@contextmanager
def opened(source: bytes | str | Path) -> Iterator[Any]:
    """The container of a video; what is wrong with it is BadMedia. No other file is opened, whatever it names."""
    from av.error import FFmpegError

    try:
        with open_container(source if isinstance(source, bytes) else Path(source)) as container:
            yield container
    except (FFmpegError, NotOpened) as error:
        raise BadMedia(f"not a readable video: {error}") from None


def iter_frames(source: bytes | str | Path) -> Iterator[Frames]:
    """Each frame of a video, as RGB [H, W, 3], in order of presentation. Raises BadMedia."""
    with opened(source) as container:
        if not container.streams.video:
            raise BadMedia("the file has no video stream")
        for frame in container.decode(container.streams.video[0]):
            yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def read_frames(source: bytes | str | Path) -> Frames:
    """All frames [F, H, W, 3] of a short video. Raises BadMedia."""
    found = list(iter_frames(source))
    if not found:
        raise BadMedia("the video has no frames")
    return np.stack(found)


def read_sound(source: bytes | str | Path) -> Sound | None:
    """The first sound of a video, None where it has none. Raises BadMedia."""
    with opened(source) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        resampler = av_resampler(stream)
        found = [f.to_ndarray() for frame in container.decode(stream) for f in resampler.resample(frame)]
        if not found:
            return None
        return Sound(np.ascontiguousarray(np.concatenate(found, axis=1), np.float32), stream.rate)


def av_resampler(stream: Any) -> Any:
    """To floats, a row a channel, at the stream's own rate."""
    from av.audio.resampler import AudioResampler

    return AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)


def read_fps(source: bytes | str | Path) -> float:
    """The average frame rate that a video's container states, 0 where it states none. Raises BadMedia."""
    with opened(source) as container:
        rate = container.streams.video[0].average_rate if container.streams.video else None
        return float(rate) if rate else 0.0


def write_jpeg(frame: Frames, quality: int = 90) -> bytes:
    """A JPEG of one RGB frame [H, W, 3]; equal input gives equal bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, optimize=False)
    return buffer.getvalue()


def read_picture(data: bytes, width: int, height: int, fit: str = "crop") -> Frames:
    """A picture as RGB [height, width, 3], brought to that shape as `fit` says (see `stages.core.fitting`).

    Upright as its EXIF says. Grey of more than 8 bits, and floats from 0 to 1, are scaled to 0 to 255; what is
    transparent is laid on white. Raises BadMedia for what cannot be read, and where the range of the values is unknown.
    """
    return fit_picture(read_whole_picture(data), width, height, fit)


def read_whole_picture(data: bytes) -> Frames:
    """`read_picture` in the picture's own size."""
    try:
        return read_rgb(data)
    except ValueError as error:
        raise BadMedia(f"not a readable picture: {error}") from None
