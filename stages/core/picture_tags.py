"""Tags in PNG, GIF and WebP, which ffmpeg writes without any: a comment and a title, by blocks that are put in."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOFTWARE = "Rushes"
READ = ("PNG", "GIF", "WEBP")
PNG_HEAD = 33
"""Bytes of the signature and the first chunk."""
DESCRIPTION, PROGRAM, EXIF_BLOCK, USER_COMMENT = 0x010E, 0x0131, 0x8769, 0x9286
"""Tags of EXIF."""
ASCII = b"ASCII\0\0\0"
HAS_EXIF = 0x08


def tagged_picture(data: bytes, tags: Mapping[str, str]) -> bytes:
    """A PNG, GIF or WebP with `comment` (ASCII) and `title` put in; its pixels stay as they are. Without tags it stays.

    PNG: texts named Comment, Title and Software. GIF: a comment, no title. WebP: EXIF. Raises ValueError for what is
    none of these.
    """
    if not tags:
        return data
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        texts = {"Comment": tags.get("comment", ""), "Title": tags.get("title", ""), "Software": SOFTWARE}
        chunks = b"".join(_png_text(key, text) for key, text in texts.items() if text)
        return data[:PNG_HEAD] + chunks + data[PNG_HEAD:]
    if data.startswith(b"GIF89a"):
        return _gif(data, tags.get("comment", "").encode("ascii"))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data, _exif(tags))
    raise ValueError("neither PNG, GIF nor WebP")


def read_picture_tags(source: bytes | Path) -> dict[str, str]:
    """`comment`, where a PNG, GIF or WebP has one. Raises ValueError for what is none of these, OSError."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=READ) as found:
            said: Any = found.info.get("Comment") or found.info.get("comment")
            if said is None:
                said = found.getexif().get_ifd(EXIF_BLOCK).get(USER_COMMENT, b"")
    except (SyntaxError, EOFError, Image.DecompressionBombError, struct.error, KeyError, TypeError) as error:
        raise ValueError(f"not a readable picture: {error}") from None
    text = said.removeprefix(ASCII).decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return {"comment": text} if text else {}


def _png_text(key: str, text: str) -> bytes:
    """A chunk iTXt: UTF-8, not compressed, of no stated language."""
    body = b"iTXt" + key.encode() + b"\0\0\0\0\0" + text.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _gif(data: bytes, comment: bytes) -> bytes:
    """The comment behind the table of colours that all frames share."""
    packed = data[10]
    head = 13 + (3 * 2 ** ((packed & 7) + 1) if packed & 0x80 else 0)
    pieces = (comment[i : i + 255] for i in range(0, len(comment), 255))
    block = b"\x21\xfe" + b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"
    return data[:head] + block + data[head:]


def _exif(tags: Mapping[str, str]) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[PROGRAM] = SOFTWARE
    if title := tags.get("title"):
        exif[DESCRIPTION] = title
    exif.get_ifd(EXIF_BLOCK)[USER_COMMENT] = ASCII + tags.get("comment", "").encode("ascii")
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _webp(data: bytes, exif: bytes) -> bytes:
    """EXIF at the end, as the format wants it, and its flag in the head, which a single picture may lack."""
    from PIL import Image

    body = data[12:]
    if not body.startswith(b"VP8X"):
        with Image.open(io.BytesIO(data), formats=READ) as found:
            width, height = found.size
        sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        body = b"VP8X" + struct.pack("<II", 10, 0) + sides + body
    body = body[:8] + bytes([body[8] | HAS_EXIF]) + body[9:]
    body += b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
