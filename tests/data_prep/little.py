"""Little videos for tests: a few shots of moving texture, a fraction of a second to make and to decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np


def texture(seed: int, width: int = 320, height: int = 180) -> np.ndarray:
    """A coloured picture [h, w, 3] with large and small detail, another one for every seed."""
    random = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (3, 14, 40):
        noise = random.uniform(0, 1, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        sharp = cv2.INTER_NEAREST if cells == 14 else cv2.INTER_CUBIC
        picture += cv2.resize(noise, (width, height), interpolation=sharp)
    return np.uint8(np.clip((picture / 3 - 0.5) * 400 + 128, 0, 255))


def shot(seed: int, frames: int = 30, speed: float = 2.0, width: int = 224, height: int = 128) -> list[np.ndarray]:
    """A camera that pans over a texture by `speed` pixels a frame."""
    wide = texture(seed, width * 2, height)
    return [wide[:, round(i * speed) % width :][:, :width].copy() for i in range(frames)]


def write(
    path: Path,
    frames: list[np.ndarray],
    fps: int = 15,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    **options: Any,
) -> Path:
    """Write RGB frames [h, w, 3] as a video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={k: str(v) for k, v in options.items()})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def video(path: Path, seeds: tuple[int, ...] = (1,), frames: int = 30, **options: Any) -> Path:
    """A video of some shots joined by hard cuts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, [f for seed in seeds for f in shot(seed, frames)], **options)
