"""A contact sheet: small pictures with a line of words below each, as one JPEG."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any

COLUMNS, CELL, LINE, MARGIN = 5, (192, 108), 16, 8
LONGEST, QUALITY = 30, 80
BACK, INK = (24, 24, 24), (210, 210, 210)

log = logging.getLogger("rushes")


def contact_sheet(pictures: Sequence[tuple[str, Callable[[], Any]]]) -> bytes:
    """The JPEG of these (words, what gives the picture as uint8 RGB [H, W, 3]); b"" where there is none.

    A picture that cannot be read leaves its place empty.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not pictures:
        return b""
    columns = min(COLUMNS, len(pictures))
    width, height = CELL[0] + MARGIN, CELL[1] + LINE + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, -(-len(pictures) // columns) * height + MARGIN), BACK)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (words, read) in enumerate(pictures):
        x, y = MARGIN + (i % columns) * width, MARGIN + (i // columns) * height
        draw.text((x, y + CELL[1] + 1), shorten(words, LONGEST, placeholder="…"), fill=INK, font=font)
        try:
            tile = Image.fromarray(read())
        except Exception as error:  # a sheet is no reason for a run to fail
            log.warning("no picture of %s: %s", words, error or type(error).__name__)
            continue
        tile.thumbnail(CELL)
        sheet.paste(tile, (x + (CELL[0] - tile.width) // 2, y + (CELL[1] - tile.height) // 2))
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=QUALITY)
    return data.getvalue()
