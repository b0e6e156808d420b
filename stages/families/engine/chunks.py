"""Clips chunk by chunk in time: which latent frames are decoded together, which pixels of them are kept, and which
frames are encoded together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from stages.families.contract import Frames

CONTEXT = 2
"""Latent frames, at least, that are decoded at each end of a chunk for its neighbours' sake: with one, the embedded
checkpoint is up to 27 of 255 off."""
LEAST = 2 * CONTEXT + 2
"""Latent frames of a chunk, at least."""


class Chunk(NamedTuple):
    """Latent frames `start` to `end` are decoded together; of their pixel frames, `first` to `last` are kept."""

    start: int
    end: int
    first: int
    last: int


def chunks(latent_frames: int, size: int, ratio: int, overlap: bool = True) -> Iterator[Chunk]:
    """Chunks whose kept pixel frames are those of the whole clip, each once and in order.

    size is the pixel frames of a chunk, 0 for all; ratio the pixel frames of a latent one, of which the first latent
    frame has one only. With `overlap`, a quarter of a chunk at each of its ends is decoded for its neighbours' sake and
    not kept: what a VAE makes of a frame depends on the frames around it.
    """
    count = (size - 1) // ratio + 1 if size else latent_frames
    if count >= latent_frames:
        yield Chunk(0, latent_frames, 0, (latent_frames - 1) * ratio + 1)
        return
    count = max(count, LEAST) if overlap else count
    context = max(CONTEXT, count // 4) if overlap else 0
    step = count - 2 * context
    for kept in range(0, latent_frames, step):
        start, until = max(0, kept - context), min(latent_frames, kept + step)
        end = min(latent_frames, until + context)
        first = (kept - 1 - start) * ratio + 1 if kept else 0
        yield Chunk(start, end, first, (until - 1 - start) * ratio + 1)


def regrouped(pieces: Iterable[Frames], first: int, rest: int) -> Iterator[Frames]:
    """The same frames [F, H, W, 3] in pieces of `first` frames and then `rest`, the last one perhaps of fewer."""
    held: list[Frames] = []
    wanted, count = first, 0
    for piece in pieces:
        while count + len(piece) >= wanted:
            taken = wanted - count
            yield np.concatenate([*held, piece[:taken]])
            piece, held, count, wanted = piece[taken:], [], 0, rest
        if len(piece):
            held.append(piece)
            count += len(piece)
    if held:
        yield np.concatenate(held)
