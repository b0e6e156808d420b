"""Opening media so that libav reads one file, of a kind that names no other ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEMUXERS = (
    # containers
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "live_flv", "asf", "asf_o",
    "ogg", "mxf", "gxf", "nut", "rm", "wtv", "dv", "swf", "ivf", "ismv", "nsv", "nuv", "lxf", "yuv4mpegpipe", "mgsts",
    # pictures that move, and single ones, which are passed over with a reason
    "gif", "apng", "webp", "jpegxl_anim", "jpeg_pipe", "png_pipe", "bmp_pipe", "tiff_pipe", "webp_pipe", "gif_pipe",
    "ppm_pipe", "pgm_pipe", "pbm_pipe", "pam_pipe", "exr_pipe", "dpx_pipe", "j2k_pipe", "jpegxl_pipe", "psd_pipe",
    "ico",
    # streams without a container
    "h264", "hevc", "vvc", "av1", "obu", "m4v", "mjpeg", "mjpeg_2000", "vc1", "h261", "h263", "dirac", "cavsvideo",
    # sound, which is passed over with a reason
    "wav", "w64", "aiff", "au", "caf", "mp3", "aac", "ac3", "eac3", "dts", "dtshd", "truehd", "mlp", "flac", "ape",
    "wv", "tta", "amr", "voc", "oma", "opus",
)  # fmt: skip
"""The formats that are opened, as libav names them. None of them refers to other files, and none takes text for a
picture: playlists (hls, dash, concat, imf, sdp), patterns of pictures (image2) and subtitles with a second file
(vobsub) are not among them."""
MAX_PIXELS = 1 << 26
"""The largest picture that is decoded, 8192 x 8192: a file of a few bytes may claim one that fills the memory."""
LIMITS = {"max_pixels": str(MAX_PIXELS)}
"""Options of every decoder."""
NO_PROTOCOL = "none"
"""A protocol that does not exist: libav may open nothing by itself."""
INVALID_ARGUMENT = 22
NOT_ALLOWED = (
    "it is not footage: not one of the formats that are opened. Playlists, patterns of pictures and other files that "
    "name further files are not"
)


class NotOpened(ValueError):
    """What libav cannot open, or may not. Permanent."""


def only_this_file(source: Path | bytes, name: str) -> Callable[..., Any]:
    """A libav open hook that opens one file, under this name: nothing in it can pull in other files or addresses."""

    def open_file(url: str, flags: int, options: dict[str, str]) -> Any:
        if url != name:
            raise PermissionError("the file refers to another one, which is not opened")
        return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)

    return open_file


@contextmanager
def open_container(
    source: Path | bytes, time_limit_s: float = 0.0, options: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """A PyAV input container on one local file, or on bytes. Raises NotOpened.

    libav never sees the file's own name, which might mean something to it (`concat:`, `%03d`) or be no text at all.
    """
    import av

    timeout = time_limit_s or None
    suffix = source.suffix if isinstance(source, Path) else ""
    name = f"source{suffix}" if suffix[1:].isascii() and suffix[1:].isalnum() else "source"
    rules = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": NO_PROTOCOL}
    try:
        container = av.open(
            name,
            io_open=only_this_file(source, name),
            timeout=(timeout, timeout),
            metadata_errors="replace",
            options={**LIMITS, **(options or {}), **rules},
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise NotOpened(_reason(error)) from None
    with container:
        for stream in container.streams.video:
            if stream.codec_context:
                stream.codec_context.options = LIMITS
        yield container


def _reason(error: Exception) -> str:
    if getattr(error, "errno", None) == INVALID_ARGUMENT:
        return NOT_ALLOWED
    return f"it is no video that FFmpeg can read: {getattr(error, 'strerror', None) or error}"
