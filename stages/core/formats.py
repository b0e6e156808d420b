"""The formats in which finished videos are delivered: what each is made of, and how ffmpeg makes it of a stored mp4."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.ffmpeg import ffmpeg_binary, run_ffmpeg
from stages.core.fitting import FITS
from stages.core.media import BT709, HIGHEST_FPS, rate_of, with_tags
from stages.core.picture_tags import tagged_picture

FRAME = "%06d.png"
"""How the frames of one video are called in its folder, from 1."""
LARGEST_SIDE = 16384
FASTEST_GIF = 50
"""Frames a second: a GIF counts in hundredths of a second, and browsers slow down what is shown for less than two."""
SCALING = "bicubic+accurate_rnd+bitexact"
X265 = "log-level=error:pools=none:frame-threads=1"


@dataclass(frozen=True)
class Format:
    """One way to deliver a video.

    suffix    of the file; "" where it is a folder of frames
    muxer     as ffmpeg calls it
    encoders  as ffmpeg calls them; the first that is there is used
    pixels    as ffmpeg calls them
    options   of the encoder
    crf       lowest, default and highest; None where the encoder has no such setting
    sound     the encoder of the sound; `copy` keeps it as it is, "" leaves it out
    """

    suffix: str
    muxer: str
    encoders: tuple[str, ...]
    pixels: str
    options: Mapping[str, Any] = field(default_factory=dict)
    crf: tuple[int, int, int] | None = None
    sound: str = ""

    @property
    def even(self) -> bool:
        """Whether only even sizes can be written: colour has half the resolution."""
        return self.pixels.startswith("yuv")


FORMATS: dict[str, Format] = {
    "mp4-h264": Format(
        ".mp4", "mp4", ("libx264",), "yuv420p", {"preset": "medium", "threads": 1}, (0, 18, 51), sound="copy"
    ),
    "mp4-hevc": Format(
        ".mp4", "mp4", ("libx265",), "yuv420p",
        {"preset": "medium", "tag:v": "hvc1", "x265-params": X265, "threads": 1}, (0, 20, 51), sound="copy",
    ),
    "webm-vp9": Format(
        ".webm", "webm", ("libvpx-vp9",), "yuv420p",
        {"b:v": 0, "deadline": "good", "cpu-used": 2, "row-mt": 0, "threads": 1}, (0, 24, 63), sound="libopus",
    ),
    "webm-av1": Format(
        ".webm", "webm", ("libsvtav1", "libaom-av1"), "yuv420p", {}, (1, 24, 63), sound="libopus"
    ),
    "prores": Format(
        ".mov", "mov", ("prores_ks",), "yuv422p10le", {"profile:v": 3, "vendor": "apl0", "threads": 1},
        sound="pcm_s16le",
    ),
    "png": Format("", "image2", ("png",), "rgb24", {"threads": 1}),
    "gif": Format(".gif", "gif", ("gif",), "rgb24", {"loop": 0}),
    "webp": Format(".webp", "webp", ("libwebp_anim",), "bgra", {"quality": 90, "loop": 0}),
}  # fmt: skip
ENCODER_OPTIONS = {"libsvtav1": {"preset": 6}, "libaom-av1": {"b:v": 0, "cpu-used": 6, "row-mt": 0, "threads": 1}}
SOUND_OPTIONS = {"libopus": {"b:a": "160k", "flags:a": "+bitexact"}, "pcm_s16le": {"flags:a": "+bitexact"}}


@dataclass(frozen=True)
class Shape:
    """What is changed of a video on its way out; None keeps it.

    width, height in pixels; with one of them the other follows, with both `fit` says how the picture fills them (see
    `stages.core.fitting`). fps in frames a second: frames are dropped or shown again, none is blended. crf: quality.
    """

    crf: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fit: str = "crop"

    @property
    def as_it_is(self) -> bool:
        """Whether nothing is changed, so that an mp4 need not be encoded again."""
        return self.crf is self.width is self.height is self.fps is None


# -- checks ------------------------------------------------------------------------------------------------------------


def check_format(name: str, shape: Shape) -> None:
    """Refuse a format that there is not, that this ffmpeg cannot write, or that cannot have this shape. Raises BadInput
    whose message begins with the setting."""
    if name not in FORMATS:
        near = [known for known in FORMATS if name and known.startswith(name)]
        hint = f"give {' or '.join(near)}" if near else nearest(name, FORMATS)
        raise BadInput(f"format is {name!r}; {hint}")
    form = FORMATS[name]
    _check_shape(name, form, shape)
    encoder_of(name)
    if form.sound not in ("", "copy") and form.sound not in written_by(ffmpeg_binary(), "encoders"):
        raise BadInput(f"format is {name!r}, and {_no_ffmpeg(form.sound)}")
    if form.muxer not in written_by(ffmpeg_binary(), "muxers"):
        raise BadInput(f"format is {name!r}, and {_no_ffmpeg(form.muxer)}")


def _check_shape(name: str, form: Format, shape: Shape) -> None:
    if shape.crf is not None:
        if form.crf is None:
            raise BadInput(f"crf is {shape.crf:g}, and {name} has no such setting; leave it out")
        if not form.crf[0] <= shape.crf <= form.crf[2]:
            raise BadInput(f"crf is {shape.crf:g}; {name} takes {form.crf[0]} (best) to {form.crf[2]}")
    for side in ("width", "height"):
        size = getattr(shape, side)
        if size is not None and not 2 <= size <= LARGEST_SIDE:
            raise BadInput(f"{side} is {size}; give 2 to {LARGEST_SIDE} pixels")
        if size is not None and size % 2 and form.even:
            raise BadInput(f"{side} is {size}; {name} takes even sizes only, such as {size + 1}")
    if shape.fps is not None and not (0 < shape.fps <= HIGHEST_FPS and rate_of(shape.fps)):
        raise BadInput(f"fps is {shape.fps:g}; give a number over 0, at most {HIGHEST_FPS}")
    if shape.fps is not None:
        check_rate(name, shape.fps)
    if shape.fit not in FITS:
        raise BadInput(f"fit is {shape.fit!r}; it must be one of {', '.join(FITS)}")


def check_rate(name: str, fps: float) -> None:
    """Refuse frames that follow one another too fast for a format. Raises BadInput."""
    if name == "gif" and fps > FASTEST_GIF:
        raise BadInput(f"fps is {fps:g}, and a GIF shows at most {FASTEST_GIF}; give deliver.fps={FASTEST_GIF} or less")


def encoder_of(name: str) -> str:
    """The encoder of a format in the ffmpeg in use. Raises BadInput where it has none."""
    wanted, there = FORMATS[name].encoders, written_by(ffmpeg_binary(), "encoders")
    found = next((encoder for encoder in wanted if encoder in there), None)
    if found is None:
        raise BadInput(f"format is {name!r}, and {_no_ffmpeg(' or '.join(wanted))}")
    return found


def _no_ffmpeg(what: str) -> str:
    return (
        f"the ffmpeg in use ({ffmpeg_binary()}) has no {what}; unset IMAGEIO_FFMPEG_EXE to use the one of the "
        "imageio-ffmpeg package, or install a full ffmpeg"
    )


@functools.cache
def written_by(binary: str, what: str) -> frozenset[str]:
    """The names of the `encoders` or `muxers` that an ffmpeg says it has."""
    said = subprocess.run([binary, "-hide_banner", f"-{what}"], capture_output=True, text=True, check=True).stdout
    words = (line.split() for line in said.splitlines() if line.startswith(" "))
    return frozenset(word[1] for word in words if len(word) > 1)


# -- conversion --------------------------------------------------------------------------------------------------------


def convert(source: Path, name: str, shape: Shape, tags: Mapping[str, str], heard: bool, folder: Path) -> Path:
    """A stored mp4 in a format, as a file or a folder of frames below `folder`, which is empty and ours.

    heard: whether the video has sound. Equal input gives equal bytes with the same ffmpeg. H.264 that need not change
    is copied packet by packet; all else is encoded from the stored mp4. Raises RuntimeError where ffmpeg fails.
    """
    form = FORMATS[name]
    target = folder / f"video{form.suffix}"
    if name == "mp4-h264" and shape.as_it_is:
        target.write_bytes(with_tags(source, tags))
        return target
    first = target / (FRAME % 1) if name == "png" else target
    if name == "png":
        target.mkdir()
    run_ffmpeg(command(source, target, name, shape, heard), first)
    if form.muxer in ("image2", "gif", "webp"):
        for path in sorted(target.iterdir()) if name == "png" else [target]:
            path.write_bytes(tagged_picture(path.read_bytes(), tags))
    else:
        target.write_bytes(with_tags(target, tags, form.muxer))
    return target


def command(source: Path, target: Path, name: str, shape: Shape, heard: bool) -> list[str]:
    """What is run for a format."""
    import ffmpeg

    form, encoder = FORMATS[name], encoder_of(name)
    opened = ffmpeg.input(f"file:{source}", format="mov", protocol_whitelist="file")
    shown = _coloured(_sized(_timed(opened.video, shape.fps), form, shape), form)
    if name == "gif":
        parts = shown.filter_multi_output("split")
        shown = ffmpeg.filter([parts[0], parts[1].filter("palettegen")], "paletteuse")
    options: dict[str, Any] = {"vcodec": encoder, **form.options, **ENCODER_OPTIONS.get(encoder, {})}
    if form.crf:
        options["crf"] = form.crf[1] if shape.crf is None else shape.crf
    if form.even:
        options |= {"pix_fmt": form.pixels, **BT709}
    streams = [shown]
    if heard and form.sound:
        streams.append(opened.audio)
        options |= {"acodec": form.sound, **SOUND_OPTIONS.get(form.sound, {})}
    exact = {"fflags": "+bitexact", "flags:v": "+bitexact", "map_metadata": -1}
    place = str(target / FRAME) if name == "png" else str(target)
    output = ffmpeg.output(*streams, place, format=form.muxer, **options, **exact)
    words: list[str] = output.global_args("-hide_banner", "-loglevel", "error").compile(cmd=ffmpeg_binary())
    return words


def _timed(stream: Any, fps: float | None) -> Any:
    return stream if fps is None else stream.filter("fps", fps=str(rate_of(fps)), round="near")


def _sized(stream: Any, form: Format, shape: Shape) -> Any:
    """The picture in its new size, with square pixels."""
    width, height = shape.width, shape.height
    if width is None and height is None:
        return stream
    follows = -2 if form.even else -1
    size: dict[str, Any] = {"flags": SCALING, "w": width or follows, "h": height or follows}
    if width is None or height is None or shape.fit == "stretch":
        return stream.filter("scale", **size).filter("setsar", 1)
    if shape.fit == "crop":
        whole = stream.filter("scale", force_original_aspect_ratio="increase", **size)
        return whole.filter("crop", width, height).filter("setsar", 1)
    whole = stream.filter("scale", force_original_aspect_ratio="decrease", force_divisible_by=2, **size)
    return whole.filter("pad", width, height, "(ow-iw)/2", "(oh-ih)/2").filter("setsar", 1)


def _coloured(stream: Any, form: Format) -> Any:
    """BT.709 in video range, or RGB as sRGB where the format holds that; said in the frames, from which encoders and
    containers take it."""
    if form.even:
        scaled = stream.filter("scale", out_color_matrix="bt709", out_range="tv", flags=SCALING)
        told = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709", "range": "tv"}
        return scaled.filter("format", form.pixels).filter("setparams", **told)
    scaled = stream.filter("scale", in_color_matrix="bt709", in_range="tv", out_range="pc", flags=SCALING)
    told = {"color_primaries": "bt709", "color_trc": "iec61966-2-1", "range": "pc"}
    return scaled.filter("format", form.pixels).filter("setparams", **told)
