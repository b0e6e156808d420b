"""A perceptual hash: near copies of a picture differ in few bits."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

_SIDE, _KEPT = 32, 8


def phash(luma: npt.NDArray[np.uint8]) -> int:
    """64 bits from the signs of the 8 x 8 lowest cosine frequencies of a luma picture [h, w] about their median.

    C. Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010. Scaling, a change of
    brightness and compression change few bits; unrelated pictures differ in about 32.
    """
    small = cv2.resize(luma, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_KEPT, :_KEPT].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False  # brightness says nothing of the picture
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distance(a: Sequence[int], b: Sequence[int]) -> float:
    """The mean number of bits, 0-64, in which two series of hashes differ, each matched with its nearest."""
    if not a or not b:
        return 64.0
    bits = [[(int(x) ^ int(y)).bit_count() for y in b] for x in a]
    there = sum(min(row) for row in bits) / len(a)
    back = sum(min(column) for column in zip(*bits, strict=True)) / len(b)
    return float(max(there, back))
