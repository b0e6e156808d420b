"""Defects of known strength, made on any clip: uint8 RGB frames [F, H, W, 3]. What QC has to find."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stages.core.measures.constancy import lab_of

Frames = npt.NDArray[np.uint8]


def flicker(frames: Frames, share: float, rng: np.random.Generator) -> Frames:
    """The light of each frame is off by up to this share, drawn anew for each: 0.04 is 4 %."""
    gains = 1 + rng.uniform(-share, share, len(frames))
    return np.stack([_as_bytes(f * np.float32(g)) for f, g in zip(frames, gains, strict=True)])


def freeze(frames: Frames, share: float, rng: np.random.Generator) -> Frames:
    """This share of the frames stands still, in one stretch somewhere; then the clip goes on where it would be."""
    count = round(share * len(frames))
    start = int(rng.integers(1, max(2, len(frames) - count)))
    made = frames.copy()
    made[start : start + count] = frames[start - 1]
    return made


def double(frames: Frames, every: int, rng: np.random.Generator) -> Frames:
    """Every so many frames one is replaced by the one before it."""
    made, first = frames.copy(), int(rng.integers(1, every + 1))
    made[first::every] = frames[first - 1 : -1 : every][: len(made[first::every])]
    return made


def blur(frames: Frames, sigma: float, rng: np.random.Generator) -> Frames:
    """A Gaussian of this sigma, in pixels of a picture whose longer side is 512."""
    scaled = sigma * max(frames.shape[1:3]) / 512
    return np.stack([cv2.GaussianBlur(f, (0, 0), scaled) for f in frames])


def cut_to(frames: Frames, other: Frames, share: float, rng: np.random.Generator) -> Frames:
    """Another clip takes over for this last share of the frames."""
    count = round(share * len(frames))
    height, width = frames.shape[1:3]
    tail = [cv2.resize(other[i % len(other)], (width, height), interpolation=cv2.INTER_AREA) for i in range(count)]
    return np.concatenate([frames[: len(frames) - count], np.stack(tail)])


def drift(frames: Frames, delta_e: float, rng: np.random.Generator) -> Frames:
    """Colours move by so much (CIE76) from the first frame to the last, all in one direction of L*a*b*.

    The direction is drawn from those in which the clip's colours have room: white cannot get lighter, nor black redder.
    """
    away = np.eye(3)[rng.permutation(3)]
    ways = [sign * way for way in away for sign in rng.permutation([-1.0, 1.0])]
    reached = [(_reached(frames[-1], delta_e * way), i) for i, way in enumerate(ways)]
    first = next((i for distance, i in reached if distance >= 0.9 * delta_e), max(reached)[1])
    shares = np.linspace(0, 1, len(frames))
    return np.stack([_moved(f, delta_e * share * ways[first]) for f, share in zip(frames, shares, strict=True)])


def _reached(frame: Frames, step: npt.NDArray[np.float64]) -> float:
    """How far the colours of a frame really get, as the median over its pixels that are neither black nor white."""
    off = np.linalg.norm(lab_of(_moved(frame, step).astype(np.float32)) - lab_of(frame.astype(np.float32)), axis=2)
    graded = (frame.max(axis=2) > 12) & (frame.min(axis=2) < 243)
    return float(np.median(off[graded] if graded.mean() > 0.02 else off))


def _moved(frame: Frames, step: npt.NDArray[np.float64]) -> Frames:
    lab = lab_of(frame.astype(np.float32)) + step.astype(np.float32)
    return _as_bytes(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * np.float32(255))


def _as_bytes(picture: npt.NDArray[np.floating]) -> Frames:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
