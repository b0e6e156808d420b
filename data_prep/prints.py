"""What a clip looks like in few bytes: perceptual hashes and tiny pictures at fixed places, and its main colours.

Copies are found by these. Made from the stored signatures, so nothing is decoded.

The hash is the usual one of a discrete cosine transform (Zauner, 2010): the signs of the lowest 63 frequencies of luma
against their median; the bit of the mean is always 0. A frame without texture has the hash 0.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from stages.core.measures.signature import CHROMA, COLUMNS, LUMA, ROWS, U8

FRAMES = 8
SIDE = 8
FLAT_LUMA = 4.0
TINY = (6, 10)
U64 = npt.NDArray[np.uint64]


def places(n: int) -> npt.NDArray[np.int64]:
    """The FRAMES places within a clip of n frames: the middles of equal parts, so that both ends are left out."""
    return np.minimum(((np.arange(FRAMES) + 0.5) * n / FRAMES).astype(np.int64), max(0, n - 1))


@cache
def _cosines(n: int) -> npt.NDArray[np.float32]:
    """The lowest SIDE rows of the orthonormal DCT-II of n points."""
    k, x = np.arange(SIDE)[:, None], np.arange(n)[None, :]
    basis = np.cos(np.pi * k * (2 * x + 1) / (2 * n)) * np.sqrt(2 / n)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def hashes(signatures: U8) -> U64:
    """The hash of each frame: uint64 [n] from signatures [n, 864]; 0 where the frame has no texture."""
    luma = signatures[:, :LUMA].reshape(-1, ROWS, COLUMNS).astype(np.float32)
    low = np.einsum("kr,nrc,lc->nkl", _cosines(ROWS), luma, _cosines(COLUMNS)).reshape(len(luma), -1)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = False
    found: U64 = np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)
    found[luma.std(axis=(1, 2)) < FLAT_LUMA] = 0
    return found


def tiny(signatures: U8) -> U8:
    """Each frame's luma at 6 x 10 cells: uint8 [n, 60], outer columns dropped so that cells are whole."""
    luma = signatures[:, :LUMA].reshape(-1, ROWS, COLUMNS)[:, :, 1:31].astype(np.float32)
    cells = luma.reshape(-1, TINY[0], ROWS // TINY[0], TINY[1], 30 // TINY[1]).mean(axis=(2, 4))
    return np.rint(cells).astype(np.uint8).reshape(len(cells), -1)


NAMES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_HUES = (8, 42, 72, 165, 200, 262, 295, 345)
"""The upper edge of each name's hue in degrees; red goes on above the last."""
_GREYS = ((48, "black"), (190, "grey"), (256, "white"))


def colours(signatures: U8, least: float = 0.15, most: int = 3) -> list[str]:
    """The names of a clip's main colours, the commonest first: those with at least a share `least` of its cells."""
    n = len(signatures)
    luma = signatures[:, :LUMA].reshape(n, ROWS // 2, 2, COLUMNS // 2, 2).astype(np.float32).mean(axis=(2, 4)).ravel()
    u, v = (signatures[:, i : i + CHROMA].astype(np.float32).ravel() - 128 for i in (LUMA, LUMA + CHROMA))
    names, counts = np.unique(_names(luma, u, v), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [str(names[i]) for i in order[:most] if counts[i] >= least * counts.sum()]


def _names(y: npt.NDArray[np.float32], u: npt.NDArray[np.float32], v: npt.NDArray[np.float32]) -> npt.NDArray[np.str_]:
    """A colour word for each cell, from Y'CbCr with BT.601's weights."""
    r, g, b = y + 1.402 * v, y - 0.344 * u - 0.714 * v, y + 1.772 * u
    high, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    spread = np.maximum(high - low, 1e-6)
    hue = np.select([high == r, high == g], [(g - b) / spread % 6, (b - r) / spread + 2], (r - g) / spread + 4) * 60
    coloured = np.array(NAMES)[np.searchsorted(_HUES, hue % 360) % len(NAMES)]
    coloured = np.where((coloured == "orange") & (high < 130), "brown", coloured)
    grey = np.select([y < edge for edge, _ in _GREYS], [name for _, name in _GREYS], "white")
    return np.where((spread < 28) | (spread < 0.22 * high) | (high < 40), grey, coloured)
