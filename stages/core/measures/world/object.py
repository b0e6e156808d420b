"""Finding the coloured object in a frame before a neutral background: classical, no learning.

Chroma is measured in two opponent channels that are linear in the pixel values and zero for grey. Along an anti-aliased
or blurred edge it falls linearly with coverage, so dividing by the object's own chroma gives its matte, whatever the
background's pattern; and what is added to all pixels alike (a colour cast) cancels against the border of the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WORKING_SIDE = 128  # short side at which frames are judged
PATCH = 32  # pixels of a normalised matte
PATCH_HALF = 1.2  # half its width, in square roots of the object's area
MIN_CHROMA = 35.0  # of 255; the palest colour of the world has 110
FAINT_CHROMA = 12.0  # not counted against an object
MAX_CAST = 45.0  # chroma of a background that is grey under a cast; more is a coloured background
MIN_AREA, MAX_AREA = 0.008, 0.45  # of the frame's short side squared
MAX_UNEXPLAINED = 0.15  # share of chroma energy that the objects leave over


@dataclass(frozen=True)
class Sighting:
    """The object in one frame. Lengths in short sides from the frame's top left corner, area in short sides squared."""

    rgb: Floats  # [3], 0..255, of the object's inner part
    chroma: Floats  # [2], opponent channels, against the background's where that is only a cast
    x: float
    y: float
    area: float
    patch: Floats  # [PATCH, PATCH] matte 0..1, centred and scaled by area
    clipped: bool  # touches the frame's border
    others: int  # further objects of comparable size
    region: NDArray[np.bool_]  # [h, w] everything coloured, generously


def working_frames(frames: NDArray[np.uint8]) -> Floats:
    """Frames at the size they are judged at, float32 [F, h, w, 3] in 0..255."""
    height, width = frames.shape[1:3]
    scale = WORKING_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.stack([cv2.resize(f, size, interpolation=method) for f in frames]).astype(np.float32)


def opponent(rgb: Floats) -> Floats:
    """Chroma of RGB [..., 3]: red minus green, and yellow minus blue, [..., 2] in -255..255."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.stack([red - green, (red + green) / 2 - blue], axis=-1)


def find_object(frame: Floats, previous: Sighting | None) -> Sighting | None:
    """The object of one working frame, or None where no compact patch of one colour stands out.

    Of several, the one nearest to the previous sighting's place and chroma, or the largest. frame: [h, w, 3] in 0..255.
    """
    chroma = opponent(cv2.GaussianBlur(frame, (0, 0), 1.0))
    border = border_median(chroma)
    chroma = chroma - border
    base = border if np.linalg.norm(border) > MAX_CAST else np.zeros_like(border)
    strength = np.linalg.norm(chroma, axis=-1)
    peak = float(np.percentile(strength, 99))
    if peak < MIN_CHROMA:
        return None
    labels, candidates = _components(strength > max(0.45 * peak, 0.7 * MIN_CHROMA))
    if not candidates:
        return None
    seen = [_sighting(frame, chroma, base, labels, i, len(candidates) - 1) for i in candidates]
    if _unexplained(chroma, labels, candidates) > MAX_UNEXPLAINED:
        return None
    return _follow([s for s in seen if s is not None], previous)


def border_median(values: Floats) -> Floats:
    """The median over the outer sixteenth of a picture [h, w, C], [C]: what the background is like."""
    edge = max(1, min(values.shape[:2]) // 16)
    strips = (values[:edge], values[-edge:], values[:, :edge], values[:, -edge:])
    pixels = np.concatenate([s.reshape(-1, values.shape[-1]) for s in strips])
    return np.asarray(np.median(pixels, axis=0), np.float32)


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], list[int]]:
    """Connected regions, and the labels of those that are at least 0.3 of the largest and not too small or large."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = stats[:, cv2.CC_STAT_AREA] / min(mask.shape) ** 2
    order = sorted(range(1, count), key=lambda i: -areas[i])
    kept = [i for i in order if areas[i] >= max(0.3 * areas[order[0]], MIN_AREA)]
    return labels, kept if kept and areas[kept[0]] <= MAX_AREA and len(kept) <= 3 else []


def _sighting(
    frame: Floats, chroma: Floats, base: Floats, labels: NDArray[np.int32], label: int, others: int
) -> Sighting | None:
    inside = (labels == label).astype(np.uint8)
    around = cv2.dilate(inside, np.ones((9, 9), np.uint8)).astype(bool) & ((labels == label) | (labels == 0))
    own, core = _own_chroma(chroma, inside)
    matte = _matte(chroma, own) * around
    side = min(matte.shape)
    mass = float(matte.sum())
    if not MIN_AREA <= mass / side**2 <= MAX_AREA:
        return None
    ys, xs = np.mgrid[: matte.shape[0], : matte.shape[1]]
    x, y = float((matte * xs).sum() / mass), float((matte * ys).sum() / mass)
    return Sighting(
        rgb=np.median(frame[core], axis=0),
        chroma=own + base,
        x=x / side,
        y=y / side,
        area=mass / side**2,
        patch=_normalised(matte, x, y, mass),
        clipped=_touches_border(inside),
        others=others,
        region=cv2.dilate((labels > 0).astype(np.uint8), np.ones((13, 13), np.uint8)).astype(bool),
    )


def _own_chroma(chroma: Floats, inside: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.bool_]]:
    """The chroma of the object's inner half, and where that is: away from edges that the background shines through."""
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    core = depth >= np.median(depth[inside > 0])
    return np.median(chroma[core], axis=0), core


def _matte(chroma: Floats, own: Floats) -> Floats:
    share = chroma @ own / float(own @ own)
    return np.clip(np.where(share < 0.1, 0.0, share), 0.0, 1.0).astype(np.float32)


def _unexplained(chroma: Floats, labels: NDArray[np.int32], candidates: Sequence[int]) -> float:
    """The share of the frame's chroma energy left when each object's one colour times its matte is taken away."""
    rest = chroma.copy()
    for label in candidates:
        inside = (labels == label).astype(np.uint8)
        own, _ = _own_chroma(chroma, inside)
        near = cv2.dilate(inside, np.ones((9, 9), np.uint8)).astype(bool)
        rest[near] -= _matte(chroma[near], own)[:, None] * own
    return _energy(rest) / max(_energy(chroma), 1e-6)


def _energy(chroma: Floats) -> float:
    """The sum of squared chroma above what noise and a cast on a pattern leave anywhere."""
    return float((np.maximum(np.linalg.norm(chroma, axis=-1) - FAINT_CHROMA, 0.0) ** 2).sum())


def _normalised(matte: Floats, x: float, y: float, mass: float) -> Floats:
    """The matte cut out around its centre and scaled so that every object has the same area."""
    scale = 2 * PATCH_HALF * np.sqrt(mass) / PATCH
    corner = (PATCH - 1) / 2 * scale
    to_frame = np.array([[scale, 0, x - corner], [0, scale, y - corner]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(matte, to_frame, (PATCH, PATCH), flags=flags, borderValue=0.0))


def _touches_border(inside: NDArray[np.uint8]) -> bool:
    return bool(inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any())


def _follow(seen: list[Sighting], previous: Sighting | None) -> Sighting | None:
    if not seen or previous is None:
        return seen[0] if seen else None
    last = previous
    return min(seen, key=lambda s: np.hypot(s.x - last.x, s.y - last.y) + np.linalg.norm(s.chroma - last.chroma) / 300)
