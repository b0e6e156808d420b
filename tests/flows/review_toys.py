"""Quick steps whose takes can be looked at: real videos and pictures of a colour that moves, and scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stages.core.media import write_jpeg, write_video
from stages.core.step import ARTIFACT, Inputs, PermanentError, Port, Rejected, Row, Step

VIDEOS: dict[tuple[int, int], bytes] = {}
"""Videos that were made in this process, by colour and length: encoding is what takes time."""
HUES, WIDTH, HEIGHT, FPS = 12, 96, 64, 12


class Film(Step):
    """A video and, if asked for, a poster. A prompt with `broken` in it fails."""

    kind = "video"
    writes = pa.schema(
        [
            *ARTIFACT,
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("n_frames", pa.int64()),
            ("fps", pa.float64()),
            ("poster_uri", pa.string()),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        frames: int = 12
        poster: bool = True

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(depends=("prompt", "seed"), draws=True)

    def process(self, row: Row) -> Row:
        if "broken" in row["prompt"]:
            raise PermanentError("this prompt is broken")
        mark = int(hashlib.sha256(f"{row['prompt']}/{row['seed']}".encode()).hexdigest()[:8], 16)
        frames = self.config.frames + row["seed"] % 3 * 4
        made = self.workspace.put(_video(mark % HUES, frames), ".mp4")
        poster = ""
        if self.config.poster:
            poster = self.workspace.put(_poster(mark % HUES), ".jpg")["uri"]
        return {
            **made,
            "width": WIDTH,
            "height": HEIGHT,
            "n_frames": frames,
            "fps": float(FPS),
            "poster_uri": poster,
        }


class Check(Step):
    """Two metrics of the seed; odd ones above 2 do not pass."""

    kind = "qc"
    writes = pa.schema([("sharpness", pa.float64()), ("flicker", pa.float64())])

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(ports={"video": Port(kind="video")}, depends=("seed",))

    def process(self, row: Row) -> Row:
        found = {"sharpness": 100.0 + row["seed"], "flicker": row["seed"] % 7 / 100}
        if row["seed"] % 2 and row["seed"] > 2:
            raise Rejected("flicker", found["flicker"], "<=", 0.02)
        return found


def _frames(hue: int, count: int) -> np.ndarray:
    pixels = np.full((count, HEIGHT, WIDTH, 3), 30, np.uint8)
    colour = 80 + np.array([hue * 61 % 170, hue * 97 % 170, hue * 29 % 170])
    for i in range(count):
        left = (i * 6) % (WIDTH - 20)
        pixels[i, 20:44, left : left + 20] = colour
    return pixels


def _video(hue: int, frames: int) -> bytes:
    if (hue, frames) not in VIDEOS:
        VIDEOS[hue, frames] = write_video(_frames(hue, frames), FPS, preset="ultrafast")
    return VIDEOS[hue, frames]


def _poster(hue: int) -> bytes:
    if (hue, 0) not in VIDEOS:
        VIDEOS[hue, 0] = write_jpeg(_frames(hue, 3)[2], 80)
    return VIDEOS[hue, 0]
