"""Pictures of any depth and kind as 8-bit RGB, as a viewer shows them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

FORMATS = tuple(
    [
        "PNG",
        "JPEG",
        "WEBP",
        "TIFF",
        "BMP",
        "DIB",
        "GIF",
        "PPM",
        "JPEG2000",
        "AVIF",
        "TGA",
        "ICO",
        "PCX",
        "DDS",
        "SGI",
        "PSD",
        "QOI",
    ]
)
"""The formats that are read. Others of Pillow's start programs (EPS), or read what lies beside the file."""
DEEP = ("I", "F")
"""How Pillow's modes of deep grey and of floats begin. Its own conversions of these cut values, they do not scale."""
FLOAT_SLACK = 1e-3
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 258, 262, 0


def read_rgb(data: bytes) -> npt.NDArray[np.uint8]:
    """The whole picture as RGB [H, W, 3], 0 to 255.

    Upright as its EXIF says. Grey of more than 8 bits, and floats from 0 to 1, are scaled to 0 to 255; what is
    transparent is laid on white. Raises ValueError for what cannot be read, and where the range of the values is
    unknown.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as found:
            upright = ImageOps.exif_transpose(found)
            flat = _eight_bit(upright, found) if found.mode.startswith(DEEP) else upright
            if flat.has_transparency_data:
                white = Image.new("RGBA", flat.size, "white")
                flat = Image.alpha_composite(white, flat.convert("RGBA"))
            return np.array(flat.convert("RGB"))  # its own: torch warns of one that cannot be written to
    except UnidentifiedImageError:
        raise ValueError("of no known format") from None
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None


def _eight_bit(picture: Image.Image, found: Image.Image) -> Image.Image:
    """A deep grey picture as its 8-bit twin; `found` is the picture as it was opened, which knows its file.

    Raises ValueError where the range of the values is unknown.
    """
    from PIL import Image

    tags = getattr(found, "tag_v2", {})
    top = _white(found, tags)
    values = np.asarray(picture, dtype=np.float64) / top
    if not np.isfinite(values).all() or values.min() < -FLOAT_SLACK or values.max() > 1 + FLOAT_SLACK:
        raise ValueError("its floats are not from 0 to 1, so their range is unknown; save it with 8 or 16 bits")
    if tags.get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO:  # Pillow turns these over for 8 bits only
        values = 1 - values
    return Image.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))


def _white(found: Image.Image, tags: Mapping[int, Any]) -> float:
    """The value that stands for white. Raises ValueError where the file does not say so."""
    if found.mode == "F" and found.format in ("TIFF", "PPM"):
        return 1.0
    if found.mode.startswith("I;16") and found.format == "TIFF":
        return float(2 ** tags[TIFF_BITS][0] - 1)
    if found.mode.startswith("I") and found.format in ("PNG", "PPM", "JPEG2000"):
        return 65535.0  # of PPM and JPEG 2000, Pillow scales other depths to this one
    raise ValueError(f"it is {found.format} with values of unknown range ({found.mode}); save it with 8 or 16 bits")
