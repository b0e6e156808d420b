"""What shapes and backgrounds of the procedural world look like: drawn by the renderer, known to the judge.

Shapes are closed outlines around the origin, y pointing down, upright, of roughly the area of the unit circle, so that
no shape is easier to see than another. Their centre of mass is the origin, so that rotating one does not move it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import BadInput
from stages.core.measures.world.words import Look

Points = NDArray[np.float64]
_FINE = 16  # samples per pixel along which stripes are anti-aliased


def _regular(corners: int, radius: float) -> Points:
    angle = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _star() -> Points:
    points = _regular(10, 1.4)
    points[1::2] *= 0.5
    return points


def _cross() -> Points:
    long, half = 1.15, 0.4
    arm = np.array([[-half, -half], [-half, -long], [half, -long]])
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in np.arange(4) * np.pi / 2]
    return np.concatenate([arm @ turn.T for turn in turns])


def _square() -> Points:
    half = np.sqrt(np.pi) / 2
    return float(half) * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


_OUTLINES: dict[str, tuple[Callable[[], Points], int]] = {
    "circle": (lambda: _regular(180, 1.0), 0),
    "square": (_square, 4),
    "triangle": (lambda: _regular(3, 1.4), 3),
    "star": (_star, 5),
    "cross": (_cross, 4),
}


@cache
def outline(shape: str) -> Points:
    """The upright outline of a shape, float64 [N, 2] of (x, y). Raises BadInput for a shape that cannot be drawn."""
    if shape not in _OUTLINES:
        raise BadInput(f"no outline is known for the shape '{shape}'; the world can draw {', '.join(_OUTLINES)}")
    return _OUTLINES[shape][0]()


def symmetry(shape: str) -> int:
    """How often a full turn brings the shape onto itself; 0 for a circle, which always looks the same."""
    outline(shape)
    return _OUTLINES[shape][1]


def reach(shape: str) -> float:
    """The largest distance of the outline from its centre, in radii of the circle of its size."""
    return float(np.linalg.norm(outline(shape), axis=1).max())


def background_luma(look: Look, width: int, height: int, phase: float = 0.0) -> NDArray[np.float32]:
    """The grey levels of a background, float32 [height, width] in 0..255. phase in [0, 1) shifts stripes by periods."""
    if look.pattern == "gradient":
        column = look.low + (look.high - look.low) * (np.arange(height) + 0.5) / height
        return np.repeat(column[:, None], width, axis=1).astype(np.float32)
    if look.pattern == "stripes":
        fine = (np.arange(width * _FINE) + 0.5) / _FINE
        on = (fine * look.periods / min(width, height) + phase) % 1.0 < 0.5
        share = on.reshape(width, _FINE).mean(axis=1)
        return np.repeat((look.low + (look.high - look.low) * share)[None], height, axis=0).astype(np.float32)
    return np.full((height, width), look.low, np.float32)
