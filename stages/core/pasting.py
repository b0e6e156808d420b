"""What lies outside of a mask, as it was: a video's own pixels over what a model made of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from stages.core.condition_video import iter_clip
from stages.core.fitting import fit_picture
from stages.core.media import Frames

CHANGES = 127
"""A pixel may change where its mask is brighter than this, as the pipelines that take masks see it."""


def pasted(
    pieces: Iterator[Frames], video: bytes, mask: bytes, fit: str, n_frames: int, fps: float, feather: int
) -> Iterator[Frames]:
    """Each frame [1, H, W, 3] of `pieces` [F, H, W, 3], which have `n_frames` in all at `fps`, with the video's own
    pixels where the mask is black. Video and mask are brought to the size of the pieces as `fit` says.

    feather: pixels inside the mask over which one fades to the other, 0 for none; outside nothing changes. No more than
    one piece is held. Raises BadMedia for a video or mask that is broken or lasts less, ValueError where the pieces
    have another number of frames.
    """
    theirs, changes = (iter_clip(data, n_frames, fps) for data in (video, mask))
    for made, own, where in zip(chain.from_iterable(pieces), theirs, changes, strict=True):
        shape = made.shape[1], made.shape[0], fit
        yield blend(made, fit_picture(own, *shape), fit_picture(where, *shape), feather)[None]


def blend(made: Frames, own: Frames, mask: Frames, feather: int) -> Frames:
    """One frame [H, W, 3]: `own` where the mask is black, `made` where it is white, and between them a fade that ends
    `feather` pixels inside the white."""
    import cv2

    inside = (mask.max(axis=2) > CHANGES).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share = np.minimum(depth / (feather + 1), 1)[..., None]
    mixed = own + share * (made.astype(np.float32) - own)
    return np.asarray(np.rint(mixed), dtype=np.uint8)
