"""Pictures of scenes: anti-aliased by supersampling, equal bytes for equal arguments."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.world.scene import Scene, Thing
from stages.core.errors import BadInput
from stages.core.measures.world.looks import background_luma, outline

_SUPER = 4  # samples per pixel and axis
_SHIFT = 8  # binary digits after the point of polygon corners


def render(scene: Scene, width: int, height: int, n_frames: int, fps: float, start_s: float = 0.0) -> NDArray[np.uint8]:
    """The frames of a scene from start_s on, uint8 RGB [n_frames, height, width, 3]; frame k shows start_s + k / fps.

    Raises BadInput for a size, length or rate that is not positive.
    """
    if min(width, height, n_frames) < 1 or fps <= 0:
        raise BadInput(f"cannot render {width}x{height}, {n_frames} frames at {fps} fps; all must be positive")
    luma = np.rint(background_luma(scene.background_look, width, height, scene.phase)).astype(np.uint8)
    frames = np.empty((n_frames, height, width, 3), np.uint8)
    frames[:] = luma[..., None]
    for k, frame in enumerate(frames):
        for thing in scene.things:
            _draw(frame, thing, corners_at(thing, start_s + k / fps, scene.duration_s))
    return frames


def corners_at(thing: Thing, time_s: float, duration_s: float) -> NDArray[np.float64]:
    """The outline of a thing at a time, float64 [N, 2] in short sides from the centre of the frame."""
    share = float(np.clip(time_s / duration_s, 0.0, 1.0))
    radius = (1 - share) * thing.radius[0] + share * thing.radius[1]
    centre = (1 - share) * np.array(thing.start) + share * np.array(thing.end)
    turn = np.deg2rad(thing.spin * time_s)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(outline(str(thing.attributes.shape)) @ rotation * radius + centre)


def _draw(picture: NDArray[np.uint8], thing: Thing, corners: NDArray[np.float64]) -> None:
    """Blend a thing into an RGB picture in place, within its bounding box only."""
    height, width = picture.shape[:2]
    pixels = corners * min(width, height) + np.array([width, height]) / 2
    low = np.clip(np.floor(pixels.min(axis=0)).astype(int) - 1, 0, [width, height])
    high = np.clip(np.ceil(pixels.max(axis=0)).astype(int) + 1, 0, [width, height])
    if (high <= low).any():
        return
    cover = _coverage(pixels - low, *(high - low))[..., None]
    box = picture[low[1] : high[1], low[0] : high[0]]
    box[:] = np.rint(box + cover * (np.array(thing.rgb, np.float32) - box))


def _coverage(pixels: NDArray[np.float64], width: int, height: int) -> NDArray[np.float32]:
    """The share of each pixel that a polygon covers, float32 [height, width] in 0..1."""
    mask = np.zeros((height * _SUPER, width * _SUPER), np.uint8)
    fixed = np.rint((pixels * _SUPER - 0.5) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(mask, [fixed.reshape(-1, 1, 2)], 255, shift=_SHIFT)
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) / np.float32(255))
