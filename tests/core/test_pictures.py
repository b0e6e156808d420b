"""Pictures that takes begin with: whatever their depth and kind, they look as their 8-bit twins do."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.core.media import BadMedia, read_picture
from stages.core.pictures import read_rgb

DATA = Path(os.environ.get("RUSHES_DATA", Path(__file__).parents[2] / "../shared/data")) / "cases"
RAMP = np.tile(np.arange(256, dtype=np.uint8), (32, 1))
"""Every grey there is, [32, 256]."""
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 90)], axis=2)


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def read(data: bytes, width: int = 256, height: int = 32) -> np.ndarray:
    return read_picture(data, width, height).astype(int)


def twin(grey: np.ndarray) -> np.ndarray:
    return read(saved(Image.fromarray(grey), "PNG"), grey.shape[1], grey.shape[0])


def deep(kind: str) -> bytes:
    """The ramp with more than 8 bits."""
    sixteen = RAMP.astype(np.uint16) * 257
    if kind == "pgm 10 bits":
        return b"P5 256 32 1023\n" + (RAMP.astype(float) * 1023 / 255).round().astype(">u2").tobytes()
    if kind == "png":
        return saved(Image.fromarray(sixteen), "PNG")
    if kind == "tiff":
        return saved(Image.fromarray(sixteen), "TIFF")
    if kind == "tiff, white is 0":
        return saved(Image.fromarray(65535 - sixteen), "TIFF", tiffinfo={262: 0})
    if kind == "jpeg 2000":
        return saved(Image.fromarray(sixteen), "JPEG2000", irreversible=False)
    if kind == "float tiff":
        return saved(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF")
    return saved(Image.fromarray(1 - RAMP.astype(np.float32) / 255), "TIFF", tiffinfo={262: 0})


@pytest.mark.parametrize(
    "kind",
    [
        "png",
        "tiff",
        "tiff, white is 0",
        "pgm 10 bits",
        "jpeg 2000",
        "float tiff",
        "float tiff, white is 0",
    ],
)
def test_deep_greys_are_scaled_not_cut(kind):
    assert np.abs(read(deep(kind)) - twin(RAMP)).max() <= (1 if "2000" in kind else 0)


def test_twelve_bits_in_a_tiff_are_twelve_bits():
    """Pillow reads 12-bit files as 16-bit pictures with values to 4095. It writes none, so this one is made by hand."""
    values = (RAMP.astype(np.uint32) * 4095 + 127) // 255
    first, second = values[:, 0::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).astype(np.uint8).tobytes()
    tags = {256: 256, 257: 32, 258: 12, 259: 1, 262: 1, 273: 134, 277: 1, 278: 32, 279: len(packed)}
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0" + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, value in tags.items()
    )
    head = b"II*\0" + (8).to_bytes(4, "little") + len(tags).to_bytes(2, "little") + entries + bytes(4)
    data = head.ljust(134, b"\0") + packed
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    assert np.abs(read(data) - twin(RAMP)).max() <= 1


@pytest.mark.parametrize("name", ["image-gray16-turns-white.png", "image-gray32f-turns-black.tif"])
def test_the_cases_that_were_found(name):
    if not (DATA / name).is_file():
        pytest.skip("the cases are not here; set RUSHES_DATA")
    shown = read((DATA / name).read_bytes(), 64, 64)
    assert (shown.min(), shown.max()) == (0, 255)
    assert 100 < shown.mean() < 155


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (np.float32([[0, 255.0]]), "TIFF"),
        (np.float32([[0, np.nan]]), "TIFF"),
        (np.float32([[-1, 1]]), "TIFF"),
        (np.int32([[0, 70000]]), "TIFF"),
    ],
)
def test_values_of_unknown_range_are_refused(values, form):
    with pytest.raises(BadMedia, match=r"range.*save it with 8 or 16 bits"):
        read_picture(saved(Image.fromarray(values), form), 8, 8)


def test_colours_survive_in_every_kind():
    true = COLOURS.astype(int)
    picture = Image.fromarray(COLOURS)
    assert (read(saved(picture, "PNG")) == true).all()
    assert np.abs(read(saved(picture.convert("CMYK"), "TIFF")) - true).max() <= 2
    assert np.abs(read(saved(picture.convert("CMYK"), "JPEG", quality=100)) - true).max() <= 12
    assert np.abs(read(saved(picture.quantize(256), "PNG")) - true).mean() < 3


def test_a_palette_shows_its_colours_not_its_numbers():
    picture = Image.new("P", (4, 2))
    picture.putpalette([200, 30, 40, 10, 20, 220])
    picture.putdata([0, 0, 1, 1] * 2)
    assert read(saved(picture, "PNG"), 4, 2)[0].tolist() == [[200, 30, 40]] * 2 + [[10, 20, 220]] * 2


@pytest.mark.parametrize(("alpha", "right"), [(255, (200, 30, 40)), (0, (255, 255, 255)), (51, (244, 210, 212))])
def test_what_is_transparent_is_laid_on_white(alpha, right):
    rgba = Image.new("RGBA", (4, 4), (200, 30, 40, alpha))
    assert np.abs(read(saved(rgba, "PNG"), 4, 4) - right).max() <= 1
    palette = rgba.convert("RGB").quantize(2)
    if alpha != 51:
        palette.info["transparency"] = bytes([alpha] * 2)
        assert np.abs(read(saved(palette, "PNG"), 4, 4) - right).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "I;16", "F"])
def test_pictures_stand_upright(mode):
    """Orientation 6: what the file has on its left is above."""
    grey = np.zeros((8, 16), np.uint8)
    grey[:, :8] = 255
    values = {
        "RGB": np.stack([grey] * 3, axis=2),
        "I;16": grey.astype(np.uint16) * 257,
        "F": grey.astype(np.float32) / 255,
    }[mode]
    exif = Image.Exif()
    exif[274] = 6
    data = saved(Image.fromarray(values), "TIFF" if mode == "F" else "PNG", exif=exif)
    shown = read(data, 8, 16)
    assert shown[:8].min() == 255
    assert shown[8:].max() == 0


@pytest.mark.parametrize("cut", [0, 1, 8, 30, 60, -1])
def test_a_picture_that_is_cut_off_is_refused(cut):
    for form in ("PNG", "TIFF", "JPEG", "GIF", "BMP"):
        data = saved(Image.fromarray(COLOURS), form)
        with contextlib.suppress(BadMedia):
            assert read_picture(data[:cut], 8, 8).shape == (8, 8, 3)  # a decoder may do without the last byte
            assert cut == -1


def test_a_picture_is_an_array_of_its_own():
    """Torch warns of memory that cannot be written to, in the middle of a run's progress."""
    assert read_rgb(saved(Image.new("RGB", (8, 8)), "PNG")).flags.writeable
