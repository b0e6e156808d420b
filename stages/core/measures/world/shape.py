"""Naming shapes and colours, and reading how far a shape is turned: comparison with drawn templates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.core.measures.world.looks import outline, symmetry
from stages.core.measures.world.object import PATCH, PATCH_HALF, Sighting, opponent
from stages.core.measures.world.words import Vocabulary

Floats = NDArray[np.float32]
_TURN_STEP = 5.0  # degrees between templates
_BLURS = (0.02, 0.08, 0.15)  # of the square root of the area
MIN_OBJECT = 0.85  # correlation with any template below which a patch is no object at all
MIN_LIKENESS = 0.92  # correlation with the best template for a name
MIN_LEAD = 0.008  # over the second shape's best
MAX_HUE_ERROR = 22.0  # degrees in the opponent plane
MAX_HUE_RATIO = 0.7  # of the second nearest colour's error
MAX_RGB_ERROR = 110.0  # Euclidean, of 255


def shape_scores(patches: Floats, shapes: tuple[str, ...]) -> Floats:
    """The best correlation, -1..1, of mattes [N, PATCH, PATCH] with each shape over turns and blurs: [N, shapes]."""
    flat = patches.reshape(len(patches), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return np.stack([(flat @ templates(s).T).max(axis=1) for s in shapes], axis=1)


@cache
def templates(shape: str) -> Floats:
    """Mattes of a shape at every turn and blur, zero mean and unit norm, [N, PATCH * PATCH]."""
    order = symmetry(shape)
    turns = np.arange(0, 360 / order, _TURN_STEP) if order else np.zeros(1)
    drawn = np.stack([_draw(shape, turn, blur) for turn in turns for blur in _BLURS]).reshape(-1, PATCH * PATCH)
    drawn -= drawn.mean(axis=1, keepdims=True)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def _draw(shape: str, turn: float, blur: float) -> Floats:
    fine = PATCH * 8
    points = outline(shape)
    after = np.roll(points, -1, axis=0)
    area = abs(float((points[:, 0] * after[:, 1] - points[:, 1] * after[:, 0]).sum())) / 2
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    pixels = (points @ rotation / np.sqrt(area) / PATCH_HALF + 1) / 2 * fine - 0.5
    mask = np.zeros((fine, fine), np.float32)
    cv2.fillPoly(mask, [np.rint(pixels * 256).astype(np.int32).reshape(-1, 1, 2)], 1.0, shift=8)
    mask = cv2.GaussianBlur(mask, (0, 0), blur / PATCH_HALF / 2 * fine)
    return np.asarray(cv2.resize(mask, (PATCH, PATCH), interpolation=cv2.INTER_AREA))


def name_shape(scores: Floats, shapes: tuple[str, ...]) -> str | None:
    """The shape that scores [N, shapes] of several frames agree on, or None where they are poor, close or at odds."""
    if not len(scores):
        return None
    mean = scores.mean(axis=0)
    order = np.argsort(-mean)
    agree = float((scores.argmax(axis=1) == order[0]).mean())
    lead = mean[order[0]] - mean[order[1]] if len(order) > 1 else 1.0
    sure = mean[order[0]] >= MIN_LIKENESS and lead >= MIN_LEAD and agree >= 0.6
    return shapes[int(order[0])] if sure else None


def turned(patches: Floats, shape: str) -> NDArray[np.float64]:
    """The orientation of each matte [N, PATCH, PATCH] in degrees, unwrapped over N; nan for a shape without one.

    The phase of the moment of the shape's own symmetry; steps of half a symmetry period or more cannot be told.
    """
    order = symmetry(shape)
    if order == 0:
        return np.full(len(patches), np.nan)
    axis = (np.arange(PATCH) + 0.5) / PATCH * 2 - 1
    z = axis[None] + 1j * axis[:, None]
    moments = (patches * z**order).sum(axis=(1, 2))
    return np.asarray(np.rad2deg(np.unwrap(np.angle(moments))) / order)


def name_colour(rgbs: Floats, chromas: Floats, vocabulary: Vocabulary) -> str | None:
    """The colour word for the median of several frames' inner colours [N, 3] and chromas [N, 2], or None.

    Hue decides: blur, haze and an additive cast leave the direction of chroma against the background as it is.
    """
    if not len(rgbs):
        return None
    words = list(vocabulary.colours)
    palette = np.array([vocabulary.colours[w] for w in words], np.float32)
    errors = _hue_errors(np.median(chromas, axis=0), opponent(palette))
    order = np.argsort(errors)
    first, second = errors[order[0]], errors[order[1]] if len(order) > 1 else 180.0
    far = float(np.linalg.norm(np.median(rgbs, axis=0) - palette[order[0]]))
    sure = first <= MAX_HUE_ERROR and first <= MAX_HUE_RATIO * second and far <= MAX_RGB_ERROR
    return words[int(order[0])] if sure else None


def _hue_errors(chroma: Floats, palette: Floats) -> Floats:
    """Angles between a chroma [2] and each of a palette's [N, 2], in degrees."""
    cosine = palette @ chroma / np.maximum(np.linalg.norm(palette, axis=1) * np.linalg.norm(chroma), 1e-6)
    return np.asarray(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))


def steady_colour(seen: Sequence[Sighting], vocabulary: Vocabulary) -> str | None:
    """The colour of an object over several frames, None where single frames do not agree."""
    chromas = np.array([s.chroma for s in seen], np.float32).reshape(-1, 2)
    rgbs = np.array([s.rgb for s in seen], np.float32).reshape(-1, 3)
    word = name_colour(rgbs, chromas, vocabulary)
    alone = [name_colour(rgbs[i : i + 1], chromas[i : i + 1], vocabulary) for i in range(len(seen))]
    return word if word is not None and alone.count(word) >= 0.6 * len(seen) else None
