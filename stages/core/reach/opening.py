"""The one opener: what a row names comes through here, a file on local disk, on an object store or on the web."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from stages.core.errors import BadInput
from stages.core.reach import web
from stages.core.reach.policy import WEB, in_force, local_path, split

COPY_BYTES = 1 << 20
MOST_BYTES = 1 << 28
"""The largest file that is read into memory: pictures and lists, no footage."""


def check_named(place: str) -> None:
    """Raise BadInput where a row may not name this absolute path or address."""
    if refusal := in_force().refusal(place):
        raise BadInput(refusal)


def info(uri: str) -> dict[str, Any]:
    """What its file system says of a file that lies elsewhere: its size, and an etag or a time where it has one.

    Raises whatever the file system raises, `web.Refused` for a host that is not allowed.
    """
    if is_web(uri):
        return dict(web.facts(uri))
    import fsspec

    fs, path = fsspec.core.url_to_fs(_unchained(uri))
    return dict(fs.info(path))


def is_web(uri: str) -> bool:
    """Whether an address is one of http or https."""
    parts = split(uri)
    return parts is not None and parts.scheme in WEB


def _unchained(uri: str) -> str:
    whole = in_force().whole(uri)
    if "::" in whole:
        raise BadInput(in_force().refusal(whole) or f"{uri} is a chain of file systems")
    return whole


@contextmanager
def local_copy(uri: str, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """The file behind a uri as a path on local disk: itself, or a temporary copy of what lies elsewhere.

    `check` is called between parts of the copy and may raise, for a time limit.
    """
    if (path := local_path(uri)) is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rushes-") as folder:
        copy = Path(folder) / "source"
        with copy.open("wb") as file:
            for part in _parts(uri):
                file.write(part)
                check()
        yield copy


def read_named(place: str) -> bytes:
    """`read_bytes` of a file that a row names. Raises BadInput where it may not."""
    check_named(place)
    return read_bytes(place)


def read_bytes(place: str) -> bytes:
    """The bytes of a list or a picture, at an absolute path or an address. Raises BadInput for one that is too large,
    and whatever the file system raises where it cannot be read."""
    if (path := local_path(place)) is not None:
        with path.open("rb") as file:
            return _bounded(place, _chunks(file))
    return _bounded(place, _parts(place))


def joined(folder: str, name: str) -> str:
    """What a row's path or address means that counts from a folder, which may be an address itself."""
    if "://" in name:
        return name
    if "://" in folder and not name.startswith("/"):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.abspath(Path(folder).expanduser() / Path(name).expanduser())


def _bounded(place: str, parts: Iterator[bytes]) -> bytes:
    data = bytearray()
    for part in parts:
        data += part
        if len(data) > MOST_BYTES:
            raise BadInput(f"{place} has more than {MOST_BYTES >> 20} MB")
    return bytes(data)


def _parts(uri: str) -> Iterator[bytes]:
    if is_web(uri):
        with web.answer(uri) as found:
            yield from found.iter_raw(COPY_BYTES)
        return
    import fsspec

    with fsspec.open(_unchained(uri), "rb") as remote:
        yield from _chunks(remote)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(COPY_BYTES):
        yield part
