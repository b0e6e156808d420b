"""Opening footage safely: from local disk or any fsspec URL, and never more than the one file that was named."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from stages.core.step import PermanentError, Row

COPY_BYTES = 1 << 20
PLAYLISTS = frozenset({"hls", "dash", "concat", "concatf", "imf", "sdp", "rtsp", "vapoursynth", "avisynth", "lavfi"})
"""Demuxers that read other files than the one they are given."""
TEXT_ART = frozenset({"tty", "bin", "xbin", "adf", "idf"})
"""Demuxers that make a picture of any text file."""
MAX_PIXELS = 1 << 26
"""The largest picture that is decoded, 8192 x 8192: a file of a few bytes may claim one that fills the memory."""
TS_DISCONT = 0x0200
"""AVFMT_TS_DISCONT."""
LIMITS = {"max_pixels": str(MAX_PIXELS)}
"""Options of every decoder."""
VERSIONS = ("etag", "ETag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")
"""What object stores call that by which a file tells that it has changed."""


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


@contextmanager
def unchanged_file(
    uri: str, size: int, sha256: str, version: str, check: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """`local_file` of footage that was probed before: its length, SHA-256, and version (mtime or etag).

    Where length and version are as they were the content counts as the same, and is not hashed; where only the version
    differs it is hashed once. Raises PermanentError where it is another file now, or becomes one while it is read.
    """
    with local_file(uri, check) as path:
        before = path.stat()
        if before.st_size != size:
            raise PermanentError(CHANGED)
        if _version_of(uri, before) != version:
            _check_hash(uri, path, before, sha256, check)
        yield path
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise PermanentError(CHANGED)


CHANGED = "the source is not the file that was curated; curate again"


def _version_of(uri: str, found: os.stat_result) -> str:
    """As the listing notes it."""
    if local_path_of(uri) is not None:
        return str(found.st_mtime_ns)
    return str(remote_facts(uri)["version"])


def facts_of(info: Mapping[str, Any]) -> Row:
    """Size and version of a file from what its file system says of it."""
    version = next((str(info[k]) for k in VERSIONS if info.get(k)), "")
    return {"size": int(info.get("size") or 0), "version": version, "problem": ""}


def remote_facts(uri: str) -> Row:
    """Size and version (etag or time) of one file on an object store; a problem where it cannot be found."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(uri)
        return facts_of(fs.info(path))
    except Exception as error:  # a bad row of a manifest never stops the batch, whatever its file system raises
        return {"size": 0, "version": "", "problem": f"cannot be found: {error}"}


@functools.lru_cache(maxsize=4096)
def _hash_of(uri: str, size: int, modified: int, path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(COPY_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _check_hash(uri: str, path: Path, found: os.stat_result, sha256: str, check: Callable[[], None]) -> None:
    check()
    if _hash_of(uri, found.st_size, found.st_mtime_ns, path) != sha256:
        raise PermanentError(CHANGED)
    check()


def only_this_file(path: Path, name: str) -> Callable[..., Any]:
    """A libav open hook that opens one path, under this name: playlists cannot pull in other files or addresses."""

    def open_file(url: str, flags: int, options: dict[str, str]) -> Any:
        if url != name:
            raise PermissionError(f"the file refers to another one, {url!r}, which Rushes does not open")
        return path.open("rb")

    return open_file


@contextmanager
def open_media(path: Path, time_limit_s: float = 0.0) -> Iterator[Any]:
    """A PyAV input container on one local file. Raises PermanentError for playlists, text and what does not open.

    libav never sees the file's own name, which might mean something to it (`concat:`, `%03d`) or be no text at all.
    """
    import av

    timeout = time_limit_s or None
    suffix = path.suffix if path.suffix[1:].isascii() and path.suffix[1:].isalnum() else ""
    try:
        container = av.open(
            f"source{suffix}",
            io_open=only_this_file(path, f"source{suffix}"),
            timeout=(timeout, timeout),
            metadata_errors="replace",
            options=LIMITS,
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise PermanentError(
            f"FFmpeg's libraries cannot open it: {getattr(error, 'strerror', None) or error}"
        ) from None
    with container:
        names = set(container.format.name.split(","))
        if names & PLAYLISTS or names & TEXT_ART:
            raise PermanentError(f"a {container.format.name} file is not footage")
        for stream in container.streams.video:
            if stream.codec_context:
                stream.codec_context.options = LIMITS
        yield container


def knows_breaks(container: Any) -> bool:
    """Whether a container's format may have breaks in its times: MPEG program and transport streams."""
    return bool(int(container.format.flags) & TS_DISCONT)


def copy_to(uri: str, target: Path) -> None:
    """Copy footage to a local file."""
    with local_file(uri) as path:
        shutil.copyfile(path, target)
