"""Opening footage safely: from local disk or any fsspec URL, and never more than the one file that was named."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from stages.core.step import PermanentError

COPY_BYTES = 1 << 20
PLAYLISTS = frozenset({"hls", "dash", "concat", "concatf", "imf", "sdp", "rtsp", "vapoursynth", "avisynth", "lavfi"})
"""Demuxers that read other files than the one they are given."""
TEXT_ART = frozenset({"tty", "bin", "xbin", "adf", "idf"})
"""Demuxers that make a picture of any text file."""


def local_path_of(uri: str) -> Path | None:
    """The path of a uri on local disk, None for any other. Local uris are absolute paths, or file:// with %XX."""
    if uri.startswith("file://"):
        return Path(unquote_to_bytes(uri[len("file://") :]).decode("utf-8", "surrogateescape"))
    return Path(uri) if uri.startswith("/") else None


@contextmanager
def local_file(uri: str, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """The file behind a uri as a path on local disk: itself, or a temporary copy of what lies on an object store.

    `check` is called between parts of the copy and may raise, for a time limit.
    """
    if (path := local_path_of(uri)) is not None:
        yield path
        return
    import fsspec

    with tempfile.TemporaryDirectory(prefix="rushes-") as folder:
        copy = Path(folder) / "source"
        with fsspec.open(uri, "rb") as remote, copy.open("wb") as file:
            while part := remote.read(COPY_BYTES):
                file.write(part)
                check()
        yield copy


def only_this_file(path: Path) -> Callable[..., Any]:
    """A libav open hook that opens this one path for reading: playlists cannot pull in other files or addresses."""

    def open_file(url: str, flags: int, options: dict[str, str]) -> Any:
        if url != str(path):
            raise PermissionError(f"the file refers to another one, {url!r}, which is not opened")
        return path.open("rb")

    return open_file


@contextmanager
def open_media(path: Path, time_limit_s: float = 0.0) -> Iterator[Any]:
    """A PyAV input container on one local file. Raises PermanentError for playlists, text and what does not open."""
    import av

    timeout = time_limit_s or None
    try:
        container = av.open(
            str(path), io_open=only_this_file(path), timeout=(timeout, timeout), metadata_errors="replace"
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise PermanentError(f"libav cannot open it: {getattr(error, 'strerror', None) or error}") from None
    with container:
        names = set(container.format.name.split(","))
        if names & PLAYLISTS or names & TEXT_ART:
            raise PermanentError(f"a {container.format.name} file is no footage")
        yield container


def copy_to(uri: str, target: Path) -> None:
    """Copy footage to a local file."""
    with local_file(uri) as path:
        shutil.copyfile(path, target)
