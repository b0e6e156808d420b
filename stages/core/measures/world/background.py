"""Naming the neutral background behind an object, frame by frame, by comparison with how each would look."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.core.measures.world.looks import background_luma
from stages.core.measures.world.object import opponent
from stages.core.measures.world.words import Look, Vocabulary

Floats = NDArray[np.float32]
SMALL_SIDE = 32  # short side at which backgrounds are compared
MAX_ERROR = 32.0  # root mean square grey levels from the best background
MAX_ERROR_RATIO = 0.65  # of the second best background's error
MAX_NOISE = 30.0  # grey levels of fine grain; white noise over the whole range has 70
MAX_ROUGHNESS = 17.0  # grey levels that a background may vary around its look, a cast aside
MAX_CHROMA = 52.0  # mean chroma that still counts as grey under a colour cast; the palest colour of the world has 110
MIN_VISIBLE = 0.3  # share of the frame that must be background
_PHASES = 24


def grain(frame: NDArray[np.uint8]) -> float:
    """The fine noise of a frame in grey levels, 0..255, from second differences of its green channel.

    Immerkaer 1996 (doi:10.1006/cviu.1996.0060), with the median instead of the mean, so that edges do not count.
    """
    green = frame[..., 1].astype(np.float32)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    return float(np.median(np.abs(cv2.filter2D(green, -1, kernel)[1:-1, 1:-1])) / 0.6745 / 6.0)


def name_background(frame: Floats, hidden: NDArray[np.bool_], vocabulary: Vocabulary) -> str | None:
    """The background of one working frame [h, w, 3], or None where none fits. hidden: [h, w], pixels to leave out."""
    if 1 - hidden.mean() < MIN_VISIBLE:
        return None
    small, weight = _shrunk(frame, ~hidden)
    if float(np.linalg.norm(opponent(small), axis=-1)[weight > 0].mean()) > MAX_CHROMA:
        return None
    fits = {word: _fit(small, weight, look) for word, look in vocabulary.backgrounds.items()}
    ranked = sorted(fits, key=lambda word: fits[word][0])
    (first, roughness), (second, _) = (fits[word] for word in ranked[:2])
    sure = first <= MAX_ERROR and first <= MAX_ERROR_RATIO * second and roughness <= MAX_ROUGHNESS
    return ranked[0] if sure else None


def _shrunk(frame: Floats, visible: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Colours and visibility at the size of comparison; hidden pixels do not bleed into their neighbours."""
    height, width = visible.shape
    scale = SMALL_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    weight = cv2.resize(visible.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(frame * visible[..., None], size, interpolation=cv2.INTER_AREA)
    return total / np.maximum(weight, 1e-3)[..., None], np.where(weight > 0.5, weight, 0.0)


def _fit(small: Floats, weight: Floats, look: Look) -> tuple[float, float]:
    """The least root mean square difference of luma from a look over its phases, and the colours' spread."""
    looks = _looks(look, *small.shape[1::-1])
    share = weight / weight.sum()
    squares = ((looks - small.mean(axis=2)) ** 2 * share).sum(axis=(1, 2))
    best = int(squares.argmin())
    rest = small - looks[best][..., None]
    rest = rest - (rest * share[..., None]).sum(axis=(0, 1))
    return float(np.sqrt(squares[best])), float(np.sqrt((rest**2 * share[..., None]).sum() / 3))


@lru_cache(maxsize=64)
def _looks(look: Look, width: int, height: int) -> Floats:
    phases = np.arange(_PHASES) / _PHASES if look.pattern == "stripes" else np.zeros(1)
    return np.stack([background_luma(look, width, height, float(p)) for p in phases])
