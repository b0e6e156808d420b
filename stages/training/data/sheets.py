"""Contact sheets: clips as rows of frames in one PNG."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from stages.training.data.batches import Frames

COLUMNS, HEIGHT = 8, 96


def write_sheet(clips: list[Frames], path: Path, columns: int = COLUMNS) -> Path:
    """Write a PNG with a row for each clip [F, H, W, 3] uint8 RGB: frames evenly spread over it, 96 pixels high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = np.concatenate([_row(clip, columns) for clip in clips])
    building = path.with_name(f".{os.getpid()}-{path.name}")
    cv2.imwrite(str(building), sheet[..., ::-1])
    os.replace(building, path)
    return path


def _row(clip: Frames, columns: int) -> Frames:
    picked = clip[np.linspace(0, len(clip) - 1, columns).round().astype(int)]
    width = round(HEIGHT * clip.shape[2] / clip.shape[1])
    small = [cv2.resize(frame, (width, HEIGHT), interpolation=cv2.INTER_AREA) for frame in picked]
    framed = [np.pad(np.asarray(f), ((1, 1), (1, 1), (0, 0)), constant_values=255) for f in small]
    return np.concatenate(framed, axis=1).astype(np.uint8)
