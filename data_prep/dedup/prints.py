"""Fingerprints of each clip: perceptual hashes and tiny pictures at fixed places within it.

Copies are found by these. Made from the stored signatures, so nothing is decoded, and at the same places of every copy
whatever its frame rate.

The hash is the usual one of a discrete cosine transform (Zauner, 2010): the signs of the lowest 63 frequencies of luma
against their median; the bit of the mean is always 0. A frame without texture has the hash 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.core.measures.signature import CHROMA, COLUMNS, LUMA, ROWS, U8
from stages.core.step import Inputs, Port, Resources, Row, Step

FRAMES = 8
SIDE = 8
FLAT_LUMA = 4.0
TINY = (6, 10)
TINTS = 2
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
    return np.asarray(basis, np.float32)


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
    """Each frame's luma at 6 x 10 cells, outer columns dropped so that cells are whole, then its mean chroma (Cb, Cr):
    uint8 [n, 62]."""
    luma = signatures[:, :LUMA].reshape(-1, ROWS, COLUMNS)[:, :, 1:31].astype(np.float32)
    cells = luma.reshape(-1, TINY[0], ROWS // TINY[0], TINY[1], 30 // TINY[1]).mean(axis=(2, 4))
    tints = signatures[:, LUMA:].reshape(-1, TINTS, CHROMA).astype(np.float32).mean(2)
    return np.asarray(np.rint(np.concatenate([cells.reshape(len(cells), -1), tints], axis=1)), np.uint8)


class Prints(Step):
    """A row per clip: FRAMES hashes, and as many tiny pictures one after the other."""

    kind = "prints"
    version = 2
    writes = pa.schema([("clip_id", pa.string()), ("hashes", pa.list_(pa.uint64())), ("tiny", pa.binary())])
    fan_out = True
    resources = Resources(batch_rows=16)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """There is nothing to set: other prints would not compare."""

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clips of a source, and its signals."""
        return Inputs(ports={"clips": Port(kind="clips"), "signals": Port(kind="signals")})

    def process(self, row: Row) -> Row:
        """The prints of one source's clips."""
        from data_prep.signals.store import read_signals, signatures_of

        clips = row["clips"]["rows"]
        table = read_signals(self.workspace, row["signals"], ("signature",)) if clips else None
        rows = []
        for clip in clips:
            frames = clip["start_frame"] + places(clip["n_frames"])
            picked = np.concatenate([signatures_of(table, int(i), int(i) + 1) for i in frames])
            rows.append({"clip_id": clip["clip_id"], "hashes": hashes(picked).tolist(), "tiny": tiny(picked).tobytes()})
        return {"rows": rows}
