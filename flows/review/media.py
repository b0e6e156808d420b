"""Videos and pictures of a store over HTTP: whole or by range, from wherever the store lies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.responses import PlainTextResponse, Response, StreamingResponse

from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage

PIECE = 1 << 20
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
KINDS = {"mp4": "video/mp4", "webm": "video/webm", "jpg": "image/jpeg", "png": "image/png"}
"""What a browser is told that a file is, by its suffix; nothing else is handed out."""


@dataclass(frozen=True)
class Medium:
    """The files of one video: the video itself, and its picture, "" where there is none."""

    uri: str
    poster: str = ""


def answer(storage: Storage, uri: str, wanted: str = "") -> Response:
    """The response that holds a file, or the part of it that the header `Range` asks for.

    What is no file of the store is not found; a link out of it counts as that. Files never change under one uri, so a
    browser may keep them.
    """
    kind = KINDS.get(uri.rpartition(".")[2].lower())
    try:
        info = storage.info(uri) if kind else None
    except (BadInput, OSError):
        info = None
    if kind is None or info is None:
        return PlainTextResponse("There is no such file", 404)
    found = RANGE.fullmatch(wanted.replace(" ", ""))
    part = (found[1], found[2]) if found and (found[1] or found[2]) else None
    span = _span(part[0], part[1], info.size) if part else (0, info.size)
    if span is None:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{info.size}"})
    first, end = span
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - first),
        "Cache-Control": "private, max-age=86400, immutable",
    }
    if part:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{info.size}"
    return StreamingResponse(_pieces(storage, uri, first, end), 206 if part else 200, headers=headers, media_type=kind)


def _span(first: str, last: str, size: int) -> tuple[int, int] | None:
    """First byte, and the one after the last; None where there is no such part."""
    if not first:
        return (max(0, size - int(last)), size) if int(last) and size else None
    end = min(size, int(last) + 1) if last else size
    return (int(first), end) if int(first) < end else None


def _pieces(storage: Storage, uri: str, first: int, end: int) -> Iterator[bytes]:
    """The bytes, a piece at a time, so that no video is in memory whole."""
    clean, fs = storage.check_relative(uri), storage.fs
    for start in range(first, end, PIECE):
        yield fs.cat_file(clean, start=start, end=min(end, start + PIECE))
